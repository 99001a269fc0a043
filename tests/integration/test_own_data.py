"""One's own recordings, listed in a CSV and as stretches of a long file, trained on and tested."""

import json

import numpy as np
import pytest
import soundfile
from tiny_run import tiny_argv
from tones import spoken

import train

WORDS = ["NO", "GO", "ON", "SO"]


@pytest.fixture
def folder(tmp_path):
    """Tones as speech: train and dev as files, test as stretches of one recording."""
    rng = np.random.default_rng(5)
    folder = tmp_path / "corpus"
    folder.mkdir()
    for split, n in {"train": 16, "dev": 6}.items():
        lines = ["wav,text,speaker"]
        for i in range(n):
            text = " ".join(rng.choice(WORDS, size=3))
            soundfile.write(folder / f"{split}{i}.flac", spoken(text, rng=rng), 16000)
            lines.append(f"{split}{i}.flac,{text},{split}{i % 3}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    parts, lines, at = [], [], 0
    for i in range(4):
        text = " ".join(rng.choice(WORDS, size=3))
        wav = spoken(text, rng=rng)
        entry = {"audio": "talk.flac", "text": text, "speaker": f"t{i % 2}", "id": f"t{i}"}
        lines.append(json.dumps({**entry, "start": at / 16000, "end": (at + len(wav)) / 16000}))
        parts.append(wav)
        at += len(wav)
    soundfile.write(folder / "talk.flac", np.concatenate(parts), 16000)
    (folder / "test.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_from_listings_to_a_report(folder, tmp_path):
    argv = tiny_argv(folder, tmp_path / "run", corpus="Custom", train_splits=["train"], valid_splits=["dev"], shifts=[])
    assert train.main(argv) == 0
    summary = json.loads((tmp_path / "run" / "report" / "summary.json").read_text())
    one = summary["sets"]["custom_test"]
    assert one["label"] == "in_domain" and one["n_utterances"] == 4 and one["n_speakers"] == 2
