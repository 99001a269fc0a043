"""Pretraining without labels: from audio to an encoder that `init_from` takes.

The YAML's keys are `KEYS`; the encoder's are those of the fine-tuning YAMLs.
"""

import fnmatch
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import FileTrainLogger

from eeasr_modules.common.keys import Key
from eeasr_modules.data.audio_files import find_audio, look_at_audio
from eeasr_modules.data.manifest import audio_path, read_description, read_manifest
from eeasr_modules.data.pipeline import AudioCache, build_dataset, dynamic_batches, evenly_spaced, n_samples_of
from eeasr_modules.models.device import checked_device
from eeasr_modules.models.encoders import CONFORMER_KEYS, build_encoder
from eeasr_modules.models.folder import is_pretrained_encoder, pretrained_weights
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.config.config import load_yaml, parse
from eeasr_modules.training.run_folder import WholeCheckpointer, hold
from eeasr_modules.training.schedule import warmup_cosine
from recipes.Pretrain.masked_prediction import MaskedPredictor

logger = logging.getLogger(__name__)

N_FRAMES = 100_000  # that clusters are fitted on, about
VALID_EVERY = 50  # one file in so many is listened to, not trained on
SHAPE = ("n_layers", "dim", "n_heads", "ffn_dim", "kernel_size", "n_mels")
KEYS: dict[str, Key] = {
    "seed": Key(int, low=0),
    "output_folder": Key(str),
    "audio": Key(str, many=True),
    "leave_out": Key(str, many=True),
    "sample_rate": Key(int, low=1),
    "cache_audio_mb": Key(int, low=0),
    "least_s": Key(float, low=0.0),
    "most_s": Key(float, above=0.0),
    **{name: CONFORMER_KEYS[name] for name in (*SHAPE, "dropout")},
    "targets": Key(str, choices=("clusters", "random")),
    "teacher": Key(str, optional=True),
    "teacher_layer": Key(int, low=0),
    "n_codebooks": Key(int, low=1),
    "codebook_size": Key(int, low=2),
    "codebook_dim": Key(int, low=1),
    "mask_share": Key(float, above=0.0, high=0.9),
    "mask_frames": Key(int, low=1),
    "n_epochs": Key(int, low=1),
    "batch_seconds": Key(float, above=0.0),
    "batch_utterances": Key(int, low=1),
    "lr": Key(float, above=0.0),
    "warmup_share": Key(float, low=0.0, high=1.0),
    "final_lr_share": Key(float, low=0.0, high=1.0),
    "weight_decay": Key(float, low=0.0),
    "checkpoint_minutes": Key(float, above=0.0),
}


def load_settings(path: str | Path, overrides: str | dict = "") -> dict:
    """The YAML's keys, every one of `KEYS` and no other, each of its type; ValueError on the first that is not."""
    values = load_yaml(path, overrides)
    for kind, names in (("has the unknown", set(values) - set(KEYS)), ("lacks the", set(KEYS) - set(values))):
        if names:
            raise ValueError(f"'{path}' {kind} keys {', '.join(sorted(names))}")
    for name, value in values.items():
        KEYS[name].check(name, value)
    if not values["audio"]:
        raise ValueError("audio must name at least one folder or manifest, got []")
    return values


def list_audio(places: Sequence[str], *, leave_out: Sequence[str], least_s: float, most_s: float) -> dict[str, dict]:
    """Audio of folders and manifests as items of a dataset: `duration` (s) and `wav` (path); text is empty.

    Arguments
    ---------
    places : sequence of str
        Folders, searched to any depth, or manifests (`.csv`) as a preparation writes them, whose texts are not read.
    leave_out : sequence of str
        Patterns as in a shell (`*/test/*`) for paths that are not trained on.
    least_s, most_s : float
        Shorter and longer recordings are left out.

    Raises
    ------
    FileNotFoundError
        A place is missing, or nothing is left.
    """
    paths = []
    for place in places:
        if place.endswith(".csv"):
            root = read_description(place)["data_folder"]
            found = [audio_path(row.wav, root) for row in read_manifest(place)]
        elif Path(place).is_dir():
            found = sorted(find_audio(place).values())
        else:
            raise FileNotFoundError(f"audio must name folders or manifests (.csv), '{place}' is neither")
        paths += [path for path in found if not any(fnmatch.fnmatch(path.as_posix(), one) for one in leave_out)]
    looks = look_at_audio(paths, decode=False, title="audio")
    items = {
        path.as_posix(): {"duration": look.duration_s, "wav": str(path), "words": ""}
        for path, look in zip(paths, looks, strict=True)
        if look.wrong is None and least_s <= look.duration_s <= most_s
    }
    if not items:
        raise FileNotFoundError(f"no audio of {least_s:g} to {most_s:g} s in {', '.join(places)}")
    hours = sum(item["duration"] for item in items.values()) / 3600
    logger.info("%d recordings, %.2f h; %d left out", len(items), hours, len(paths) - len(items))
    return items


