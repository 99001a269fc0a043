"""A model folder for SpeechBrain's own loader: what `hyperparams.yaml` in it is made of.

    from speechbrain.inference.ASR import EncoderASR
    asr = EncoderASR.from_hparams(source="runs/an4/model")
    asr.transcribe_file("talk.wav")

runs whatever the folder's `hyperparams.yaml` says (`check_hyperparams` first, where the folder is not your own), and
transcribes at the last exit, or at the one that `overrides={"exit_layer": 6}` names; policies are for `EarlyExitASR`.
"""

import json
from pathlib import Path

import torch
import yaml
from speechbrain.utils.parameter_transfer import Pretrainer

from eeasr_modules.common.files import write_aside
from eeasr_modules.data.pipeline import n_samples_of
from eeasr_modules.data.text import SENTENCEPIECE_FILE, VOCABULARY_FILE, load_vocabulary
from eeasr_modules.models.decoding.ctc import greedy_decode, valid_frames
from eeasr_modules.models.folder import INDEX, WEIGHTS, read_weights, weight_files
from eeasr_modules.models.multi_exit import MultiExit

FILE = "hyperparams.yaml"
TAGS = {"!ref", f"!name:{__name__}.greedy"} | {
    f"!new:{__name__}.{name}" for name in ("OneExit", "Tokenizer", "FolderPretrainer")
}


class OneExit(torch.nn.Module):
    """Waveforms to the log-probs of one exit, as `EncoderASR` asks for them.

    `exit_layer`: an exit's layer; None for the last. Later layers do not run. ValueError when there is no exit at that
    layer.
    """

    def __init__(self, config: dict, exit_layer: int | None = None):
        super().__init__()
        self.model = MultiExit(config)
        self.exit_layer = self.model.exit_layers[-1] if exit_layer is None else exit_layer
        if self.exit_layer not in self.model.exit_layers:
            raise ValueError(f"exit_layer must be one of {self.model.exit_layers}, got {exit_layer}")

    def forward(self, wavs: torch.Tensor, relative: torch.Tensor) -> torch.Tensor:
        """Log-probs (batch, frames, tokens); frames of padding say blank, so that any decoder may read them all."""
        n_samples = n_samples_of(relative.to(wavs.device), wavs.shape[1])
        for output in self.model.exits(wavs, n_samples):
            if output.exit_layer == self.exit_layer:
                break
        log_probs = output.log_probs.clone()
        blank = torch.full_like(log_probs[0, 0], -1e4)
        blank[self.model.blank_index] = 0.0
        log_probs[~valid_frames(log_probs, output.n_frames)] = blank
        return log_probs


class Tokenizer:
    """The model folder's vocabulary under the name that `EncoderASR` calls it by; empty until it is loaded."""

    def __init__(self):
        self.vocabulary = None

    def decode_ids(self, ids) -> str:
        """Text of collapsed ids."""
        return self.vocabulary.decode(ids)


class FolderPretrainer(Pretrainer):
    """Takes weights and vocabulary by their names in a model folder, wherever that is (a path, or the hub).

    `encoder`: its weights are read from the file `weights`. `tokenizer`: its vocabulary is read from the file
    `vocabulary`. `weights`: name of that file; the index where there are several, which must then lie in the same local
    folder.
    """

    def __init__(self, encoder: OneExit, tokenizer: Tokenizer, vocabulary: str, weights: str = WEIGHTS):
        super().__init__(
            loadables={"encoder": encoder, "tokenizer": tokenizer},
            custom_hooks={"encoder": _read_weights, "tokenizer": _read_vocabulary},
        )
        self.files = {"encoder": weights, "tokenizer": vocabulary}

    def collect_files(self, default_source=None, *arguments, **options):
        """As SpeechBrain's, the files looked for in `default_source`."""
        self.add_paths({name: f"{default_source}/{file}" for name, file in self.files.items()})
        return super().collect_files(default_source, *arguments, **options)


def _read_weights(encoder: OneExit, path: str, end_of_epoch: bool = True) -> None:
    with open(path, "rb") as file:
        is_index = file.read(1) == b"{"  # the loader's own name for the file has lost its suffix
    read_weights(encoder.model, weight_files(Path(path).resolve().parent) if is_index else [Path(path)])
    encoder.model.eval()


def _read_vocabulary(tokenizer: Tokenizer, path: str, end_of_epoch: bool = True) -> None:
    tokenizer.vocabulary = load_vocabulary(Path(path).resolve().parent)


def greedy(log_probs: torch.Tensor, relative: torch.Tensor, blank_index: int = 0) -> list[list[int]]:
    """Greedy transcripts' token ids of what `OneExit` gave; lengths are in it already."""
    n_frames = torch.full((len(log_probs),), log_probs.shape[1], device=log_probs.device)
    return greedy_decode(log_probs, n_frames, blank_index=blank_index)


def check_hyperparams(folder: Path | str) -> Path:
    """Refuse a `hyperparams.yaml` that would run anything but this loader; nothing of it is run here.

    FileNotFoundError when there is none. ValueError when it is no YAML, or a tag in it is not one of this loader's.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {FILE} in {folder}: name a local model folder")
    try:
        tags = [event.tag for event in yaml.parse(path.read_text(encoding="utf-8")) if getattr(event, "tag", None)]
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ValueError(f"{path} must be YAML, got {err}") from err
    foreign = [tag for tag in tags if tag not in TAGS]
    if foreign:
        raise ValueError(
            f"{path} may name {', '.join(sorted(TAGS))} and nothing else, got {foreign[0]}: EncoderASR would run it; "
            f"load the folder with EarlyExitASR.from_pretrained, which does not read this file"
        )
    return path


def write_hyperparams(folder: Path | str) -> Path:
    """Write `hyperparams.yaml` into a model folder."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("folder_version", None)
    vocabulary = VOCABULARY_FILE if (folder / VOCABULARY_FILE).is_file() else SENTENCEPIECE_FILE
    weights = INDEX if (folder / INDEX).is_file() else WEIGHTS
    inner = yaml.safe_dump(config, default_flow_style=True, sort_keys=False, width=10**6).strip()
    text = f"""# SpeechBrain's stock loader: EncoderASR.from_hparams(source=<this folder>). Written by train.py.
sample_rate: {config["sample_rate"]}
exit_layer: null  # an exit's layer; null for the last
encoder: !new:{__name__}.OneExit
    config: {inner}
    exit_layer: !ref <exit_layer>
tokenizer: !new:{__name__}.Tokenizer
modules:
    encoder: !ref <encoder>
decoding_function: !name:{__name__}.greedy
    blank_index: {config["blank_index"]}
pretrainer: !new:{__name__}.FolderPretrainer
    encoder: !ref <encoder>
    tokenizer: !ref <tokenizer>
    vocabulary: {vocabulary}
    weights: {weights}
"""
    return write_aside(folder / FILE, text)
