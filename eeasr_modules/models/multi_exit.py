"""A model with several exits: the walk and its heads in one module, and its folder on disk."""

import itertools
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from eeasr_modules.common.files import write_aside
from eeasr_modules.models.decoding.attention import AttentionDecoder
from eeasr_modules.models.encoders import build_encoder
from eeasr_modules.models.folder import Unset, of_the_model, read_weights, weight_files, write_weights
from eeasr_modules.models.heads import SelfConditioning, build_heads
from eeasr_modules.models.walk import Walk

FOLDER_VERSION = 1
DEFAULTS = {
    "head": "linear",
    "head_dim": None,
    "head_dropout": 0.0,
    "share_projection": False,
    "self_condition": False,
    "checkpoint_head": False,
    "decoder": None,
    "upsample": False,
    "sample_rate": 16000,
}


@dataclass(frozen=True)
class ExitOutput:
    """What one exit gives for a batch."""

    exit_layer: int  # layers run, from 1
    log_probs: torch.Tensor  # (batch, frames, tokens): float32
    hidden: torch.Tensor  # (batch, frames, dim): layer states that the head saw
    n_frames: torch.Tensor  # (batch,): valid frames


def check_exit_layers(exit_layers: list[int], n_layers: int) -> list[int]:
    """`exit_layers` as a list, or one sentence on what is wrong with it.

    Example
    -------
    >>> check_exit_layers([3, 9, 6], 12)
    Traceback (most recent call last):
    ...
    ValueError: exit_layers must rise and end at 12 (the encoder's last layer), got [3, 9, 6]
    """
    whole = isinstance(exit_layers, (list, tuple)) and all(type(layer) is int for layer in exit_layers)
    rising = whole and all(a < b for a, b in itertools.pairwise(exit_layers))
    if not (rising and exit_layers and exit_layers[0] >= 1 and exit_layers[-1] == n_layers):
        raise ValueError(f"exit_layers must rise and end at {n_layers} (the encoder's last layer), got {exit_layers}")
    return list(exit_layers)


