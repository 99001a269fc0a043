"""What `eeasr transcribe` does with bad input: every row of bad_recordings.txt; docs/transcribe.md shows some."""

import contextlib
import ctypes
import json
import os
import re
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from talkative import audio_folder, dev, model, model_folder, wavs

from eeasr_modules.cli import main
from eeasr_modules.runtime.engine import Engine

__all__ = ["audio_folder", "dev", "model", "model_folder", "wavs"]

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TABLE = re.compile(r"^\| (?P<what>[^|]+) \| (?P<said>[^|]+) \| (?P<status>\d) \|$", re.M)
N_FILES, BROKEN = 10_000, (17, 1234, 5000, 7777, 9999)
LIMIT_BYTES = 800  # of the file on the full disk


# Case, what is said (`…` stands for anything), exit status.
with open(os.path.join(os.path.dirname(__file__), "bad_recordings.txt"), encoding="utf-8") as file:
    ROWS = [(row["what"], row["said"], int(row["status"])) for row in TABLE.finditer(file.read())]


def noise(seconds=0.5, rate=16000, channels=1):
    return 0.1 * np.random.default_rng(0).standard_normal((int(seconds * rate), channels))


def sound(name, rate, channels=1, subtype=None, kind=None, seconds=0.5):
    """A case: a recording of that format, beside the two good ones."""

    def make(folder, **_):
        soundfile.write(folder / name, noise(seconds, rate, channels), rate, subtype=subtype, format=kind)
        return [folder / name]

    return make


def samples(values):
    def make(folder, **_):
        soundfile.write(folder / "odd.wav", values, 16000, subtype="FLOAT")
        return [folder / "odd.wav"]

    return make


def content(name, data):
    def make(folder, **_):
        (folder / name).write_bytes(data)
        return [folder / name]

    return make


def cut_flac(folder, **_):
    soundfile.write(folder / "whole.flac", noise(5), 16000)
    (folder / "cut.flac").write_bytes((folder / "whole.flac").read_bytes()[:20000])
    return [folder / "cut.flac"]


def listed(folder, **_):
    (folder / "list.txt").write_text("nowhere.wav\n")
    return [folder / "list.txt"]


def unreadable(folder, **_):
    soundfile.write(folder / "secret.wav", noise(), 16000)
    (folder / "secret.wav").chmod(0)
    return [folder / "secret.wav"]