class PretrainBrain(sb.Brain):
    """Trains a `MaskedPredictor`, logging how many of the masked frames' codes it names.

    Arguments
    ---------
    model : MaskedPredictor
        What is trained.
    settings : dict
        As `load_settings` gives them.
    n_batches : int
        Batches per epoch, for the learning rate.
    run_opts : RunOptions
        SpeechBrain's command-line options.
    checkpointer : WholeCheckpointer
        Where recoverables go.
    """

    def __init__(self, model, settings, *, n_batches, run_opts, checkpointer):
        self.settings, self.n_batches, self.epoch = settings, n_batches, 1
        options = run_opts.as_dict() if hasattr(run_opts, "as_dict") else dict(run_opts or {})
        super().__init__(
            modules={"model": model},
            opt_class=lambda parameters: torch.optim.AdamW(
                parameters, lr=settings["lr"], betas=(0.9, 0.98), weight_decay=settings["weight_decay"]
            ),
            hparams={"seed": settings["seed"]},
            run_opts={**options, "ckpt_interval_minutes": settings["checkpoint_minutes"]},
            checkpointer=checkpointer,
        )
        self.logger = FileTrainLogger(save_file=str(Path(settings["output_folder"]) / "train_log.txt"), precision=3)

    def compute_forward(self, batch, stage):
        """Loss and counts of `MaskedPredictor.forward`."""
        wavs, relative = batch.to(self.device).sig
        return self.modules.model(wavs, n_samples_of(relative, wavs.shape[1]))

    def compute_objectives(self, predictions, batch, stage):
        """The loss; counts are summed for the log."""
        loss, n_right, n_masked = predictions
        self.n_right += n_right
        self.n_masked += n_masked
        return loss

    def on_fit_batch_start(self, batch, should_step):
        """Learning rate of this update, from the share of all updates that are done."""
        done = (self.epoch - 1) * self.n_batches + self.step
        self.optimizer.param_groups[0]["lr"] = self.settings["lr"] * warmup_cosine(
            done / max(1, self.n_batches * self.settings["n_epochs"]),
            warmup_share=self.settings["warmup_share"],
            final_share=self.settings["final_lr_share"],
        )

    def on_stage_start(self, stage, epoch=None):
        """Fresh counts; seeded, so that validation has the same masks every time."""
        self.n_right = self.n_masked = 0
        if stage == sb.Stage.TRAIN:
            self.epoch = epoch
            torch.manual_seed(self.settings["seed"] * 100003 + epoch)
        else:
            torch.manual_seed(self.settings["seed"])

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log, and keep the newest checkpoint."""
        accuracy = 100.0 * self.n_right / max(1, self.n_masked * self.settings["n_codebooks"])
        stats = {"loss": stage_loss, "masked_accuracy": accuracy}
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
            return
        lr = self.optimizer.param_groups[0]["lr"]
        self.logger.log_stats({"epoch": epoch, "lr": lr}, train_stats=self.train_stats, valid_stats=stats)
        self.checkpointer.save_and_keep_only(meta={"loss": stage_loss, "epoch": epoch, "accuracy": accuracy})


def load_teacher(folder: str | None) -> torch.nn.Module | None:
    """The encoder of a folder that `pretrain` or `train.py` left; None without a folder."""
    if folder is None:
        return None
    if not is_pretrained_encoder(folder):
        return MultiExit.load(folder).encoder
    encoder = build_encoder(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["encoder"])
    encoder.load_state_dict(pretrained_weights(folder))
    return encoder


def fit_clusters(model: MaskedPredictor, items: dict[str, dict], *, read: AudioCache, seed: int) -> None:
    """Fit the targets' clusters on recordings at even distances, about `N_FRAMES` frames of them."""
    total_s = sum(item["duration"] for item in items.values())
    n = max(1, round(len(items) * min(1.0, N_FRAMES / (25 * total_s))))
    sample = []
    model.eval()
    with torch.no_grad():
        for item in evenly_spaced(list(items.values()), n):
            wavs = read(item["wav"]).unsqueeze(0)
            features, n_frames = model.encoder.features(wavs, torch.tensor([wavs.shape[1]]))
            sample.append(model.inputs_of(features, n_frames)[0])
    model.targets.fit(torch.cat(sample), seed=seed)
    logger.info("clustered %d frames of %d recordings", sum(map(len, sample)), len(sample))


