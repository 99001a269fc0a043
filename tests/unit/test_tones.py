"""The synthetic corpus is what the integration tests take it for."""

import numpy as np
import pytest
import soundfile
from tones import LETTER_S, WORDS, letter, make_tone_corpus


def test_every_letter_sounds_different_from_every_other():
    spectra = {c: np.abs(np.fft.rfft(letter(c))) for c in sorted(set("".join(WORDS)))}
    for a in spectra:
        for b in spectra:
            likeness = spectra[a] @ spectra[b] / np.linalg.norm(spectra[a]) / np.linalg.norm(spectra[b])
            assert a == b or likeness < 0.8, (a, b, likeness)


@pytest.mark.parametrize(("name", "n_speakers"), [("train", 12), ("test", 3)])
def test_lists_transcripts_and_audio_agree(tone_corpus, name, n_speakers):
    fileids = (tone_corpus / "etc" / f"an4_{name}.fileids").read_text().splitlines()
    lines = (tone_corpus / "etc" / f"an4_{name}.transcription").read_text().splitlines()
    assert len({fileid.split("/")[1] for fileid in fileids}) == n_speakers
    for fileid, line in zip(fileids, lines, strict=True):
        text, utt_id = line.removeprefix("<s> ").replace(" </s>", "").removesuffix(")").split(" (")
        assert fileid.endswith(f"/{utt_id}")
        info = soundfile.info(tone_corpus / "wav" / f"{fileid}.wav")
        assert (info.samplerate, info.channels) == (16000, 1)
        assert info.duration == pytest.approx((len(text) + 2) * LETTER_S)


def test_the_same_seed_gives_the_same_corpus(tmp_path):
    first, second = (make_tone_corpus(tmp_path / name, n_train_speakers=1, n_test_speakers=1) for name in "ab")
    for path in sorted(first.rglob("*.*")):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()
