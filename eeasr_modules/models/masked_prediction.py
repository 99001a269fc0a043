"""Self-supervised training of an encoder: predict codes of masked speech (HuBERT, BEST-RQ)."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from eeasr_modules.models.encoders import build_encoder
from eeasr_modules.models.masked_targets import KINDS, STACKED, stack_frames

FOLDER_VERSION = 1
NOISE = 0.1  # standard deviation of what replaces masked features, which have 1


class MaskedPredictor(nn.Module):
    """A Conformer that predicts, where its input is masked, codes of the unmasked input.

    Spans of the filterbanks are replaced by noise; at those places the last layer says which codes were there. Codes
    come from the filterbanks, four of their frames to one of the encoder's, or from a layer of a `teacher`.

    Arguments
    ---------
    encoder : dict
        For `build_encoder`, kind `conformer`. SpecAugment in it should be off: masks are ours.
    targets : str
        `random` (BEST-RQ) or `clusters` (HuBERT); clusters are to be fitted: `inputs_of`, then `targets.fit`.
    n_codebooks, codebook_size, codebook_dim : int
        See `masked_targets`.
    mask_share : float
        Share of the frames that is masked, about.
    mask_frames : int
        Length of a masked span, in frames of 40 ms.
    teacher : nn.Module or None
        An encoder with the same frames, whose layer `teacher_layer` (from 1) is coded; it is not trained nor saved.
    teacher_layer : int
        Which of its layers.

    Example
    -------
    >>> encoder = {"encoder": "conformer", "n_layers": 2, "dim": 16, "n_heads": 2, "ffn_dim": 32}
    >>> model = MaskedPredictor(encoder, targets="random", n_codebooks=2, codebook_size=32)
    >>> loss, n_right, n_masked = model(torch.randn(2, 32000), torch.tensor([32000, 16000]))
    >>> loss.shape, 0 <= n_right <= 2 * n_masked
    (torch.Size([]), True)
    """

    def __init__(
        self,
        encoder: Mapping,
        *,
        targets: str = "clusters",
        n_codebooks: int = 2,
        codebook_size: int = 200,
        codebook_dim: int = 24,
        mask_share: float = 0.4,
        mask_frames: int = 8,
        teacher: nn.Module | None = None,
        teacher_layer: int = 0,
    ):
        super().__init__()
        if encoder.get("encoder") != "conformer":
            raise ValueError(f"masked prediction needs encoder conformer, got {encoder.get('encoder')!r}")
        if encoder.get("downsample") or getattr(teacher, "downsampler", None) is not None:
            raise ValueError("masked prediction needs an encoder and a teacher with downsample: null, got one with it")
        if targets not in KINDS:
            raise ValueError(f"targets must be one of {', '.join(KINDS)}, got {targets!r}")
        if teacher is not None and not 1 <= teacher_layer <= teacher.n_layers:
            raise ValueError(f"teacher_layer must lie between 1 and {teacher.n_layers}, got {teacher_layer}")
        self.settings = dict(encoder)
        self.encoder = build_encoder(self.settings)
        self.mask_share, self.mask_frames = mask_share, mask_frames
        # in a list, so that it is no part of our state and stays in eval mode
        self._teacher = [teacher.eval().requires_grad_(False)] if teacher is not None else []
        self.teacher_layer = teacher_layer
        self.targets = KINDS[targets](
            STACKED * self.encoder.n_mels if teacher is None else teacher.dim,
            n_codebooks=n_codebooks,
            codebook_size=codebook_size,
            codebook_dim=codebook_dim,
        )
        self.n_codebooks = n_codebooks
        self.predict = nn.Linear(self.encoder.dim, n_codebooks * codebook_size)

    def inputs_of(self, features: torch.Tensor, n_features: torch.Tensor) -> torch.Tensor:
        """What is coded: features (batch, frames of 10 ms, n_mels) -> (batch, frames of 40 ms, width)."""
        if self._teacher:
            (teacher,) = self._teacher
            teacher.to(features.device)
            with torch.no_grad():
                state = teacher.front_end_of(features, n_features)
                for layer in range(1, self.teacher_layer + 1):
                    state = teacher.run_layer(layer, state)
            return state.hidden.float()
        halved = self.encoder.subsampling.halved
        return stack_frames(features, halved(halved(features.shape[1])))

    def draw_mask(self, n_frames: torch.Tensor) -> torch.Tensor:
        """Masked frames (batch, frames), bool: spans that may overlap, at least one for each utterance."""
        width = int(n_frames.max())
        starts = torch.rand(len(n_frames), width, device=n_frames.device)
        # a frame stays unmasked if none of the spans that could hold it starts
        chance = 1.0 - (1.0 - self.mask_share) ** (1.0 / self.mask_frames)
        places = torch.arange(width, device=n_frames.device)
        starts = starts.masked_fill(places >= n_frames.unsqueeze(1), 1.0)
        starts = (starts < chance) | (starts == starts.amin(1, keepdim=True))
        spread = nn.functional.pad(starts.float(), (self.mask_frames - 1, 0)).unsqueeze(1)
        masked = nn.functional.max_pool1d(spread, self.mask_frames, stride=1).squeeze(1) > 0
        return masked & (places < n_frames.unsqueeze(1))

    def forward(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> tuple[torch.Tensor, int, int]:
        """Mean cross-entropy of the codes at masked frames, how many codes were right, and how many frames masked.

        Arguments
        ---------
        wavs : torch.Tensor of shape (batch, samples)
            Zero-padded waveforms.
        n_samples : torch.Tensor of shape (batch,)
            Valid samples.
        """
        features, n_features = self.encoder.features(wavs, n_samples)
        with torch.no_grad():
            codes = self.targets(self.inputs_of(features, n_features))
        masked = self.draw_mask(self.encoder.frames_for(n_samples))  # (batch, frames)
        hidden_input = masked.repeat_interleave(STACKED, dim=1)
        # aligned as the codes are: the span begins one filterbank frame before the encoder frame's centre
        hidden_input = nn.functional.pad(hidden_input[:, 1:], (0, features.shape[1] - hidden_input.shape[1] + 1))
        noise = NOISE * torch.randn_like(features)
        state = self.encoder.front_end_of(torch.where(hidden_input.unsqueeze(-1), noise, features), n_features)
        for layer in range(1, self.encoder.n_layers + 1):
            state = self.encoder.run_layer(layer, state)
        hidden = self.encoder.exit_view(self.encoder.n_layers, state.hidden)[masked]  # (masked, dim)
        targets = codes[masked]  # (masked, n_codebooks)
        scores = self.predict(hidden).float().unflatten(-1, (self.n_codebooks, -1))
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
        return loss, int((scores.argmax(-1) == targets).sum()), len(targets)

    def save(self, folder: str | Path, *, about: Mapping) -> None:
        """A folder that `init_from` takes: `config.json` (with `about`) and the encoder's `model.safetensors`."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.encoder.state_dict().items()}
        save_file(weights, str(folder / "model.safetensors.tmp"), metadata={"format": "pt"})
        config = {"folder_version": FOLDER_VERSION, "encoder": self.settings, "pretraining": dict(about)}
        (folder / "config.json.tmp").write_text(json.dumps(config, indent=2) + "\n")
        for name in ("model.safetensors", "config.json"):
            os.replace(folder / f"{name}.tmp", folder / name)


def is_pretrained_encoder(folder: str | Path) -> bool:
    """Whether `folder` holds an encoder without exits, as `MaskedPredictor.save` writes it."""
    config = Path(folder) / "config.json"
    return config.is_file() and "pretraining" in json.loads(config.read_text(encoding="utf-8"))


def pretrained_weights(folder: str | Path) -> dict[str, torch.Tensor]:
    """State dictionary of the encoder in `folder`; FileNotFoundError without its weights."""
    from safetensors.torch import load_file

    weights = Path(folder) / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"expected a pretrained encoder with model.safetensors in '{folder}', found none")
    return load_file(str(weights))