class MultiExit(nn.Module):
    """An encoder with a CTC head at each exit, and perhaps an attention decoder that all exits share.

    `config`: `encoder` (a dict for `build_encoder`), `exit_layers` (from 1, rising, ending at the last layer),
    `n_tokens`, `blank_index`, `head` (`linear`, `mlp`, `attention`), `head_dim`, `head_dropout` (None: the
    checkpoint's), `share_projection`, `self_condition` (see `SelfConditioning`), `checkpoint_head` (the last exit is
    the CTC head of the encoder's `...ForCTC` checkpoint, and inner linear heads start from it), `decoder` (None, or a
    dict of what `AttentionDecoder` needs: `n_layers`, `dim`, `n_heads`, `ffn_dim`, `dropout`), `upsample` (heads give
    as many frames as if the encoder did not downsample), `average_states` (layers of exits: the last of them projects
    the mean of their heads' states, but not in training; absent for none), `lens_body` and `last_norm` (see
    `build_heads`; absent for none), `own_decoder` (arguments of `encoders.own_decoder.OwnDecoder`, whose weights stay
    in the checkpoint; absent for none), `sample_rate`; everything that `config.json` of a model folder holds. What an
    encoder reads from a checkpoint is filled in, so that the folder is enough to load the model.

    Example
    -------
    >>> encoder = {"encoder": "conformer", "n_layers": 2, "dim": 16, "n_heads": 2, "ffn_dim": 32}
    >>> model = MultiExit({"encoder": encoder, "exit_layers": [1, 2], "n_tokens": 29, "blank_index": 0}).eval()
    >>> [e.log_probs.shape for e in model.exits(torch.randn(1, 16000), torch.tensor([16000]))]
    [torch.Size([1, 26, 29]), torch.Size([1, 26, 29])]
    """

    def __init__(self, config: dict):
        super().__init__()
        self.config = {**DEFAULTS, **config}
        self.encoder = build_encoder(config["encoder"])
        self.config["encoder"] = getattr(self.encoder, "settings", config["encoder"])
        if self.config["head_dropout"] is None:
            self.config["head_dropout"] = getattr(self.encoder, "head_dropout", None)
        self.exit_layers = check_exit_layers(config["exit_layers"], self.encoder.n_layers)
        self.blank_index = config["blank_index"]
        self.upsampling = self._upsampling()
        self.heads = build_heads(
            self.encoder,
            self.exit_layers,
            n_tokens=config["n_tokens"],
            kind=self.config["head"],
            width=self.config["head_dim"],
            shared=self.config["share_projection"],
            dropout=self.config["head_dropout"] or 0.0,
            plain_last=self.config["checkpoint_head"],
            upsampling=self.upsampling,
            lens_body=self.config.get("lens_body"),
            last_norm=self.config.get("last_norm", False),
        )
        self.conditioning = None
        if self.config["self_condition"]:
            inner = dict(zip(self.exit_layers[:-1], self.heads[:-1], strict=True))
            self.conditioning = SelfConditioning(inner, n_tokens=config["n_tokens"], dim=self.encoder.dim)
        self.decoder = None
        if self.config["decoder"] is not None:
            self.decoder = AttentionDecoder(
                self.encoder.dim,
                n_exits=len(self.exit_layers),
                n_tokens=config["n_tokens"],
                blank_index=self.blank_index,
                **self.config["decoder"],
            )
        self.averaged = self._averaged_exits(self.config.get("average_states"))
        self.encoder_frozen, self.last_head_frozen = False, False
        if self.config["checkpoint_head"] and not config["encoder"].get("hf_config"):
            self._take_checkpoint_head()

    def _averaged_exits(self, layers: list[int] | None) -> tuple[int, ...]:
        """Exits, from 0, whose heads' states are averaged at the last of them; empty for none."""
        if layers is None:
            return ()
        exits = [self.exit_layers.index(layer) for layer in layers if layer in self.exit_layers]
        if len(exits) < max(2, len(layers)) or exits != sorted(set(exits)):
            raise ValueError(
                f"average_states must name two or more of the exits, after layers {self.exit_layers}, rising, "
                f"got {layers}"
            )
        if not self.config["share_projection"] or self.config["self_condition"]:
            raise ValueError(
                "average_states needs heads that end in one projection and tell nothing on: give share_projection: "
                "true and self_condition: false"
            )
        return tuple(exits)

    @property
    def all_exit_layers(self) -> list[int]:
        """Layers of the exits, that of the checkpoint's own decoder behind those of the heads."""
        own = self.config.get("own_decoder")
        return [*self.exit_layers, *([] if own is None else [own["exit_layer"]])]

    @property
    def reach(self) -> int:
        """How many exits back the states lie that an exit reads besides its own."""
        return self.averaged[-1] - self.averaged[0] if self.averaged else 0

    def read(self, exit_index: int, views: Sequence[torch.Tensor], n_frames: torch.Tensor) -> torch.Tensor:
        """Log-probs (batch, frames, tokens) of one exit, from 0.

        `views` (each batch, frames, dim) are what heads see at this exit, then at those before it, the latest first;
        `reach` of them at least.
        """
        head = self.heads[exit_index]
        if self.training or not self.averaged or exit_index != self.averaged[-1]:
            return head(views[0], n_frames)
        states = [self.heads[e].states(views[exit_index - e], n_frames) for e in self.averaged]
        return head.log_probs(torch.stack(states).mean(dim=0))

    def _upsampling(self) -> int:
        """Frames of log-probs for each frame of the encoder."""
        if not self.config["upsample"]:
            return 1
        if getattr(self.encoder, "downsampler", None) is None:
            raise ValueError("upsample: true makes good what downsample took away, but downsample is null")
        if self.config["checkpoint_head"]:
            raise ValueError(
                "upsample: true needs a head of its own at every exit, but the last is the checkpoint's: give a "
                "vocabulary of your own (tokens: characters)"
            )
        if self.config["decoder"] is not None:
            raise ValueError("upsample: true is for CTC, but a decoder reads the encoder's own frames: leave one out")
        return self.encoder.downsampler.factor

    def _take_checkpoint_head(self) -> None:
        """Copy the checkpoint's projection into the last head, and into inner linear heads to start from."""
        ctc = getattr(self.encoder, "ctc", None)
        if ctc is None:
            raise ValueError(
                "checkpoint_head needs an encoder that is read from a ...ForCTC checkpoint, this one is not"
            )
        ours = (self.config["n_tokens"], self.blank_index)
        if ours != (len(ctc.bias), ctc.blank_index):
            raise ValueError(
                f"the checkpoint's head has {len(ctc.bias)} tokens with blank {ctc.blank_index}, the vocabulary "
                f"{ours[0]} with blank {ours[1]}: use the checkpoint's own vocabulary"
            )
        with torch.no_grad():
            for head in self.heads:
                if head.body is None:
                    head.projection.weight.copy_(ctc.weight)
                    head.projection.bias.copy_(ctc.bias)

    def freeze_encoder(self) -> None:
        """Train heads only: the encoder stays in eval mode and stores no gradients."""
        self.encoder_frozen = True
        self.encoder.requires_grad_(False)
        self.encoder.eval()

    def freeze_last_head(self) -> None:
        """Leave the last exit's head as it is, without dropout: a checkpoint's own head on its own, frozen encoder.

        ValueError if heads share the projection: it would freeze theirs.
        """
        if self.config["share_projection"]:
            raise ValueError(
                "the last head cannot stay as it is while it shares its projection: share_projection is true"
            )
        self.last_head_frozen = True
        self.heads[-1].requires_grad_(False)
        self.heads[-1].eval()

    def train(self, mode: bool = True) -> "MultiExit":
        """As in torch, but what is frozen stays in eval mode (`Brain.fit` calls `train()` every epoch)."""
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
        if self.last_head_frozen:
            self.heads[-1].eval()
        return self

    def walk(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> Walk:
        """A batch at the start of its way through the encoder, exits told on where the model is self-conditioned.

        `wavs` (batch, samples): zero-padded waveforms. `n_samples` (batch,): valid samples.
        """
        return Walk(self.encoder, wavs, n_samples, conditioning=self.conditioning, upsampling=self.upsampling)

    def frames_for(self, n_samples):
        """Frames of log-probs that so many samples give (an int or a tensor)."""
        return self.encoder.frames_for(n_samples) * self.upsampling

    @property
    def frame_s(self) -> float:
        """Seconds from one frame of log-probs to the next, by how many frames another 100 s of audio give."""
        one, two = (int(self.frames_for(n * 100 * self.config["sample_rate"])) for n in (1, 2))
        return 100 / (two - one)

    def exits(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> Iterator[ExitOutput]:
        """Exit after exit, each computed when it is asked for.

        `wavs` (batch, samples): zero-padded. `n_samples` (batch,): valid ones.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            walk = self.walk(wavs, n_samples)
        views: deque[torch.Tensor] = deque(maxlen=self.reach + 1)
        for exit_index, layer in enumerate(self.exit_layers):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
                hidden = walk.advance(layer)
            views.appendleft(hidden)
            log_probs = self.read(exit_index, views, walk.n_frames)
            if self.conditioning is not None:
                walk.tell(log_probs)
            yield ExitOutput(layer, log_probs, hidden, walk.n_frames)

    def forward(
        self,
        wavs: torch.Tensor,
        n_samples: torch.Tensor,
        *,
        prefixes: torch.Tensor | None = None,
        spelling_exits: tuple[int, ...] = (),
        are_states: bool = False,
    ) -> tuple[list[torch.Tensor], torch.Tensor] | tuple[list[torch.Tensor], torch.Tensor, dict[int, torch.Tensor]]:
        """Log-probs of every exit and frame counts; with `prefixes` also what the attention decoder would say next.

        The decoder is read here and not by the caller, as wrapping for several processes needs. `wavs` (batch,
        samples): zero-padded. `n_samples` (batch,): valid ones.

        Arguments
        ---------
        prefixes : torch.Tensor of shape (batch, tokens) or None
            Of `AttentionDecoder.prefixes`; None leaves the decoder unread.
        spelling_exits : tuple of int
            Exits, from 0, whose states the decoder then reads.
        are_states : bool
            `wavs` are the states that heads see, (batch, frames, exits x dim), and `n_samples` frames: heads alone run.

        Returns
        -------
        log_probs : list of torch.Tensor of shape (batch, frames, tokens)
            CTC, one per exit.
        n_frames : torch.Tensor of shape (batch,)
            Valid frames.
        spelled : dict of int to torch.Tensor of shape (batch, tokens, tokens + 2)
            Log-probs of the decoder by exit; only where `prefixes` are given.
        """
        if are_states:
            views = wavs.unflatten(-1, (len(self.heads), -1)).unbind(dim=2)
            return [self.read(e, views[e::-1], n_samples) for e in range(len(views))], n_samples
        outputs = list(self.exits(wavs, n_samples))
        log_probs, n_frames = [output.log_probs for output in outputs], outputs[-1].n_frames
        if prefixes is None:
            return log_probs, n_frames
        spelled = {}
        for e in spelling_exits:
            memory = self.decoder.memory(outputs[e].hidden, exit_index=e)
            spelled[e] = self.decoder.log_probs(prefixes, memory, n_frames)
        return log_probs, n_frames, spelled

    def macs(self, n_samples: int) -> tuple[list[float], list[float]]:
        """Multiply-accumulates for one utterance: (front end and layers up to each exit, each head)."""
        n_frames = int(self.encoder.frames_for(n_samples))
        front, layer = self.encoder.front_end_macs(n_samples), self.encoder.layer_macs(n_frames)
        up_to = [front + depth * layer for depth in self.exit_layers]
        up_to = [one + self.told_macs(n_frames, n_layers=n) for one, n in zip(up_to, self.exit_layers, strict=True)]
        heads = [head.macs(n_frames) for head in self.heads]
        for e in self.averaged[:-1]:
            heads[self.averaged[-1]] += 0.0 if self.heads[e].body is None else self.heads[e].body.macs(n_frames)
        return up_to, heads

    def told_macs(self, n_frames: int, *, n_layers: int) -> float:
        """Multiply-accumulates of telling exits on, for one utterance that ran `n_layers`; 0 without conditioning."""
        if self.conditioning is None:
            return 0.0
        layers = [layer for layer in self.conditioning.layers if layer < n_layers]
        return sum((self.conditioning.macs(n_frames, layer=layer) for layer in layers), 0.0)

    def save(self, folder: str | Path, *, half: bool = False, bits: int | None = None) -> None:
        """Write `config.json` and the weights into a model folder.

        `bits`: 32, 16 or 8 (`models.folder`); None: as `half` says.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(self, folder, bits=bits or (16 if half else 32))
        text = json.dumps({"folder_version": FOLDER_VERSION, **self.config}, indent=2) + "\n"
        write_aside(folder / "config.json", text)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> "MultiExit":
        """The model of a folder, in eval mode and float32.

        FileNotFoundError if `config.json` or the weights are missing. ValueError if the weights cannot be read or do
        not fit the config.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"expected a model folder with config.json in it, found none in '{folder}'")
        files = weight_files(folder)
        config = of_the_model(json.loads((folder / "config.json").read_text()))
        version = config.pop("folder_version", None)
        if version != FOLDER_VERSION:
            raise ValueError(f"'{folder}' has folder_version {version}; this program reads {FOLDER_VERSION}")
        with Unset():
            model = cls(config)
        read_weights(model, files)
        return model.to(device).eval()
