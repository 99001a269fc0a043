"""From a checked configuration and manifests to a trained model folder."""

import hashlib
import importlib
import json
import logging
import os
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import Checkpointer, average_checkpoints
from speechbrain.utils.epoch_loop import EpochCounter

from eeasr_modules.data.pipeline import AudioCache, build_dataset, dynamic_batches, manifest_items
from eeasr_modules.data.text import CharVocabulary, load_vocabulary, train_sentencepiece
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.config import Config
from eeasr_modules.training.corpora import Corpora, texts_of

logger = logging.getLogger(__name__)

# what may not change between the sittings of one run: its checkpoints would not fit or would mean something else
FIXED = ("exit_layers", "encoder", "n_layers", "dim", "n_heads", "ffn_dim", "kernel_size", "n_mels", "tokens")
FIXED += ("n_tokens", "share_projection", "sample_rate", "corpus", "freeze_encoder", "exit_weights")


def check_run_folder(config: Config, folder: Path) -> None:
    """Refuse to go on in a folder that holds a run of another shape; note the shape in a new one.

    Raises
    ------
    ValueError
        Naming the first key that differs.
    """
    note = folder / "run.json"
    shape = {name: config.values[name] for name in FIXED}
    if note.is_file():
        before = json.loads(note.read_text())
        for name, value in shape.items():
            if before.get(name) != value:
                raise ValueError(
                    f"'{folder}' holds a run with {name} {before.get(name)}, this one has {value}: "
                    "give it a folder of its own with --output_folder"
                )
        return
    folder.mkdir(parents=True, exist_ok=True)
    note.with_suffix(".tmp").write_text(json.dumps(shape, indent=2) + "\n")
    os.replace(note.with_suffix(".tmp"), note)


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
    """The run's vocabulary: the one it has, else that of `init_from`, else characters or a trained SentencePiece."""
    try:
        return load_vocabulary(folder)
    except FileNotFoundError:
        pass
    if config.init_from is not None:
        vocabulary = load_vocabulary(config.init_from)
    elif config.tokens == "characters":
        vocabulary = CharVocabulary()
    else:
        return train_sentencepiece(texts_of(corpora.train), folder, size=config.n_tokens, model_type=config.tokens)
    vocabulary.save(folder)
    return vocabulary


def build_model(config: Config, *, n_tokens: int, blank_index: int) -> MultiExit:
    """A fresh model, or one that starts from `init_from`: encoder and the exits that both have."""
    torch.manual_seed(config.seed)
    model = MultiExit(
        {
            "encoder": config.encoder_settings,
            "exit_layers": config.exit_layers,
            "n_tokens": n_tokens,
            "blank_index": blank_index,
            "share_projection": config.share_projection,
            "head_dropout": config.head_dropout,
            "sample_rate": config.sample_rate,
            "corpus": config.corpus,
        }
    )
    if config.init_from is not None:
        start = MultiExit.load(config.init_from)
        try:
            model.encoder.load_state_dict(start.encoder.state_dict())
        except RuntimeError as err:
            raise ValueError(f"the encoder of init_from '{config.init_from}' has another shape: {err}") from err
        theirs = dict(zip(start.exit_layers, start.heads, strict=True))
        for layer, head in zip(model.exit_layers, model.heads, strict=True):
            if layer in theirs:
                head.load_state_dict(theirs[layer].state_dict())
    if config.freeze_encoder:
        model.freeze_encoder()
    return model


def fit(config: Config, corpora: Corpora, *, folder: Path, run_opts) -> MultiExit:
    """Train (or go on training, or with `--test_only` just load) and leave `folder/model`.

    Arguments
    ---------
    config : Config
        Checked.
    corpora : Corpora
        Manifests.
    folder : Path
        The run folder: checkpoints in `save/`, `train_log.txt`, the model folder `model/`.
    run_opts : RunOptions
        SpeechBrain's command-line options.

    Returns
    -------
    MultiExit
        Averaged over the best checkpoints, in eval mode on CPU or the chosen device.
    """
    brain_class = load_brain_class(config.brain)
    vocabulary = make_vocabulary(config, corpora, folder / "model")
    if run_opts.test_only and not any((folder / "save").glob("CKPT*")):
        return MultiExit.load(folder / "model")
    model = build_model(config, n_tokens=len(vocabulary), blank_index=vocabulary.blank_index)
    counter = EpochCounter(limit=config.n_epochs)
    checkpointer = Checkpointer(folder / "save", recoverables={"model": model, "counter": counter})
    read = AudioCache(config.cache_audio_mb, sample_rate=config.sample_rate)
    datasets = [
        build_dataset(manifest_items(manifests, limit=limit), read=read, encode=vocabulary.encode)
        for manifests, limit in ((corpora.train, config.train_utterances), (corpora.valid, config.test_utterances))
    ]
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
    if not run_opts.distributed_launch:
        brain.train_sampler = samplers[0]  # SpeechBrain then tells it the epoch, so that each has its own batches
    loaders = [{"batch_sampler": sampler, "num_workers": config.n_workers} for sampler in samplers]
    brain.fit(counter, *datasets, train_loader_kwargs=loaders[0], valid_loader_kwargs=loaders[1])
    averaged(checkpointer, model, config)
    if sb.utils.distributed.if_main_process():
        model.save(folder / "model")
    return model.eval()


def averaged(checkpointer: Checkpointer, model: MultiExit, config: Config) -> None:
    """Load the mean of the weights of the best checkpoints (lowest WER on validation)."""
    best = checkpointer.find_checkpoints(min_key="WER", max_num_checkpoints=config.average_checkpoints)
    if not best:
        logger.warning("no checkpoint to average: the weights stay as they are")
        return
    named = ", ".join(f"epoch {c.meta['epoch']} ({c.meta['WER']:.2f} %)" for c in best)
    logger.info("averaging %d checkpoints: %s", len(best), named)
    model.load_state_dict(average_checkpoints(best, "model"))


def model_digest(folder: Path) -> str:
    """SHA-256 over a model folder's weights and settings."""
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()