def pretrain(settings: dict, *, run_opts=None) -> Path:
    """Train (or go on training) and write the encoder's folder.

    Arguments
    ---------
    settings : dict
        As `load_settings` gives them.
    run_opts : RunOptions or dict, optional
        SpeechBrain's command-line options.

    Returns
    -------
    Path
        `<output_folder>/encoder`, for `init_from`.
    """
    folder = Path(settings["output_folder"])
    items = list_audio(
        settings["audio"],
        leave_out=settings["leave_out"],
        least_s=settings["least_s"],
        most_s=settings["most_s"],
    )
    torch.manual_seed(settings["seed"])
    encoder = {"encoder": "conformer", "sample_rate": settings["sample_rate"]}
    encoder |= {name: settings[name] for name in (*SHAPE, "dropout")}
    names = ("targets", "n_codebooks", "codebook_size", "codebook_dim", "mask_share", "mask_frames", "teacher_layer")
    model = MaskedPredictor(
        encoder, teacher=load_teacher(settings["teacher"]), **{name: settings[name] for name in names}
    )
    counter = EpochCounter(limit=settings["n_epochs"])
    checkpointer = WholeCheckpointer(folder / "save", recoverables={"model": model, "counter": counter})
    read = AudioCache(settings["cache_audio_mb"], sample_rate=settings["sample_rate"])
    paths = sorted(items)
    heard = set(paths[:: min(VALID_EVERY, len(paths))])
    parts = [{path: items[path] for path in paths if (path in heard) == valid} for valid in (False, True)]
    datasets = [build_dataset(part, read=read, encode=lambda text: [0]) for part in parts if part]
    samplers = [
        dynamic_batches(
            dataset,
            batch_seconds=settings["batch_seconds"],
            batch_utterances=settings["batch_utterances"],
            shuffle=shuffle,
            seed=settings["seed"],
        )
        for dataset, shuffle in zip(datasets, (True, False), strict=False)
    ]
    if settings["targets"] == "clusters" and checkpointer.find_checkpoint() is None:
        fit_clusters(model, parts[0], read=read, seed=settings["seed"])
    brain = PretrainBrain(model, settings, n_batches=len(samplers[0]), run_opts=run_opts, checkpointer=checkpointer)
    if not brain.distributed_launch:
        brain.train_sampler = samplers[0]
    loaders = [{"batch_sampler": sampler} for sampler in samplers]
    brain.fit(counter, *datasets, train_loader_kwargs=loaders[0], valid_loader_kwargs=loaders[1])
    if sb.utils.distributed.if_main_process():
        last = checkpointer.find_checkpoint()
        about = {
            "teacher": settings["teacher"] and Path(settings["teacher"]).name,
            "hours": round(sum(item["duration"] for item in items.values()) / 3600, 2),
        }
        about |= {name: settings[name] for name in names}
        about |= {} if last is None else {key: last.meta[key] for key in ("epoch", "loss", "accuracy")}
        model.save(folder / "encoder", about=about)
    return folder / "encoder"


def main(argv: list[str]) -> int:
    """Command line of `recipes/Pretrain/pretrain.py`: 0 when done, 2 with one sentence on wrong input."""
    import sys

    from eeasr_modules.training.run import log_to

    try:
        yaml_path, run_opts, overrides = parse(argv)
        settings = load_settings(yaml_path, overrides)
        checked_device(run_opts.device or sb.utils.distributed.infer_device())
        if sb.utils.distributed.if_main_process():
            hold(settings["output_folder"])
        log_to(Path(settings["output_folder"]))
        print(pretrain(settings, run_opts=run_opts))
    except (ValueError, OSError) as err:
        print(f"pretrain.py: error: {err}", file=sys.stderr)
        return 2
    return 0
