"""SpeechBrain's own `EncoderASR` on a model folder: the same words as our last exit, alone and in a batch."""

import shutil

import pytest
import torch
from tiny_checkpoint import save_checkpoint

from eeasr_modules.compat import ensure_torchaudio
from eeasr_modules.data.audio import read_audio
from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.models.encoders.huggingface_checkpoint import checkpoint_vocabulary
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.runtime import EarlyExitASR
from eeasr_modules.training.publish.encoder_asr import check_hyperparams, write_hyperparams

ensure_torchaudio()
from speechbrain.inference.ASR import EncoderASR  # noqa: E402  needs a working torchaudio


@pytest.fixture(scope="module")
def shipped(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped") / "small"
    shutil.copytree(root / "eeasr_modules/shipped/base", folder, ignore=shutil.ignore_patterns("tables"))
    write_hyperparams(folder)
    return folder


@pytest.fixture(scope="module")
def clips(root):
    return [root / "eeasr_modules/demo/examples" / f"{name}.opus" for name in ("storm", "hills", "servants")]


def batch_of(clips):
    wavs = [read_audio(path) for path in clips]
    longest = max(map(len, wavs))
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    return padded, torch.tensor([len(wav) / longest for wav in wavs])


@pytest.mark.parametrize("layer", [8, 4])
def test_the_shipped_model_says_what_it_says_at_that_exit(shipped, clips, tmp_path, layer):
    asr = EncoderASR.from_hparams(source=str(shipped), savedir=str(tmp_path), overrides={"exit_layer": layer})
    ours = [one.text for one in EarlyExitASR.from_pretrained(shipped, policy=f"static({layer})").transcribe(clips)]
    texts, _ = asr.transcribe_batch(*batch_of(clips))
    assert texts == ours
    alone = [asr.transcribe_batch(wav, length)[0][0] for wav, length in (batch_of([path]) for path in clips)]
    assert alone == ours


def test_layers_after_the_exit_do_not_run(shipped, clips, tmp_path):
    asr = EncoderASR.from_hparams(source=str(shipped), savedir=str(tmp_path), overrides={"exit_layer": 5})
    ran = []
    encoder = asr.mods.encoder.model.encoder
    run_layer = encoder.run_layer
    encoder.run_layer = lambda layer, state: (ran.append(layer), run_layer(layer, state))[1]
    asr.transcribe_batch(*batch_of(clips))
    assert ran == [1, 2, 3, 4, 5]


def test_an_exit_that_is_not_there_is_refused(shipped, tmp_path):
    with pytest.raises(ValueError, match="exit_layer must be one of"):
        EncoderASR.from_hparams(source=str(shipped), savedir=str(tmp_path), overrides={"exit_layer": 9})


def test_a_hugging_face_encoder_with_exits(clips, tmp_path):
    source = save_checkpoint(tmp_path / "wavlm")
    tokens = checkpoint_vocabulary(str(source)) or CharVocabulary().tokens
    vocabulary = CharVocabulary(tokens)
    config = {"encoder": {"encoder": "huggingface", "source": str(source)}, "exit_layers": [2, 4]}
    config |= {"n_tokens": len(vocabulary), "blank_index": vocabulary.blank_index, "sample_rate": 16000}
    torch.manual_seed(0)
    MultiExit(config).save(tmp_path / "model")
    vocabulary.save(tmp_path / "model")
    write_hyperparams(tmp_path / "model")
    asr = EncoderASR.from_hparams(source=str(tmp_path / "model"), savedir=str(tmp_path / "cache"))
    ours = [one.text for one in EarlyExitASR.from_pretrained(tmp_path / "model", policy="static(4)").transcribe(clips)]
    assert asr.transcribe_batch(*batch_of(clips))[0] == ours


@pytest.mark.parametrize(
    "line",
    [
        "ran: !apply:os.system ['true']",
        "ran: !new:subprocess.Popen ['true']",
        "ran: !name:os.system",
        "ran: !include:other.yaml",
        "ran: !!python/object/apply:os.system ['true']",
        "ran: [{deep: !apply:speechbrain.utils.data_utils.download_file {}}]",
    ],
)
def test_what_a_stranger_s_hyperparams_would_run_is_refused(tmp_path, root, line):
    shipped = root / "eeasr_modules" / "shipped" / "base"
    assert check_hyperparams(shipped) == shipped / "hyperparams.yaml"
    text = (shipped / "hyperparams.yaml").read_text(encoding="utf-8")
    (tmp_path / "hyperparams.yaml").write_text(f"{text}{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"may name .* and nothing else, got .*: EncoderASR would run it"):
        check_hyperparams(tmp_path)


def test_a_folder_without_hyperparams_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no hyperparams.yaml in .*: name a local model folder"):
        check_hyperparams(tmp_path)
