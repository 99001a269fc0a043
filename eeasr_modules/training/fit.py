"""From a checked configuration and manifests to a trained model folder: vocabulary, model, training."""

import importlib
import itertools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import Checkpointer, average_checkpoints
from speechbrain.utils.epoch_loop import EpochCounter

from eeasr_modules.common.files import write_aside
from eeasr_modules.data.manifest import read_description
from eeasr_modules.data.pipeline import AudioCache, build_dataset, dynamic_batches, manifest_items
from eeasr_modules.data.text import BLANK, CharVocabulary, load_vocabulary, split_language, train_sentencepiece
from eeasr_modules.models.encoders import ENCODERS
from eeasr_modules.models.folder import is_pretrained_encoder, pretrained_weights, write_transformers_files
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.config.checks import decoder_settings, own_decoder_settings
from eeasr_modules.training.config.config import Config, corpora_of
from eeasr_modules.training.corpora import Corpora, is_trained, note_heard, texts_of
from eeasr_modules.training.pretrained import FrozenStates, first_layers, take_encoder, take_heads, take_over
from eeasr_modules.training.publish.encoder_asr import write_hyperparams
from eeasr_modules.training.run_folder import WholeCheckpointer
from eeasr_modules.training.schedule import OWN_TEACHERS

logger = logging.getLogger(__name__)


def frames_needed(tokens: list[int]) -> int:
    """Frames of the shortest CTC path: one a token, and a blank between equal ones.

    Example
    -------
    >>> frames_needed([5, 3, 3, 3])
    6
    """
    return len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))


def without_short(
    items: dict[str, dict],
    *,
    encode: Callable[[str], list[int]],
    frames_for: Callable[[torch.Tensor], torch.Tensor],
    sample_rate: int,
) -> dict[str, dict]:
    """Utterances with enough frames for their tokens (CTC aligns no others); how many are left out is logged.

    ValueError when none is left.
    """
    n_samples = torch.tensor([round(item["duration"] * sample_rate) for item in items.values()])
    n_frames = frames_for(n_samples).tolist()
    needed = (frames_needed(encode(item["words"])) for item in items.values())
    short = [utt_id for utt_id, has, needs in zip(items, n_frames, needed, strict=True) if has < needs]
    if not short:
        return items
    what = (
        f"{len(short)} of {len(items)} training utterances ({100.0 * len(short) / len(items):.1f} %) have fewer frames "
        f"than CTC needs for their tokens (the first is {short[0]})"
    )
    how = "give tokens: bpe, a smaller downsample_factor, or downsample: null"
    if len(short) == len(items):
        raise ValueError(f"{what}: {how}")
    logger.warning("%s, left out: %s", what, how)
    left_out = set(short)
    return {utt_id: item for utt_id, item in items.items() if utt_id not in left_out}


# what may not change between the sittings of one run: its checkpoints would not fit or would mean something else
FIXED = ("exit_layers", "encoder", "n_layers", "dim", "tokens")  # and what the kind of encoder adds
FIXED += ("n_tokens", "share_projection", "sample_rate", "corpus", "freeze_encoder", "exit_weights")
FIXED += ("head", "head_dim", "normaliser", "regime", "first_step_share", "self_condition")
FIXED += ("keep_layers", "downsample", "downsample_factor", "upsample")
# what runs meant that began before a key of FIXED was there; else null
UNTOLD = {"head": "linear", "regime": "joint", "first_step_share": 0.5, "self_condition": False}
UNTOLD |= {"downsample_factor": 2, "upsample": False}


def check_run_folder(config: Config, folder: Path) -> None:
    """Refuse to go on in a folder that holds a run of another shape; note the shape in a new one.

    ValueError naming the first key that differs.
    """
    note = folder / "run.json"
    fixed = ("source", *FIXED, *ENCODERS[config.encoder].fixed)  # source first: it changes others
    shape = {name: config.values[name] for name in fixed if name in config.values}
    shape["decoder"] = decoder_settings(config)
    shape["own_decoder"] = own_decoder_settings(config)
    if note.is_file():
        before = {**UNTOLD, **json.loads(note.read_text())}
        for name, value in shape.items():
            if before.get(name) != value:
                raise ValueError(
                    f"'{folder}' holds a run with {name} {before.get(name)}, this one has {value}: "
                    "give it a folder of its own (--output_folder; -o of eeasr probe)"
                )
        return
    write_aside(note, json.dumps({**shape, "last_norm": True}, indent=2) + "\n")


