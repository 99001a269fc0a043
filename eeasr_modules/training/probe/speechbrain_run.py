"""A stock SpeechBrain CTC run on disk (`recipes/LibriSpeech/ASR/CTC`, `train_with_wav2vec.py`), read for `eeasr probe`.

Of its `hyperparams.yaml` plain values alone are read: whether `wav2vec2` is one of SpeechBrain's wrappers, its `source`
and `output_norm`; the nodes of `enc` with their sizes; `upsampling`, `blank_index` and the names in `modules`. Nothing
that the file names is imported, built or run, but for the classes in `heads.NODES`. Weights are read without pickles.
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from speechbrain.dataio.encoder import CTCTextEncoder
from speechbrain.utils.checkpoints import Checkpointer

from eeasr_modules.data.text import BLANK
from eeasr_modules.models.encoders import huggingface_checkpoint as reading
from eeasr_modules.models.multi_exit import MultiExit

WRAPPERS = ("Wav2Vec2", "HuBERT", "WavLM", "HuggingFaceWav2Vec2")  # of SpeechBrain, by version
FILES = ("wav2vec2.ckpt", "model.ckpt")
LINEAR = "speechbrain.nnet.linear.Linear"
SEQUENTIAL, VANILLA = "speechbrain.nnet.containers.Sequential", "speechbrain.lobes.models.VanillaNN.VanillaNN"
INSTEAD = "save its encoder as transformers saves it and probe that (heads alone)"


class Tagged(NamedTuple):
    """A value of HyperPyYAML with its tag, such as `new:torch.nn.LeakyReLU`; nothing is made of it."""

    tag: str
    value: Any


class _Plain(yaml.SafeLoader):
    """YAML whose tags stay text."""


def _tagged(loader: _Plain, tag: str, node: yaml.Node) -> Tagged:
    if isinstance(node, yaml.MappingNode):
        return Tagged(tag, loader.construct_mapping(node, deep=True))
    if isinstance(node, yaml.SequenceNode):
        return Tagged(tag, loader.construct_sequence(node, deep=True))
    return Tagged(tag, loader.construct_scalar(node))


_Plain.add_multi_constructor("!", _tagged)


@dataclass(frozen=True)
class SpeechBrainRun:
    """What was read of a run."""

    encoder: Path  # folder of its encoder as transformers saves it, the run's own weights in it
    tokens: tuple[str, ...]  # by id, as `CharVocabulary` has them
    head: dict  # `nodes` and `output_norm`, for `SpeechBrainBody`
    weights: dict[str, torch.Tensor]  # of `enc` (`0.`) and `ctc_lin` (`1.`)

    def fill(self, model: MultiExit) -> None:
        """Give a lens its weights; ValueError where they do not fit."""
        head = model.heads[0]  # the others share them
        try:
            head.body.nodes.load_state_dict(_below(self.weights, "0."))
            head.projection.load_state_dict(_below(self.weights, "1.w."))
        except RuntimeError as err:
            said = " ".join(str(err).split())
            raise ValueError(f"model.ckpt is not [enc, ctc_lin] as hyperparams.yaml has them: {said}") from err


def _below(state: Mapping, prefix: str) -> dict:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def is_run(folder: Path) -> bool:
    """Whether a folder is a SpeechBrain run, its `save`, or a checkpoint in it."""
    return folder.name.startswith("CKPT+") or any(folder.glob("CKPT+*")) or any(folder.glob("save/CKPT+*"))


def read_run(folder: Path, into: Path, *, encoder: str | None = None) -> SpeechBrainRun:
    """A run's head and vocabulary; its encoder is written as transformers saves it.

    `folder`: the run, its `save`, or a checkpoint in it; of several checkpoints the one of the lowest WER, as the
    recipe tests with, else the latest. `encoder`: whose shape the encoder has, a folder or hub id; None: what the run
    names.

    ValueError, FileNotFoundError: one sentence on what is missing or not as in the recipe.
    """
    checkpoint = _best(folder)
    run = checkpoint.parents[1]
    values = _read_yaml(run / "hyperparams.yaml")
    try:
        source, head = _source_of(values), {"nodes": nodes_of(values)}
        wrapper, blank = _resolved(values, values["wav2vec2"]).value, _plain(values, values.get("blank_index", 0))
        head["output_norm"] = bool(_plain(values, wrapper.get("output_norm")))
    except (ValueError, AttributeError, TypeError) as err:  # the latter two: another kind of value
        raise ValueError(f"'{run / 'hyperparams.yaml'}' is not the recipe's: {err}; {INSTEAD}") from err
    states, weights = (_weights(checkpoint / name) for name in FILES)
    tokens = _tokens(run, checkpoint, n_tokens=len(weights.get("1.w.weight", ())), blank=blank)
    _write_encoder(_below(states, "model."), into, source=encoder or _named_by(run, source), run=run)
    return SpeechBrainRun(into, tokens, head, weights)


def _best(folder: Path) -> Path:
    if folder.name.startswith("CKPT+"):
        found = folder.resolve()
    else:
        saved = Checkpointer(folder if any(folder.glob("CKPT+*")) else folder / "save")
        chosen = saved.find_checkpoint(min_key="WER") or saved.find_checkpoint()
        if chosen is None:
            raise FileNotFoundError(f"no checkpoint in '{folder}' can be read: expected CKPT+.../CKPT.yaml")
        found = Path(chosen.path).resolve()
    for path in (*(found / name for name in FILES), found.parents[1] / "hyperparams.yaml"):
        if not path.is_file():
            raise FileNotFoundError(
                f"'{folder}' is a SpeechBrain run, of which the CTC recipe on wav2vec 2.0, HuBERT or WavLM is read: "
                f"expected '{path}'"
            )
    return found


def _weights(path: Path) -> dict:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as err:
        raise ValueError(f"'{path}' holds no weights that can be read: {' '.join(str(err).split())[:200]}") from err


def _read_yaml(path: Path) -> dict:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Plain)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ValueError(f"'{path}' cannot be read: {' '.join(str(err).split())}") from err


def _resolved(values: Mapping, value: Any) -> Any:
    """`value`, or what `!ref <name>` names."""
    while isinstance(value, Tagged) and value.tag == "ref":
        name = re.fullmatch(r"<(\w+)>", value.value)
        if name is None or values.get(name[1]) is value:
            raise ValueError(f"expected a plain value, got !ref {value.value}")
        value = values.get(name[1])
    return value


def _plain(values: Mapping, value: Any) -> Any:
    value = _resolved(values, value)
    if value is not None and not isinstance(value, (str, int, float)):
        raise ValueError(f"expected a plain value, got {value}")
    return value


def _source_of(values: Mapping) -> str:
    """What `wav2vec2` started from, after a check that nothing but it stands before `enc`."""
    wrapper, modules = _resolved(values, values.get("wav2vec2")), values.get("modules") or {}
    if not isinstance(wrapper, Tagged) or wrapper.tag.rpartition(".")[2] not in WRAPPERS:
        raise ValueError(f"expected wav2vec2 to be one of SpeechBrain's {', '.join(WRAPPERS)}")
    more = sorted({"downsampler", "extractor", "encoder_wrapper"} & {*modules})
    if more or _plain(values, values.get("upsampling")):
        raise ValueError(f"expected wav2vec2, enc and ctc_lin alone, got {', '.join(more) or 'upsampling'}")
    if _plain(values, wrapper.value.get("output_all_hiddens")):
        raise ValueError("expected output_all_hiddens false")
    source = _plain(values, wrapper.value.get("source"))
    if not isinstance(source, str):
        raise ValueError(f"expected wav2vec2 to name its source, got {source}")
    return source


def nodes_of(values: Mapping) -> list[tuple[str, str, dict]]:
    """Nodes of `enc`: name, class and arguments, for `SpeechBrainBody`.

    ValueError if `enc` is no `VanillaNN` and no `Sequential`, or an argument is not plain.
    """
    enc = _resolved(values, values.get("enc"))
    kind = enc.tag.removeprefix("new:") if isinstance(enc, Tagged) else None
    if kind == VANILLA:
        activation = enc.value.get("activation", Tagged("name:torch.nn.LeakyReLU", ""))
        linear = Tagged(f"name:{LINEAR}", {"n_neurons": enc.value.get("dnn_neurons", 512), "bias": True})
        ends = ["", *(f"_{i}" for i in range(_plain(values, enc.value.get("dnn_blocks", 2)) - 1))]
        given = {name + end: node for end in ends for name, node in (("linear", linear), ("act", activation))}
    elif kind == SEQUENTIAL:
        given = {name: node for name, node in enc.value.items() if name != "input_shape"}
    else:
        raise ValueError(f"expected enc to be a {SEQUENTIAL} or {VANILLA}, got {kind}")
    return [_node(values, name, node) for name, node in given.items()]


def _node(values: Mapping, name: str, node: Any) -> tuple[str, str, dict]:
    node = _resolved(values, node)
    if not isinstance(node, Tagged):
        raise ValueError(f"expected a class for node {name} of enc, got {node}")
    arguments = {key: _plain(values, value) for key, value in (node.value or {}).items()}
    return name, node.tag.partition(":")[2], arguments


def _tokens(run: Path, checkpoint: Path, *, n_tokens: int, blank: int) -> tuple[str, ...]:
    """Labels by id, the blank `<blank>`, ids without a label `<unused_id>`."""
    labels = {}
    for path in (run / "save" / "label_encoder.txt", checkpoint / "tokenizer.ckpt"):
        encoder = CTCTextEncoder()  # a text file, read by SpeechBrain's own reader of literals
        try:
            labels = labels or (encoder.ind2lab if path.is_file() and encoder.load_if_possible(path) else {})
        except (ValueError, SyntaxError, UnicodeDecodeError):  # such as SentencePiece's
            continue
    if not labels:
        raise FileNotFoundError(f"'{run}' has no labels of characters: expected save/label_encoder.txt")
    if max(labels) >= n_tokens:
        raise ValueError(f"'{run}': ctc_lin gives {n_tokens} tokens, label_encoder.txt has label {max(labels)}")
    return tuple(BLANK if i == blank else str(labels.get(i, f"<unused_{i}>")) for i in range(n_tokens))


def _named_by(run: Path, source: str) -> str:
    """The source, or its settings where SpeechBrain has put them in the run."""
    cached = sorted(run.glob(f"save/*/models--{source.replace('/', '--')}/snapshots/*/config.json"))
    return str(cached[-1].parent) if cached else source


def _write_encoder(weights: dict, into: Path, *, source: str, run: Path) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    try:
        config = reading.checkpoint_config(source)
    except ValueError as err:
        raise ValueError(
            f"the shape of the encoder of '{run}' is that of '{source}', which is not here: give --encoder FOLDER with "
            f"its config.json and preprocessor_config.json ({err})"
        ) from err
    if config.model_type not in reading.SELF_SUPERVISED:
        raise ValueError(f"'{source}' is a {config.model_type}: expected one of {', '.join(reading.SELF_SUPERVISED)}")
    model = reading.build_bare(reading.as_json(config), attention=None, dropout=None)
    try:
        missing, unknown = model.load_state_dict(weights, strict=False)
    except RuntimeError as err:  # sizes
        missing, unknown = [" ".join(str(err).split())], []
    wrong = [name for name in (*missing, *unknown) if not name.endswith("masked_spec_embed")]
    if wrong:
        raise ValueError(f"wav2vec2.ckpt of '{run}' is no encoder of the shape of '{source}', such as by {wrong[0]}")
    with reading.quiet():
        model.save_pretrained(into)
    normalise, rate = reading.input_conventions(source)
    Wav2Vec2FeatureExtractor(do_normalize=normalise, sampling_rate=rate).save_pretrained(into)