def m4a(folder, **_):
    av = pytest.importorskip("av")
    tone = (0.3 * np.sin(np.arange(44100) / 16)).astype(np.float32)
    with av.open(str(folder / "a.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        for begin in range(0, len(tone) - 1024, 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, begin : begin + 1024], format="fltp", layout="mono")
            frame.sample_rate = 44100
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return [folder / "a.m4a"]


def failing(err):
    """A case: a good recording with which recognition fails, alone and in a batch."""

    def make(folder, *, monkeypatch, **_):
        soundfile.write(folder / "a.wav", noise(0.777), 16000)
        stock = Engine.run

        def run(self, wavs, n_samples, **options):
            if int(0.777 * 16000) in n_samples.tolist():
                raise err
            return stock(self, wavs, n_samples, **options)

        monkeypatch.setattr(Engine, "run", run)
        return [folder / "a.wav"]

    return make


def m4a_without_av(folder, *, monkeypatch, **_):
    monkeypatch.setitem(sys.modules, "av", None)
    (folder / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    return [folder / "a.m4a"]


def spoiled(file, change, *, without=()):
    """A case: a copy of the model folder in which `change` replaces the bytes of a file (None: it goes)."""

    def make(folder, *, model_folder, **_):
        copy = shutil.copytree(model_folder, folder / "model")
        for name in without:
            (copy / name).unlink()
        before = (copy / file).read_bytes()
        (copy / file).unlink() if change is None else (copy / file).write_bytes(change(before))
        return {"model": copy}

    return make


def wider(config):
    settings = json.loads(config)
    settings["encoder"]["dim"] = 32
    return json.dumps(settings).encode()


def options(*more):
    return lambda folder, **_: {"more": more}


def empty_folder(folder, **_):
    (folder / "empty").mkdir()
    return {"inputs": [folder / "empty"]}


def not_there(folder, **_):
    return {"inputs": [folder / "none"]}


def of_another_policy(folder, *, model_folder, good, **_):
    assert main(["transcribe", str(model_folder), str(good[0]), "--policy", "static(1)", "-o", f"{folder}/o.csv"]) == 0
    return {"output": folder / "o.csv"}


def read_only(name):
    def make(folder, **_):
        (folder / "locked").mkdir()
        (folder / "locked").chmod(0o555)
        return {"output": folder / "locked" / name, "more": () if "." in name else ("--format", "srt")}

    return make


def limited(n_bytes, stack):
    """No file may grow beyond, until `stack` is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))


def full_disk(folder, *, stack, audio_folder, **_):
    limited(LIMIT_BYTES, stack)
    return sorted(audio_folder.glob("*.wav"))


def full_disk_of_subtitles(folder, *, stack, **_):
    limited(10, stack)
    return {"output": folder / "subtitles", "more": ("--format", "srt")}


# what -> a function that makes it in a folder and gives the recordings, or what else the command is given
CASES = {
    "text in a `.wav`": content("text.wav", b"this is not audio"),
    "an empty file": content("empty.wav", b""),
    "a header and no samples": samples(np.zeros(0)),
    "samples that are NaN or infinite": samples(np.array([0.1] * 500 + [np.nan])),
    "shorter than one frame, 25 ms": samples(np.full(399, 0.1)),
    "a flac that is cut off": cut_flac,
    "a header that says 2,000,000,000 Hz": sound("a.wav", 2_000_000_000, seconds=2e-5),
    "a header that says 999,983 Hz": sound("a.wav", 999_983),
    "a header that says 1 Hz": sound("a.wav", 1, seconds=16000),
    "a recording for which memory does not suffice": failing(MemoryError()),
    "an error that nobody has foreseen": failing(RuntimeError("a layer\nbroke")),
    "a path in a list that is not there": listed,
    "a file without permission to read": unreadable,
    "m4a without the package av": m4a_without_av,
    "clipped samples": samples(np.clip(20 * noise()[:, 0], -1, 1)),
    "silence": samples(np.zeros(8000)),
    "8 kHz": sound("a.wav", 8000),
    "11,127 Hz": sound("a.wav", 11127),
    "44,101 Hz": sound("a.wav", 44101),
    "48 kHz, stereo, 24 bit": sound("a.wav", 48000, 2, "PCM_24"),
    "mp3": sound("a.mp3", 44100),
    "ogg": sound("a.ogg", 16000, 1, "VORBIS"),
    "opus": sound("a.opus", 48000, 1, "OPUS", "OGG"),
    "NIST sph": sound("a.sph", 16000, 1, "PCM_16", "NIST"),
    "m4a with the package av": m4a,
    "a missing model file": spoiled("model.safetensors", None),
    "weights that are cut off": spoiled("model.safetensors", lambda old: old[:3000], without=["policy.json"]),
    "weights of another shape": spoiled("config.json", wider, without=["policy.json"]),
    "a policy that was not calibrated for this model": options("--policy", "confidence"),
    "a `policy.json` of other weights": spoiled("config.json", lambda old: old + b"\n"),
    "a budget below every threshold": options("--budget", "0.001"),
    "an argument that is not there": not_there,
    "a folder without recordings": empty_folder,
    "an output of another policy": of_another_policy,
    "an output folder that is read-only": read_only("out.txt"),
    "a folder of subtitles that is read-only": read_only("subtitles"),
    "a full disk": full_disk,
    "a full disk under subtitles": full_disk_of_subtitles,
}


def test_every_case_has_its_row():
    assert [what for what, _, _ in ROWS] == [*CASES]


@contextlib.contextmanager
def without_power_over_permissions():
    """Permissions count, also for root: without the capabilities that overlook them, in this thread, for a while."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, before = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert not libc.capget(header, before)
    fewer = (ctypes.c_uint32 * 6)(*before)
    fewer[0] &= ~0b110  # effective: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert not libc.capset(header, fewer)
    try:
        yield
    finally:
        assert not libc.capset(header, before)


def pattern(said):
    """The text between back ticks, with `…` for anything; None where nothing is said."""
    quoted = re.match(r"`([^`]+)`", said)
    return None if quoted is None else ".+".join(re.escape(part) for part in quoted[1].split("…"))


@pytest.mark.parametrize(("what", "said", "status"), ROWS, ids=[row[0] for row in ROWS])
def test_what_is_said_and_the_status_are_those_of_the_table(
    what, said, status, model_folder, audio_folder, tmp_path, capsys, caplog, monkeypatch
):
    good = [audio_folder / "u0.wav", audio_folder / "u1.wav"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(without_power_over_permissions())
        made = CASES[what](
            tmp_path,
            model_folder=model_folder,
            audio_folder=audio_folder,
            good=good,
            monkeypatch=monkeypatch,
            stack=stack,
        )
        odd, given = (made, {}) if isinstance(made, list) else ([], made)
        capsys.readouterr()
        out = given.get("output", tmp_path / "out.jsonl")
        arguments = [given.get("model", model_folder), *given.get("inputs", [good[0], *odd, good[1]])]
        returned = main(["transcribe", *map(str, [*arguments, *given.get("more", ()), "-o", out])])
    err = capsys.readouterr().err
    assert returned == status and "Traceback" not in err
    expected = pattern(said)
    if expected is not None:
        assert re.search(expected, err + caplog.text), err
    if status == 2:
        assert err.count("\n") == 1 and err.startswith("eeasr: error: ")
        return
    found = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    errors = [line["error"] for line in found if line["error"]]
    assert len(found) == 3 and len(errors) == status
    if status == 1:
        assert re.fullmatch(expected, errors[0]) and errors[0] in err
    elif expected is not None:
        (warnings,) = [line["warnings"] for line in found if line["audio"] == str(odd[0])]
        assert warnings and f"'{odd[0]}' is {warnings[0]}" in caplog.text


def test_on_a_full_disk_whole_lines_stay_and_the_same_command_goes_on(model_folder, audio_folder, tmp_path, capsys):
    command = ["transcribe", str(model_folder), str(audio_folder), "-o", str(tmp_path / "out.jsonl")]
    with contextlib.ExitStack() as stack:
        full_disk(tmp_path, stack=stack, audio_folder=audio_folder)
        assert main(command) == 2
    before = (tmp_path / "out.jsonl").read_text("utf-8")
    assert before.endswith("\n") and 0 < before.count("\n") < 6
    assert main(command) == 0
    after = (tmp_path / "out.jsonl").read_text("utf-8")
    assert after.startswith(before) and f"{before.count(chr(10))} done before" in capsys.readouterr().err
    assert len({json.loads(line)["audio"] for line in after.splitlines()}) == after.count("\n") == 6


def _peak_mb(command):
    """Status, standard error and peak memory of a command."""
    with open(command[-1] + ".err", "w+b") as err:
        process = subprocess.Popen(command, stderr=err, stdout=subprocess.DEVNULL, cwd=ROOT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        return process.returncode, err.read().decode(), used.ru_maxrss / 1024


@pytest.mark.slow
def test_of_ten_thousand_recordings_five_are_broken_and_memory_does_not_grow(model_folder, audio_folder, tmp_path):
    for count in (N_FILES // 10, N_FILES):
        folder = tmp_path / str(count)
        folder.mkdir()
        soundfile.write(folder / "00000.wav", noise(0.3), 16000)
        for i in range(1, count):
            if i in BROKEN:
                (folder / f"{i:05d}.wav").write_bytes(b"broken")
            else:
                os.link(folder / "00000.wav", folder / f"{i:05d}.wav")
    command = [sys.executable, "-m", "eeasr_modules.cli", "transcribe", str(model_folder), "--policy", "static(1)"]
    command += ["--quiet"]
    small, large = tmp_path / "small.jsonl", tmp_path / "large.jsonl"
    _, _, peak_of_few = _peak_mb([*command, str(tmp_path / str(N_FILES // 10)), "-o", str(small)])
    status, err, peak = _peak_mb([*command, str(tmp_path / str(N_FILES)), "-o", str(large)])
    assert status == 1 and "9995 recordings" in err and "5 could not be transcribed" in err
    found = [json.loads(line) for line in large.read_text("utf-8").splitlines()]
    assert sorted(line["audio"] for line in found) == [f"{tmp_path}/{N_FILES}/{i:05d}.wav" for i in range(N_FILES)]
    failed = {line["audio"][-9:-4]: line["error"] for line in found if line["error"]}
    assert [*failed] == [f"{i:05d}" for i in BROKEN]
    assert all("is not audio that can be read" in reason for reason in failed.values())
    assert peak < peak_of_few + 100  # ten times the recordings; their paths are a few MB


HOSTILE = (2_000_000_000, 999_983, 383_999, 200_003, 44_101, 11_127, 4_001, 1)  # Hz that headers say


@pytest.mark.slow
def test_no_sample_rate_that_a_header_says_takes_much_memory(model_folder, tmp_path):
    usual, odd = tmp_path / "usual", tmp_path / "odd"
    for folder, rates in ((usual, (44_100,)), (odd, (44_100, *HOSTILE))):
        folder.mkdir()
        for rate in rates:
            soundfile.write(folder / f"{rate}.wav", noise(2_000_000 / rate, rate)[:2_000_000], rate, subtype="PCM_16")
    command = [sys.executable, "-m", "eeasr_modules.cli", "transcribe", str(model_folder), "--quiet"]
    command += ["--policy", "static(1)"]
    status, err, peak_of_usual = _peak_mb([*command, str(usual), "-o", str(tmp_path / "usual.jsonl")])
    assert status == 0, err
    status, err, peak = _peak_mb([*command, str(odd), "-o", str(tmp_path / "odd.jsonl")])
    found = [json.loads(line) for line in (tmp_path / "odd.jsonl").read_text("utf-8").splitlines()]
    refused = sorted(int(os.path.basename(one["audio"])[:-4]) for one in found if one["error"])
    assert status == 1 and len(found) == 1 + len(HOSTILE) and refused == [1, 999_983, 2_000_000_000]
    assert err.count("\n") == 4 and peak < peak_of_usual + 200, err  # three sentences and the summary
