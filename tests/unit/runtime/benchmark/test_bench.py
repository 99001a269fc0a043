"""`eeasr benchmark`: every way does what its name says, and the numbers are those of what it did."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_checkpoint import SHAPE, save_checkpoint

from eeasr_modules.cli import main
from eeasr_modules.data.audio import AudioReader
from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.exits import parse_policy, replay
from eeasr_modules.exits.measure.edits import count_edits
from eeasr_modules.exits.policies.rules import Static
from eeasr_modules.models import MultiExit, Walk
from eeasr_modules.runtime import EarlyExitASR, Engine
from eeasr_modules.runtime.benchmark.bench import (
    _peak_memory,
    bench_policies,
    benchmark_csv,
    benchmark_markdown,
    compared,
    run_benchmark,
    write_benchmark,
)
from eeasr_modules.runtime.benchmark.ways import Stock, all_ways, averages, with_policy
from eeasr_modules.runtime.files.inputs import Material, noise, read_material

SEED = 11  # of the exit tables in conftest
POLICIES = {  # and the signal whose median they stop at
    "random(0.4)": None,
    "patience(1, {})": "char_change",
    "similarity({})": "cosine",
    "between(2, 3, patience_ce(1, {}))": "cross_entropy",
    "static(2)": None,
}


@pytest.fixture(scope="module")
def engine(model):
    return Engine(model, CharVocabulary(), policy=Static(5), seed=SEED)


def run(way, wavs):
    padded = torch.nn.utils.rnn.pad_sequence(list(wavs), batch_first=True)
    return way.run(padded, torch.tensor([len(wav) for wav in wavs]), [f"u{i}" for i in range(len(wavs))])


def named(ways, name, policy=""):
    (found,) = [way for way in ways if way.name == name and way.policy == policy]
    return found


@pytest.mark.parametrize("text", POLICIES)
def test_picking_afterwards_picks_what_leaving_live_gives_and_runs_all_layers(engine, wavs, table, text):
    if signal := POLICIES[text]:
        text = text.format(round(float(np.median(table.signals[signal][:9, 1:3])), 3))
    policy = parse_policy(text)
    ways, text = all_ways(engine, [policy]), str(policy)
    ours = run(named(ways, "ours", text), wavs[:9])
    picked = run(named(ways, "all layers, then pick", text), wavs[:9])
    assert [(one.text, one.exit_layer) for one in ours] == [(one.text, one.exit_layer) for one in picked]
    assert {one.layers_run for one in picked} == {5}
    assert all(one.layers_run == one.exit_layer for one in ours)
    assert min(one.exit_layer for one in ours) < 5


def test_a_model_cut_off_says_what_the_engine_says_there(engine, wavs):
    ways = all_ways(engine, [])
    for layer in (1, 2, 3):
        cut = run(named(ways, f"cut off at layer {layer}"), wavs[:5])
        ours = run(all_ways(engine, [Static(layer)])[-3], wavs[:5])
        assert [one.text for one in cut] == [one.text for one in ours]
        assert {(one.exit_layer, one.layers_run) for one in cut} == {(layer, layer)}


def test_a_batch_breaks_where_its_mean_signal_does(engine, wavs, table):
    values = table.signals["entropy"][:6]
    threshold = float(np.sort(values.mean(axis=0))[:2].mean())  # two of the batch's means lie on either side
    policy = parse_policy(f"entropy({threshold})")
    (way,) = [way for way in all_ways(engine, [policy]) if way.name == "whole-batch break"]
    means = values.mean(axis=0)
    expected = next((k for k in range(3) if means[k] <= threshold), 3)
    assert {one.exit_layer for one in run(way, wavs[:6])} == {table.exit_layers[expected]}
    alone = [run(way, [wav])[0].exit_layer for wav in wavs[:6]]
    assert alone == [table.exit_layers[k] for k in replay(policy, table)[:6]]
    assert way.least_batch == 2


def test_transcripts_have_no_mean(engine):
    assert averages(with_policy(engine, parse_policy("entropy(0.1)")))
    assert averages(with_policy(engine, parse_policy("patience(1, 0.1)")))
    names = [way.name for way in all_ways(engine, [parse_policy("static(2)")])]
    assert names[:3] == ["full depth, this runtime", "full depth, SpeechBrain", "cut off at layer 1"]


def test_speechbrains_own_forward_is_ours_without_padding(engine, wavs):
    ways = all_ways(engine, [])
    for wav in wavs[:3]:
        assert run(ways[0], [wav]) == run(ways[1], [wav])


@pytest.mark.parametrize("kind", ["base", "large", "wavlm"])
def test_a_cut_model_of_transformers_gives_the_states_of_the_walk(kind):
    settings = {**SHAPE, "num_hidden_layers": 3, "model_type": "wavlm" if kind == "wavlm" else "wav2vec2"}
    if kind == "large":
        settings |= {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
    torch.manual_seed(0)
    encoder = {"encoder": "huggingface", "hf_config": settings, "padded_front_end": True}
    model = MultiExit({"encoder": encoder, "exit_layers": [1, 2, 3], "n_tokens": 29, "blank_index": 0}).eval()
    wavs, n_samples = torch.randn(2, 9600), torch.tensor([9600, 6400])
    wavs[1, 6400:] = 0
    before = len(model.encoder.model.encoder.layers)
    with torch.inference_mode():
        for layer in (1, 2, 3):
            stock, n_frames = Stock(model, n_layers=layer)(wavs, n_samples)
            ours = Walk(model.encoder, wavs, n_samples).advance(layer)
            for row, n in enumerate(n_frames.tolist()):
                torch.testing.assert_close(stock[row, :n], ours[row, :n], rtol=0, atol=1e-5)
    assert len(model.encoder.model.encoder.layers) == before == 3


@pytest.fixture(scope="module")
def asr(model_folder):
    return EarlyExitASR.from_pretrained(model_folder, device="cpu", seed=SEED)


@pytest.fixture(scope="module")
def results(asr, wavs):
    references = [None, *("A B" for _ in wavs[1:5])]
    material = Material(tuple(f"u{i}" for i in range(5)), tuple(wavs[:5]), tuple(references))
    policies = [parse_policy("random(0.4)")]
    return run_benchmark(asr, material, policies, batches=[1, 3], repeats=2), material


def test_each_batch_size_has_every_way_and_every_repeat(results):
    results, _ = results
    for batch, n_own in ((1, 2), (3, 3)):  # a whole batch of one is ours
        here = [one for one in results if one.batch == batch]
        assert len(here) == 2 + 3 + n_own
        assert all(len(one.seconds) == len(one.cpu_s) == 2 and min(one.seconds) > 0 for one in here)
        assert compared(here[0], here[0], on_gpu=False) == 1.0


def test_numbers_are_those_of_what_was_done(results, engine, wavs, table):
    results, material = results
    ours = next(one for one in results if one.way == "ours" and one.batch == 3)
    chosen = replay(parse_policy("random(0.4)"), table)[:5]
    seconds = np.array([len(wav) / 16000 for wav in material.wavs])
    layers = np.array([table.exit_layers[k] for k in chosen])
    assert ours.exit_layer == pytest.approx(np.average(layers, weights=seconds))
    costs = [engine.model.macs(len(wav)) for wav in material.wavs]
    gmacs = sum(body[k] + heads[k] for (body, heads), k in zip(costs, chosen, strict=True)) / seconds.sum() / 1e9
    assert ours.gmacs_per_s == pytest.approx(gmacs)  # `random` reads no head
    full = sum(body[-1] + heads[-1] for body, heads in costs) / seconds.sum() / 1e9
    assert results[0].gmacs_per_s == pytest.approx(full)
    assert ours.duration_s == pytest.approx(seconds.sum())
    assert ours.rtf == pytest.approx(np.median(ours.seconds) / seconds.sum())


def test_heads_that_are_read_to_decide_are_counted(asr, wavs):
    material = Material(("u0",), (wavs[0],), (None,))
    found = run_benchmark(asr, material, [parse_policy("entropy(0)")], batches=[1], repeats=1)
    full, ours, picked = found[0], found[-2], found[-1]
    _, heads = asr.engine.model.macs(len(wavs[0]))
    extra = sum(heads[:-1]) / (len(wavs[0]) / 16000) / 1e9
    assert ours.gmacs_per_s - full.gmacs_per_s == pytest.approx(extra)
    assert picked.gmacs_per_s == pytest.approx(ours.gmacs_per_s)


def test_wer_is_pooled_over_those_with_a_reference(results, asr):
    results, material = results
    full = run(all_ways(asr.engine, [])[0], material.wavs)
    errors = sum(sum(count_edits("A B", one.text)) for one in full[1:])
    assert results[0].wer == pytest.approx(100 * errors / 8)


def test_noise_has_no_wer_and_says_so(asr):
    material = noise(2, sample_rate=16000, seconds=0.5)
    (first, *_) = run_benchmark(asr, material, [], batches=[2], repeats=1)
    assert first.wer is None and first.duration_s == 1.0
    assert "synthetic noise of 0.5 s" in benchmark_markdown(
        [first], material, model="m", device=torch.device("cpu"), threads=1
    )


def test_a_manifest_brings_references_and_what_is_left_out_is_counted(audio_folder, tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros(16000 * 31, dtype=np.float32), 16000)
    (tmp_path / "broken.wav").write_text("no audio")
    rows = [f"a,{audio_folder}/u0.wav,GO LEFT", f"b,{audio_folder}/u1.wav,", f"c,{tmp_path}/long.wav,X"]
    manifest = tmp_path / "m.csv"
    manifest.write_text("\n".join(["ID,wav,wrd", *rows, f"d,{tmp_path}/broken.wav,Y", ""]))
    material = read_material([str(manifest), str(audio_folder / "u2.wav")], sample_rate=16000)
    assert material.utt_ids == ("a", "b", str(audio_folder / "u2.wav"))
    assert material.references == ("GO LEFT", "", None)
    broken, too_long, lacking = material.notes
    assert broken.startswith("1 recordings left out that cannot be read, the first: ") and "broken.wav" in broken
    assert too_long == "1 recordings left out that are longer than 30 s"
    assert lacking == "1 of 3 utterances have no reference and do not count in the WER"
    assert read_material([str(manifest)], sample_rate=16000, limit=1).utt_ids == ("a",)


@pytest.mark.parametrize("err", [MemoryError(), RuntimeError("odd")])
def test_whatever_goes_wrong_with_a_recording_leaves_the_others(err, audio_folder, monkeypatch):
    stock = AudioReader.blocks

    def blocks(self):
        if str(self.path).endswith("u1.wav"):
            raise err
        return stock(self)

    monkeypatch.setattr(AudioReader, "blocks", blocks)
    material = read_material([f"{audio_folder}/u{i}.wav" for i in range(3)], sample_rate=16000)
    assert material.utt_ids == (f"{audio_folder}/u0.wav", f"{audio_folder}/u2.wav")
    said = "needs more memory than there is" if isinstance(err, MemoryError) else "cannot be used (RuntimeError: odd)"
    assert f"'{audio_folder}/u1.wav' {said}" in material.notes[0]


def test_a_manifest_without_names_goes_by_its_order(audio_folder, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path,text\n{audio_folder}/u1.wav,one\n{audio_folder}/u0.wav,two\n")
    assert read_material([str(manifest)], sample_rate=16000).references == ("one", "two")
    manifest.write_text(f"path,text\n{audio_folder}/u1.wav,one\n{audio_folder}/u1.wav,two\n")
    with pytest.raises(ValueError, match=r"names a recording twice .* as 'one' and 'two': leave one out"):
        read_material([str(manifest)], sample_rate=16000)


def test_nothing_to_time_is_an_error(tmp_path):
    (tmp_path / "broken.wav").write_text("no audio")
    with pytest.raises(ValueError, match=r"none of 1 recordings can be used: .*broken\.wav"):
        read_material([str(tmp_path)], sample_rate=16000)


def test_policies_are_the_models_own_or_those_named(asr):
    (own,) = bench_policies(asr, None, budget=None)
    assert own == asr.source.calibrated[0].policy
    fitted, given = bench_policies(asr, "entropy, static(2)", budget=0.9)
    assert str(fitted).startswith("entropy(") and str(given) == "static(2)"
    with pytest.raises(ValueError, match="was not calibrated for"):
        bench_policies(asr, "confidence", budget=None)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batches": [0]}, "batch must be at least 1, got 0"),
        ({"batches": []}, "batch must be at least 1, got 0"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"normaliser": "lower"}, "normaliser must be one of none, upper, words, whisper, got 'lower'"),
    ],
)
def test_numbers_below_one_are_refused(asr, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_benchmark(asr, noise(1, sample_rate=16000), [], **options)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell peak memory")
def test_memory_that_was_given_back_counts():
    with _peak_memory(torch.device("cpu")) as small:
        pass
    with _peak_memory(torch.device("cpu")) as grown:
        torch.ones(2**24).sum()  # 64 MiB
    if grown[0] is None:
        pytest.skip("the highest resident memory cannot be reset here")
    assert small[0] < 8 < 60 < grown[0] < 90


def test_threads_are_those_asked_for_and_then_those_before(asr, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    run_benchmark(asr, noise(1, sample_rate=16000, seconds=0.3), [], batches=[1], repeats=1, threads=2)
    assert calls == [2, 7]


def test_the_tables_hold_every_result(results, tmp_path):
    results, material = results
    markdown = benchmark_markdown(results, material, model="mine", device=torch.device("cpu"), threads=1, command="c d")
    rows = [line for line in markdown.splitlines() if line.startswith("| ") and not line.startswith("| way")]
    assert len(rows) == len(results) and all(line.count("|") == 12 for line in rows)
    assert (
        "`c d`" in markdown
        and "## Batch 1" in markdown
        and "## Batch 3" in markdown
        and "GMACs/s are computed" in markdown
    )
    table = benchmark_csv(results, device=torch.device("cpu"))
    written = write_benchmark(tmp_path / "new", markdown, table)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["benchmark.csv", "benchmark.md"]
    read = list(csv.DictReader(written[1].read_text().splitlines()))
    assert [(row["way"], int(row["batch"])) for row in read] == [(one.way, one.batch) for one in results]
    assert float(read[0]["speed"]) == 1.0 and len(read[0]["repeats_s"].split()) == 2


def test_the_command_times_a_folder_of_ours(model_folder, audio_folder, tmp_path, capsys):
    argv = ["benchmark", str(model_folder), str(audio_folder), "--limit", "3", "--batch", "1,2", "--repeats", "1"]
    assert main([*argv, "--device", "cpu", "--policies", "entropy", "--budget", "0.9", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "| full depth, SpeechBrain |" in printed.out and "| whole-batch break | `entropy(" in printed.out
    assert "3 utterances" in printed.out and "batch 2: repeat 1 of 1" in printed.err
    assert (tmp_path / "benchmark.csv").read_text().count("\n") == 1 + 7 + 8


def test_the_command_times_a_checkpoint_of_transformers(tmp_path, capsys):
    folder = save_checkpoint(tmp_path / "ctc", kind="wav2vec2", ctc=True, n_layers=2)
    argv = ["benchmark", str(folder), "--batch", "2", "--repeats", "1", "--seconds", "0.5", "--device", "cpu"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "| full depth, transformers |" in printed and "synthetic noise" in printed


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--batch", "1,x"], "--batch must be whole numbers from 1 with commas between them, such as 1,8,32, got 'x'"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--seconds", "90"], "--seconds must be from 0.1 to 30, got 90"),
        (["--policies", "entropie"], "unknown policy 'entropie'"),
        (["nowhere.wav"], "expected a recording, folder, .txt list or listing (.csv, .tsv, .jsonl) at 'nowhere.wav'"),
    ],
)
def test_what_is_wrong_with_benchmark_is_said_in_one_sentence(model_folder, capsys, options, sentence):
    assert main(["benchmark", str(model_folder), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and sentence in captured.err and captured.err.count("\n") == 1
