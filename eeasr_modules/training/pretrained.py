"""What a training takes from a trained model: weights to start from, and states of a frozen encoder.

To start from: encoder, whole or its first layers, heads of shared exits, attention decoder.

States of a frozen encoder at every exit are computed once and kept on disk: heads then train without the encoder.
`states.bin` holds bfloat16 numbers, utterance behind utterance, of shape (frames, exits x dim); `states.json` says
where each utterance lies, and of which encoder, exits and recordings they are. What was computed before a run was
stopped is not computed again; a recording whose size or time of change differs is.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from eeasr_modules.common.batches import length_batches
from eeasr_modules.common.files import write_aside
from eeasr_modules.data.audio_files import split_segment
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.schedule import LAYER

logger = logging.getLogger(__name__)


def first_layers(weights: dict[str, torch.Tensor], keep_layers: int | None) -> dict[str, torch.Tensor]:
    """State dictionary of an encoder without what belongs to layers after `keep_layers` (None: all stay)."""
    if keep_layers is None:
        return weights
    layers = {name: LAYER.match(name) for name in weights}
    return {name: weights[name] for name, found in layers.items() if not found or int(found.group(1)) < keep_layers}


def take_over(start: MultiExit, model: MultiExit, *, folder: str) -> None:
    """Copy into `model` the encoder of `start`, the heads of the exits that both have, and its attention decoder.

    A `model` with fewer layers gets the first ones. Where its last exit was an inner one of `start`, that exit's norm
    becomes the encoder's last norm: the model then says what the exit said, unless its layers normalise by themselves
    (`final_norm` None), when the head starts without that norm.

    ValueError if encoder, tokens, heads or decoders are of another shape.
    """
    last = model.encoder.n_layers
    take_encoder(first_layers(start.encoder.state_dict(), last), model, folder=folder)
    if start.config["n_tokens"] != model.config["n_tokens"]:
        raise ValueError(
            f"the heads of init_from '{folder}' have {start.config['n_tokens']} tokens, this model has "
            f"{model.config['n_tokens']}: give it a folder of its own with --output_folder"
        )
    if start.conditioning is not None and model.conditioning is not None:
        model.conditioning.load_state_dict(start.conditioning.state_dict())
    _take_decoder(start, model, folder=folder)
    theirs = dict(zip(start.exit_layers, start.heads, strict=True))
    for layer, head in zip(model.exit_layers, model.heads, strict=True):
        if layer not in theirs:
            continue
        weights = _upsampled(theirs[layer].state_dict(), head.upsampling // theirs[layer].upsampling)
        if layer == last < start.encoder.n_layers:
            weights = _without_norm(weights, model.encoder.final_norm)
        try:
            head.load_state_dict(weights)
        except RuntimeError as err:
            raise ValueError(
                f"the heads of init_from '{folder}' are of another kind (head: {start.config['head']}): "
                f"{' '.join(str(err).split())}"
            ) from err


def take_heads(start: MultiExit, model: MultiExit, *, folder: str) -> None:
    """Copy what `take_over` copies, but for the encoder: that stays the checkpoint's, which its own decoder follows.

    ValueError as `take_over`; or if the encoder of `start` is not that of `model` to the last step of 8 bits.
    """
    stock = {name: weights.clone() for name, weights in model.encoder.state_dict().items()}
    take_over(start, model, folder=folder)
    for name, weights in model.encoder.state_dict().items():
        rows = stock[name].reshape(len(stock[name]) if weights.ndim else 1, -1)
        step = rows.abs().amax(dim=1, keepdim=True) / 127
        if ((weights.reshape(rows.shape) - rows).abs() > step + 1e-6).any():
            raise ValueError(
                f"decoder: own follows the checkpoint's encoder as it was, that of init_from '{folder}' has learnt "
                f"({name}): give a model that was trained with freeze_encoder: true, or init_from: null"
            )
    model.encoder.load_state_dict(stock)


def _upsampled(weights: dict[str, torch.Tensor], times: int) -> dict[str, torch.Tensor]:
    """Weights of a head that says what it said in each of so many frames; CTC merges what repeats."""
    if times <= 1:
        return weights
    names = ("projection.weight", "projection.bias")
    return {**weights, **{name: torch.cat([weights[name]] * times) for name in names}}


def _take_decoder(start: MultiExit, model: MultiExit, *, folder: str) -> None:
    """Copy the attention decoder, and its norms of the exits that both have, where both have one."""
    if start.decoder is None or model.decoder is None:
        if start.decoder is not None:
            logger.warning("the attention decoder of init_from '%s' is left out: attention_decoder is false", folder)
        return
    weights = {name: value for name, value in start.decoder.state_dict().items() if not name.startswith("norms.")}
    own = {name: value for name, value in model.decoder.state_dict().items() if name.startswith("norms.")}
    try:
        model.decoder.load_state_dict({**own, **weights})
    except RuntimeError as err:
        raise ValueError(
            f"the attention decoder of init_from '{folder}' has another shape: {' '.join(str(err).split())}"
        ) from err
    theirs = dict(zip(start.exit_layers, start.decoder.norms, strict=True))
    for layer, norm in zip(model.exit_layers, model.decoder.norms, strict=True):
        if layer in theirs:
            norm.load_state_dict(theirs[layer].state_dict())


def _without_norm(weights: dict[str, torch.Tensor], final_norm: nn.Module | None) -> dict[str, torch.Tensor]:
    """Weights of an inner head for a last one; its norm goes into the encoder's."""
    norm = {name.removeprefix("norm."): value for name, value in weights.items() if name.startswith("norm.")}
    if final_norm is not None:
        final_norm.load_state_dict(norm)
    return {name: value for name, value in weights.items() if not name.startswith("norm.")}


