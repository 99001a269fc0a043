"""What a training writes besides `train_log.txt`: TensorBoard or Weights & Biases, and samples of transcripts."""

from pathlib import Path

from speechbrain.utils.train_logger import TensorboardLogger, TrainLogger, WandBLogger

LOGGERS = ("none", "tensorboard", "wandb")
N_SAMPLES = 3  # utterances of the validation data whose transcripts are written after every epoch


def extra_logger(name: str, folder: Path) -> TrainLogger | None:
    """SpeechBrain's logger of that name; None for "none".

    Arguments
    ---------
    name : str
        One of `LOGGERS`.
    folder : Path
        The run folder. TensorBoard's files go to `tensorboard/`, W&B's (offline unless WANDB_MODE says otherwise) to
        `wandb/`.

    Raises
    ------
    ImportError
        When its package is not installed.
    """
    if name == "none":
        return None
    try:
        if name == "tensorboard":
            return TensorboardLogger(str(folder / "tensorboard"))
        import os

        import wandb
    except ImportError as err:
        raise ImportError(f"logger: {name} needs a package: pip install 'eeasr[{name}]'") from err
    os.environ.setdefault("WANDB_MODE", "offline")
    return WandBLogger(initializer=wandb.init, project="eeasr", name=folder.name, dir=str(folder), resume="allow")


class Samples:
    """Transcripts of a few utterances by every exit, epoch after epoch, in `samples.txt`.

    Arguments
    ---------
    path : Path
        The file; epochs are appended.
    exit_layers : list of int
        The exits.
    n : int
        The first so many utterances of the validation data, the same after every epoch.
    """

    def __init__(self, path: Path, exit_layers: list[int], *, n: int = N_SAMPLES):
        self.path, self.exit_layers, self.n = path, exit_layers, n
        self.said: dict[str, tuple[str, list[str]]] = {}

    def take(self, utt_ids: list[str], references: list[str], texts: list[list[str]]) -> None:
        """Look at one batch: `texts` by exit and utterance."""
        for i, (utt_id, reference) in enumerate(zip(utt_ids, references, strict=True)):
            if len(self.said) == self.n:
                return
            self.said[utt_id] = reference, [by_exit[i] for by_exit in texts]

    def write(self, epoch: int) -> str:
        """Append what was taken, forget it, and give it as text."""
        lines = [f"epoch {epoch}"]
        for utt_id, (reference, texts) in self.said.items():
            lines.append(f"  {utt_id}: {reference}")
            lines += [f"    layer {layer:2d}  {text}" for layer, text in zip(self.exit_layers, texts, strict=True)]
        self.said = {}
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        return "\n".join(lines)
