"""A model with shorter input in use: the same words alone and in a batch, times in seconds, no export."""

import pytest
import soundfile
import torch
from talkative import ENCODER, noises, talkative_model

from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.models import MultiExit
from eeasr_modules.runtime import EarlyExitASR
from eeasr_modules.runtime.export import export_model


@pytest.fixture(scope="module", params=["convolution", "average", "signal"])
def folder(request, tmp_path_factory):
    """A model folder; exits that say much."""
    folder = tmp_path_factory.mktemp(request.param)
    plain = talkative_model()
    encoder = {**ENCODER, "downsample": request.param, "downsample_factor": 2}
    model = MultiExit({**plain.config, "encoder": encoder}).eval()
    model.heads.load_state_dict(plain.heads.state_dict())
    model.save(folder)
    CharVocabulary().save(folder)
    return folder


def test_words_are_the_same_alone_and_in_a_batch_and_lie_within_the_recording(folder, tmp_path):
    asr = EarlyExitASR.from_pretrained(folder, policy="random(0.4)")
    assert asr.engine.frame_s == pytest.approx(0.08, rel=0.01)
    wavs = noises(8)
    paths = [tmp_path / f"{i}.wav" for i in range(len(wavs))]
    for path, wav in zip(paths, wavs, strict=True):
        soundfile.write(path, wav.numpy(), 16000)
    together, alone = asr.transcribe(paths), [asr.transcribe(path) for path in paths]
    assert len({one.exit_layer for one in together}) > 1 and any(one.words for one in together)
    for wav, one, other in zip(wavs, together, alone, strict=True):
        assert (one.text, one.exit_layer) == (other.text, other.exit_layer)
        assert one.duration_s == pytest.approx(len(wav) / 16000)
        starts = [word.start_s for word in one.words]
        assert starts == sorted(starts) and all(word.end_s <= one.duration_s + 0.08 for word in one.words)


def test_live_log_probs_are_those_of_training(folder):
    model, wavs = MultiExit.load(folder), noises(3)
    engine = EarlyExitASR.from_pretrained(folder, policy="static(5)").engine
    n_samples = torch.tensor([len(wav) for wav in wavs])
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    with torch.inference_mode():
        _, n_frames = model(padded, n_samples)
        said = engine.run(padded, n_samples, utt_ids=["a", "b", "c"])
    assert [one.exit_layer for one in said] == [5, 5, 5]
    assert n_frames.tolist() == model.encoder.frames_for(n_samples).tolist()


def test_export_says_that_it_cannot(folder, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match=r"shortens its input \(downsample: \w+\), which is not exported"):
        export_model(folder, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
