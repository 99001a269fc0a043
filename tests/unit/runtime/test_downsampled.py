"""A model with shorter input in use: the same words alone and in a batch, times in seconds, no export."""

import pytest
import soundfile
import torch
from talkative import ENCODER, noises, talkative_model

from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.models import MultiExit
from eeasr_modules.runtime import EarlyExitASR
from eeasr_modules.runtime.onnx.export import export_model
from eeasr_modules.training.pretrained import take_over


@pytest.fixture(scope="module", params=["convolution", "average", "signal", "signal, upsampled"])
def folder(request, tmp_path_factory):
    """A model folder; exits that say much."""
    folder = tmp_path_factory.mktemp(request.param.replace(", ", "_"))
    plain = talkative_model()
    kind, _, upsampled = request.param.partition(", ")
    encoder = {**ENCODER, "downsample": kind, "downsample_factor": 2}
    model = MultiExit({**plain.config, "encoder": encoder, "upsample": bool(upsampled)}).eval()
    take_over(plain, model, folder="plain")
    if upsampled:
        with torch.no_grad():  # the second of two frames has something of its own to say
            for head in model.heads:
                head.projection.weight[len(head.projection.weight) // 2 :].mul_(0.9).add_(0.1)
    model.save(folder)
    CharVocabulary().save(folder)
    return folder


def test_words_are_the_same_alone_and_in_a_batch_and_lie_within_the_recording(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # `random` goes by the path
    asr = EarlyExitASR.from_pretrained(folder, policy="random(0.4)")
    upsampling = 2 if asr.engine.model.config["upsample"] else 1
    assert asr.engine.frame_s == pytest.approx(0.08 / upsampling, rel=0.01)
    wavs = noises(8)
    paths = [f"{i}.wav" for i in range(len(wavs))]
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
        log_probs, n_frames = model(padded, n_samples)
        texts = engine.texts(log_probs[model.exit_layers.index(5)].argmax(dim=-1).numpy(), n_frames.tolist())
        said = engine.run(padded, n_samples, utt_ids=["a", "b", "c"])
    assert [(one.exit_layer, one.text) for one in said] == [(5, text) for text in texts] and any(texts)
    assert n_frames.tolist() == model.frames_for(n_samples).tolist()


def test_export_says_that_it_cannot(folder, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match=r"shortens its input \(downsample: \w+\), which is not exported"):
        export_model(folder, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