def _is_older(folder: Path) -> bool:
    """Whether the run began before the last head had a norm on a frozen encoder: it goes on without."""
    note = folder / "run.json"
    return note.is_file() and "last_norm" not in json.loads(note.read_text())


def load_brain_class(dotted: str) -> type:
    """The Brain that the YAML names; ValueError unless it is `ExitBrain` or a subclass."""
    from eeasr_modules.training.brain import ExitBrain

    module, _, name = dotted.rpartition(".")
    try:
        brain = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as err:
        raise ValueError(f"brain must be the dotted name of a class, '{dotted}' cannot be found: {err}") from err
    if not (isinstance(brain, type) and issubclass(brain, ExitBrain)):
        raise ValueError(f"brain must be ExitBrain or a subclass of it, got '{dotted}'")
    return brain


def make_vocabulary(config: Config, corpora: Corpora, folder: Path):
    """The run's vocabulary: the one it has, else that of `init_from`, of a CTC checkpoint, or made for the texts.

    Characters are English ones, or with the text rule `letters` those of the training and validation texts.

    ValueError if it cannot spell the training and validation texts.
    """
    texts = texts_of([*corpora.train, *corpora.valid])
    try:
        vocabulary = load_vocabulary(folder)
    except FileNotFoundError:
        pass
    else:
        run = folder.parent
        only_tests = (folder / "config.json").is_file() and not any((run / "save").glob("CKPT*"))
        if config.n_epochs and not only_tests and not is_trained(run, config.n_epochs):
            check_spelling(vocabulary, texts)
        return vocabulary
    tokens = None
    if config.init_from is not None and not is_pretrained_encoder(config.init_from):
        vocabulary = load_vocabulary(config.init_from)
    elif config.distill is not None and config.distill not in OWN_TEACHERS:
        vocabulary = load_vocabulary(config.distill)
    elif config.tokens != "characters":
        made_from = texts_of(corpora.train)
        vocabulary = train_sentencepiece(made_from, folder, size=config.n_tokens, model_type=config.tokens)
    elif (tokens := _own_vocabulary(config)) is not None:
        vocabulary = in_case_of(texts, CharVocabulary(tokens))
    elif {read_description(manifest)["normaliser"] for manifest in corpora.train} & {
        "letters",
        "none",
        "ml_superb",
        "whisper",
    }:
        tagged = [split_language(text) for text in texts]
        tags = sorted({tag for tag, _ in tagged} - {""})
        vocabulary = CharVocabulary((BLANK, " ", *sorted({c for _, text in tagged for c in text} - {" "}), *tags))
    else:
        vocabulary = CharVocabulary()
    check_spelling(vocabulary, texts)
    vocabulary.save(folder)
    return vocabulary


def check_spelling(vocabulary, texts: list[str]) -> None:
    """ValueError, one sentence, if the vocabulary cannot spell some of `texts`."""
    if not isinstance(vocabulary, CharVocabulary):
        for text in texts:
            vocabulary.encode(text)
        return
    by_text = [vocabulary.lacking(split_language(text)[1]) for text in texts]
    lacking = set().union(*by_text)
    if lacking:
        n_texts = sum(1 for one in by_text if one)
        raise ValueError(
            f"the vocabulary lacks {' '.join(sorted(lacking)[:10])}, which {n_texts} of {len(texts)} training and "
            "validation texts need: choose another normaliser, tokens: bpe, or a checkpoint without a CTC head"
        )


def in_case_of(texts: list[str], vocabulary: CharVocabulary) -> CharVocabulary:
    """The vocabulary of a checkpoint in upper case, where it has lower case only and the texts upper case.

    Its head stays as it is: the ids are the same, a token is the other case of its letter.
    """
    lacking = set().union(*(vocabulary.lacking(split_language(text)[1]) for text in texts))
    upper = upper_case(vocabulary.tokens)
    if not lacking or len(set(upper)) < len(upper) or not lacking & {*upper}:
        return vocabulary
    return CharVocabulary(upper)


def upper_case(tokens: Sequence[str]) -> tuple[str, ...]:
    """Tokens of one letter in upper case, where that is one letter too; others as they are."""
    return tuple(token.upper() if len(token) == len(token.upper()) == 1 else token for token in tokens)


def _own_vocabulary(config: Config) -> list[str] | None:
    """The vocabulary of the checkpoint's CTC head, of the chosen language where it has several; None without a head."""
    checkpoint = ENCODERS[config.encoder].checkpoint
    return checkpoint and checkpoint.vocabulary and checkpoint.vocabulary(config.values)


