"""A corpus shaped like AN4 whose speech is tones: every letter has two frequencies, every speaker a pitch.

    python tests/tones.py FOLDER

A model can learn it in seconds of audio, and no recording is needed, so a whole run can be tested anywhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 16000
LETTER_S = 0.12  # three frames of a 25 Hz encoder: CTC needs room for a blank between equal letters
WORDS = ("YES", "NO", "GO", "STOP", "HELP", "ONE", "TWO", "SIX", "TEN", "A", "B", "C", "E", "K")


def letter(character: str, *, pitch: float = 1.0) -> np.ndarray:
    """The sound of one character, of shape (samples,): two tones for a letter, silence for a space.

    Example
    -------
    >>> letter("A").shape, float(abs(letter(" ")).max())
    ((1920,), 0.0)
    """
    time_s = np.arange(round(LETTER_S * SAMPLE_RATE)) / SAMPLE_RATE
    if character == " ":
        return np.zeros(len(time_s), dtype=np.float32)
    high, low = divmod(ord(character) - ord("A"), 6)
    tones = np.sin(2 * np.pi * (250 + 110 * low) * pitch * time_s)
    tones = tones + np.sin(2 * np.pi * (1200 + 400 * high) * pitch * time_s)
    return (0.2 * np.hanning(len(time_s)) * tones).astype(np.float32)


def spoken(text: str, *, pitch: float = 1.0, rng: np.random.Generator) -> np.ndarray:
    """The tones of `text` with a little noise and silence around, of shape (samples,)."""
    wave = np.concatenate([letter(character, pitch=pitch) for character in f" {text} "])
    return (wave + 0.002 * rng.standard_normal(len(wave))).astype(np.float32)


def make_tone_corpus(
    folder: Path | str,
    *,
    n_train_speakers: int = 12,
    n_test_speakers: int = 3,
    n_per_speaker: int = 3,
    seed: int = 0,
) -> Path:
    """Write the corpus: `etc/*.fileids`, `etc/*.transcription` and 16 kHz WAV files under `wav/`.

    Arguments
    ---------
    folder : Path or str
        Made where it is missing.
    n_train_speakers : int
        12 leaves a speaker or two for dev, every tenth of the sorted ones.
    n_test_speakers : int
        Speakers of the test set; none of them is in training.
    n_per_speaker : int
        Utterances of each speaker, of one to three words.
    seed : int
        Of texts and noise.

    Returns
    -------
    Path
        `folder`.
    """
    folder = Path(folder)
    rng = np.random.default_rng(seed)
    (folder / "etc").mkdir(parents=True, exist_ok=True)
    sets = (("train", "an4_clstk", n_train_speakers), ("test", "an4test_clstk", n_test_speakers))
    for name, subfolder, n_speakers in sets:
        fileids, transcription = [], []
        for number in range(n_speakers):
            speaker = f"{'m' if name == 'train' else 't'}{number:03d}"
            (folder / "wav" / subfolder / speaker).mkdir(parents=True, exist_ok=True)
            for _ in range(n_per_speaker):
                utt_id = f"an{len(fileids) + 1}-{speaker}-b"
                text = " ".join(rng.choice(WORDS, size=rng.integers(1, 4)))
                wave = spoken(text, pitch=0.95 + 0.1 * rng.random(), rng=rng)
                soundfile.write(folder / "wav" / subfolder / speaker / f"{utt_id}.wav", wave, SAMPLE_RATE)
                fileids.append(f"{subfolder}/{speaker}/{utt_id}")
                # The real files mark sentence ends in training only.
                transcription.append(f"<s> {text} </s> ({utt_id})" if name == "train" else f"{text} ({utt_id})")
        (folder / "etc" / f"an4_{name}.fileids").write_text("\n".join(fileids) + "\n")
        (folder / "etc" / f"an4_{name}.transcription").write_text("\n".join(transcription) + "\n")
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    print(make_tone_corpus(parser.parse_args().folder))