def take_encoder(weights: dict[str, torch.Tensor], model: MultiExit, *, folder: str) -> None:
    """Load the encoder's `weights`; ValueError, naming `folder`, if they are of another shape.

    A downsampler that they lack stays as it was made.
    """
    own = model.encoder.state_dict()
    made = {name: value for name, value in own.items() if name.startswith("downsampler.")}
    try:
        model.encoder.load_state_dict({**made, **weights})
    except RuntimeError as err:
        raise ValueError(
            f"the encoder of init_from '{folder}' has another shape: {' '.join(str(err).split())}"
        ) from err


BYTES = 2  # of a bfloat16
BATCH_S = 60.0  # seconds of audio computed together
RESERVE = 2**28  # bytes of disk that are left alone


class FrozenStates:
    """The states of some utterances, read by the path of their audio.

    `folder`: where `states.bin` and `states.json` lie, or will.
    """

    def __init__(self, folder: Path, model: MultiExit):
        self.folder, self.model = Path(folder), model
        self.width = len(model.exit_layers) * model.encoder.dim
        self.of = _digest(model)
        self.places: dict[str, list] = {}  # path -> [first frame, frames, size and time of change of the file]
        self.n_frames = 0
        if self._notes.is_file():
            notes = json.loads(self._notes.read_text())
            if notes["of"] == self.of and self._states.is_file():
                self.places, self.n_frames = notes["places"], notes["n_frames"]

    @property
    def _states(self) -> Path:
        return self.folder / "states.bin"

    @property
    def _notes(self) -> Path:
        return self.folder / "states.json"

    def __call__(self, path: str) -> torch.Tensor:
        """States (frames, exits x dim) of one utterance, bfloat16."""
        first, n_frames, _ = self.places[path]
        offset, shape = first * self.width * BYTES, (n_frames, self.width)
        mapped = np.memmap(self._states, dtype=np.int16, mode="r", offset=offset, shape=shape)
        return torch.from_numpy(np.array(mapped)).view(torch.bfloat16)

    def fill(self, items: Sequence[dict], read: Callable[[str], torch.Tensor], *, sample_rate: int) -> None:
        """Compute what is not there yet.

        `items`: `wav` (path) and `duration` (s) of each utterance. `read`: a path to its waveform (samples,).
        ValueError if the disk has no room for them; said before anything is computed.
        """
        missing = [item for item in items if self.places.get(item["wav"], [0, 0, None])[2] != _stamp(item["wav"])]
        if not missing:
            return
        if self.places.keys() <= {item["wav"] for item in missing}:  # nothing of before is of use
            self.places, self.n_frames = {}, 0
        frames = sum(int(self.model.encoder.frames_for(int(item["duration"] * sample_rate))) for item in missing)
        needed = frames * self.width * BYTES
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if needed + RESERVE > free:
            raise ValueError(
                f"cache_states: true needs {needed / 1e9:.1f} GB in '{self.folder}', which has {free / 1e9:.1f} GB "
                "free: make room, give fewer exit_layers, or cache_states: false"
            )
        logger.info("states of %d utterances: %.2f GB in %s", len(missing), needed / 1e9, self.folder)
        with open(self._states, "r+b" if self.n_frames else "wb") as file:
            file.truncate(self.n_frames * self.width * BYTES)  # what a stopped run wrote and did not note
            file.seek(0, os.SEEK_END)
            batches = length_batches([item["duration"] for item in missing], BATCH_S)
            for i, batch in enumerate(tqdm(batches, desc="states of the frozen encoder", disable=None), start=1):
                self._add([missing[position] for position in batch], read, file)
                if i % 50 == 0 or i == len(batches):
                    file.flush()
                    self._note()

    @torch.no_grad()
    def _add(self, batch: list[dict], read: Callable[[str], torch.Tensor], file) -> None:
        wavs = [read(item["wav"]) for item in batch]
        n_samples = torch.tensor([len(wav) for wav in wavs])
        device = next(self.model.parameters()).device
        walk = self.model.walk(torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True).to(device), n_samples.to(device))
        views = torch.cat([walk.advance(layer).bfloat16().cpu() for layer in self.model.exit_layers], dim=2)
        for item, states, n in zip(batch, views, walk.n_frames.tolist(), strict=True):
            file.write(states[:n].contiguous().view(torch.int16).numpy().tobytes())
            self.places[item["wav"]] = [self.n_frames, n, _stamp(item["wav"])]
            self.n_frames += n

    def _note(self) -> None:
        write_aside(self._notes, json.dumps({"of": self.of, "n_frames": self.n_frames, "places": self.places}))


def _digest(model: MultiExit) -> str:
    """Of the encoder's weights and of which layers are exits."""
    digest = hashlib.sha256(json.dumps(model.exit_layers).encode())
    for name, value in sorted(model.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _stamp(wav: str) -> str:
    """Size and time of change of the file that an utterance lies in."""
    found = os.stat(split_segment(wav)[0])
    return f"{found.st_size}:{found.st_mtime_ns}"