def has_checkpoint_vocabulary(config: Config, vocabulary) -> bool:
    """Whether the run's vocabulary is that of the encoder's own CTC head, which then serves as the last exit."""
    if config.init_from is not None or not config.values.get("checkpoint_head"):
        return False
    if config.tokens != "characters":  # a checkpoint without a tokenizer may still lend its encoder
        return False
    tokens = _own_vocabulary(config)
    return tokens is not None and vocabulary.tokens in (tuple(tokens), upper_case(tokens))


def build_model(
    config: Config,
    *,
    n_tokens: int,
    blank_index: int,
    checkpoint_head: bool = False,
    lens_body: dict | None = None,
    last_norm: bool = True,
) -> MultiExit:
    """A fresh model, or one that starts from `init_from`: encoder and the exits that both have.

    `checkpoint_head`: the last exit is the CTC head of the encoder's checkpoint. With `freeze_encoder` that head stays
    as it is. `lens_body`: see `build_heads`; heads then share one projection. `last_norm`: see `build_heads`; for a
    frozen encoder alone, whose projections then start small. Heads of `init_from` stay as they are. ValueError if
    `init_from` holds a model of another shape.
    """
    encoder, start, before = config.encoder_settings, None, []
    own = own_decoder_settings(config)
    without_exits = config.init_from is not None and is_pretrained_encoder(config.init_from)
    if config.init_from is not None and not without_exits:
        start = MultiExit.load(config.init_from)
        before = corpora_of(start.config)
        checkpoint_head = start.config["checkpoint_head"] and config.values.get("keep_layers") is None
        theirs = start.config["encoder"]
        if theirs["encoder"] != encoder["encoder"]:
            raise ValueError(
                f"init_from '{config.init_from}' has encoder {theirs['encoder']}, the YAML has {encoder['encoder']}"
            )
        checkpoint = ENCODERS[encoder["encoder"]].checkpoint
        if checkpoint is not None and own is None:  # the folder knows it: no hub needed
            encoder |= {name: theirs[name] for name in checkpoint.kept}
        cut = config.values.get("keep_layers") not in (None, start.encoder.n_layers)
        last_norm = start.config.get("last_norm", False) and not cut
    elif not config.freeze_encoder or checkpoint_head or config.values.get("head") in ("paper", "lens"):
        last_norm = False
    torch.manual_seed(config.seed)
    model = MultiExit(
        {
            "encoder": encoder,
            "exit_layers": config.exit_layers,
            "n_tokens": n_tokens,
            "blank_index": blank_index,
            "head": config.values.get("head", "linear"),
            "head_dim": config.values.get("head_dim"),
            "share_projection": config.share_projection or lens_body is not None,
            **({"lens_body": lens_body} if lens_body is not None else {}),
            **({"average_states": config.average_states} if config.average_states is not None else {}),
            "self_condition": config.values.get("self_condition", False),
            "head_dropout": config.head_dropout,
            "checkpoint_head": checkpoint_head,
            "decoder": decoder_settings(config),
            **({"own_decoder": own} if own is not None else {}),
            **({"last_norm": True} if last_norm else {}),
            "upsample": config.values.get("upsample", False),
            "sample_rate": config.sample_rate,
            "corpora": list(dict.fromkeys([*before, *config.trained_corpora])),
        }
    )
    if last_norm and start is None:
        with torch.no_grad():  # states have a large mean: a blank that starts low everywhere may never rise
            for projection in {head.projection for head in model.heads}:
                projection.weight.mul_(0.1)
                projection.bias.mul_(0.1)
    if start is not None:
        take = take_over if own is None else take_heads
        take(start, model, folder=config.init_from)
    elif without_exits:
        weights = first_layers(pretrained_weights(config.init_from), config.values.get("keep_layers"))
        take_encoder(weights, model, folder=config.init_from)
    if config.freeze_encoder:
        model.freeze_encoder()
        if checkpoint_head and config.values.get("keep_layers") is None:  # the head knows no other layer
            model.freeze_last_head()
    return model


def fit(config: Config, corpora: Corpora, *, folder: Path, run_opts) -> MultiExit:
    """Train (or go on training, or with `--test_only` just load) and leave `folder/model`.

    `folder`: the run folder: checkpoints in `save/`, `train_log.txt`, the model folder `model/`. Returns: averaged over
    the best checkpoints, in eval mode on CPU or the chosen device.
    """
    brain_class = load_brain_class(config.brain)
    vocabulary = make_vocabulary(config, corpora, folder / "model")
    if run_opts.test_only and not any((folder / "save").glob("CKPT*")):
        return MultiExit.load(folder / "model", device=run_opts.device or sb.utils.distributed.infer_device())
    model = build_model(
        config,
        n_tokens=len(vocabulary),
        blank_index=vocabulary.blank_index,
        checkpoint_head=has_checkpoint_vocabulary(config, vocabulary),
        last_norm=not _is_older(folder),
    )
    counter = EpochCounter(limit=config.n_epochs)
    checkpointer = WholeCheckpointer(folder / "save", recoverables={"model": model, "counter": counter})
    read = AudioCache(config.cache_audio_mb, sample_rate=config.sample_rate)
    train_items = manifest_items(corpora.train, limit=config.train_utterances)
    valid_items = manifest_items(corpora.valid, limit=config.test_utterances)
    train_items = without_long(train_items, config.train_max_s)
    if config.n_epochs:
        frames_for, rate = model.frames_for, config.sample_rate
        train_items = without_short(train_items, encode=vocabulary.encode, frames_for=frames_for, sample_rate=rate)
    to_train = config.n_epochs > 0 and not is_trained(folder, config.n_epochs)
    if config.cache_states and to_train:
        model.to(run_opts.device or sb.utils.distributed.infer_device())
        if sb.utils.distributed.if_main_process():
            everything = [*train_items.values(), *valid_items.values()]
            FrozenStates(folder / "states", model).fill(everything, read, sample_rate=config.sample_rate)
        sb.utils.distributed.ddp_barrier()  # the others read what the first has computed
        read = FrozenStates(folder / "states", model)
    datasets = [build_dataset(items, read=read, encode=vocabulary.encode) for items in (train_items, valid_items)]
    samplers = [
        dynamic_batches(
            dataset,
            batch_seconds=config.batch_seconds,
            batch_utterances=config.batch_utterances,
            shuffle=shuffle,
            seed=config.seed,
        )
        for dataset, shuffle in zip(datasets, (True, False), strict=True)
    ]
    brain = brain_class(
        model,
        config,
        vocabulary=vocabulary,
        n_batches=len(samplers[0]),
        run_opts=run_opts,
        checkpointer=checkpointer,
        train_log=str(folder / "train_log.txt"),
    )
    if not brain.distributed_launch:
        brain.train_sampler = samplers[0]  # SpeechBrain then tells it the epoch, so that each has its own batches
    loaders = [{"batch_sampler": sampler, "num_workers": config.n_workers} for sampler in samplers]
    if to_train and sb.utils.distributed.if_main_process():
        note_heard(folder, corpora.train)
    brain.fit(counter, *datasets, train_loader_kwargs=loaders[0], valid_loader_kwargs=loaders[1])
    averaged(checkpointer, model, config)
    bits = 8 if config.quantised_weights else 16 if config.half_weights else 32
    if sb.utils.distributed.if_main_process():
        model.save(folder / "model", bits=bits)
        write_transformers_files(folder / "model", vocabulary)
        write_hyperparams(folder / "model")
    sb.utils.distributed.ddp_barrier()  # the others read what the first has saved
    if bits < 32:
        return MultiExit.load(folder / "model", device=str(brain.device))
    return model.eval()


def without_long(items: dict[str, dict], max_s: float | None) -> dict[str, dict]:
    """Utterances of at most `max_s` seconds (all without a bound); how many are left out is logged."""
    if max_s is None:
        return items
    kept = {utt_id: item for utt_id, item in items.items() if item["duration"] <= max_s}
    if not kept:
        raise ValueError(f"train_max_s {max_s:g} leaves no training utterance")
    if len(kept) < len(items):
        seconds = sum(item["duration"] for item in items.values()) - sum(item["duration"] for item in kept.values())
        n = len(items) - len(kept)
        logger.warning("%d training utterances (%.1f s) are longer than train_max_s %g, left out", n, seconds, max_s)
    return kept


def averaged(checkpointer: Checkpointer, model: MultiExit, config: Config) -> None:
    """Load the mean of the weights of the best checkpoints (lowest WER on validation)."""
    best = checkpointer.find_checkpoints(min_key="WER", max_num_checkpoints=config.average_checkpoints)
    if not best:
        logger.warning("no checkpoint to average: the weights stay as they are")
        return
    unit = " nats" if config.select_on == "loss" else " %"
    named = ", ".join(f"epoch {c.meta['epoch']} ({c.meta['WER']:.2f}{unit})" for c in best)
    logger.info("averaging %d checkpoints: %s", len(best), named)
    model.load_state_dict(average_checkpoints(best, "model"))
