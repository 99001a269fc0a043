"""What masked prediction predicts: a code per encoder frame, from filterbanks or from another encoder's layer.

Self-supervised training of an encoder: predict codes of masked speech (HuBERT, BEST-RQ).
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from eeasr_modules.common.files import write_aside
from eeasr_modules.models.encoders import build_encoder

STACKED = 4  # filterbank frames of 10 ms in an encoder frame of 40 ms


def stack_frames(features: torch.Tensor, n_out: int) -> torch.Tensor:
    """Features (batch, frames of 10 ms, n_mels) -> (batch, `n_out`, 4 x n_mels).

    An encoder frame is centred on a filterbank frame: that one, the one before and the two after it. The last one may
    be cut short.
    """
    padded = nn.functional.pad(features, (0, 0, 1, STACKED * n_out - 1 - features.shape[1]))
    return padded.unflatten(1, (n_out, STACKED)).flatten(2)


class RandomTargets(nn.Module):
    """Codes of BEST-RQ (Chiu et al. 2022): a random projection, compared with random codebooks; nothing is fitted.

    Arguments
    ---------
    n_inputs : int
        Width of what is coded.
    n_codebooks, codebook_size : int
        Codes per frame (several, as in Google USM, Zhang et al. 2023), and codes to choose from.
    codebook_dim : int
        Dimensions they are compared in.
    """

    def __init__(self, n_inputs: int, *, n_codebooks: int, codebook_size: int, codebook_dim: int = 16):
        super().__init__()
        from speechbrain.nnet.quantisers import RandomProjectionQuantizer

        self.quantizers = nn.ModuleList(
            RandomProjectionQuantizer(n_inputs, codebook_dim, codebook_size) for _ in range(n_codebooks)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs (batch, frames, n_inputs) -> codes (batch, frames, n_codebooks)."""
        # SpeechBrain's forward builds (batch, codes, frames, dim); the nearest of unit vectors is the largest product
        return torch.stack(
            [(nn.functional.normalize(inputs @ q.P, dim=-1) @ q.CB.T).argmax(-1) for q in self.quantizers], dim=-1
        )


class ClusterTargets(nn.Module):
    """Codes of HuBERT (Hsu et al. 2021): the nearest of k-means centres, in scaled principal components.

    Arguments
    ---------
    n_inputs : int
        Width of what is coded.
    n_codebooks, codebook_size : int
        Clusterings (from different starts), and clusters in each.
    codebook_dim : int
        Principal components that are clustered.

    Example
    -------
    >>> targets = ClusterTargets(8, n_codebooks=1, codebook_size=2, codebook_dim=2)
    >>> two = torch.cat([torch.randn(50, 8) - 5, torch.randn(50, 8) + 5])
    >>> codes = targets.fit(two, seed=0)(two.unsqueeze(0))[0, :, 0]
    >>> len(set(codes[:50].tolist())), len(set(codes.tolist()))
    (1, 2)
    """

    def __init__(self, n_inputs: int, *, n_codebooks: int, codebook_size: int, codebook_dim: int = 24):
        super().__init__()
        if codebook_dim > n_inputs:
            raise ValueError(f"codebook_dim must be at most {n_inputs}, the width of what is coded, got {codebook_dim}")
        self.register_buffer("mean", torch.zeros(n_inputs))
        self.register_buffer("project", torch.zeros(n_inputs, codebook_dim))
        self.register_buffer("centres", torch.zeros(n_codebooks, codebook_size, codebook_dim))

    def fit(self, inputs: torch.Tensor, *, seed: int) -> "ClusterTargets":
        """Find components and centres.

        Arguments
        ---------
        inputs : torch.Tensor of shape (frames, n_inputs)
            A sample of what will be coded; ValueError with fewer frames than clusters.
        seed : int
            Of the first clustering's start.
        """
        from sklearn.cluster import MiniBatchKMeans

        n_codebooks, size, dim = self.centres.shape
        if len(inputs) < max(size, dim):
            raise ValueError(f"{size} clusters in {dim} dimensions need as many frames, got {len(inputs)}")
        inputs = inputs.double()
        self.mean.copy_(inputs.mean(0))
        spread, directions = torch.linalg.eigh(torch.cov((inputs - self.mean).T))
        strongest = spread.argsort(descending=True)[:dim]
        # half way to white: raw components are ruled by loudness, white ones by what hardly varies
        scale = spread[strongest].clamp_min(1e-8) ** -0.25
        self.project.copy_(directions[:, strongest] * scale)
        reduced = ((inputs - self.mean) @ self.project.double()).numpy()
        for number in range(n_codebooks):
            clusters = MiniBatchKMeans(size, batch_size=4096, n_init=1, random_state=seed + number).fit(reduced)
            self.centres[number].copy_(torch.from_numpy(clusters.cluster_centers_))
        return self

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs (batch, frames, n_inputs) -> codes (batch, frames, n_codebooks)."""
        reduced = (inputs - self.mean) @ self.project
        distances = self.centres.square().sum(-1) / 2  # (n_codebooks, codebook_size), less what all have in common
        return torch.stack(
            [(reduced @ centres.T - own).argmax(-1) for centres, own in zip(self.centres, distances, strict=True)], -1
        )


KINDS = {"random": RandomTargets, "clusters": ClusterTargets}


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
        weights = {name: value.detach().cpu().contiguous() for name, value in self.encoder.state_dict().items()}
        config = {"folder_version": FOLDER_VERSION, "encoder": self.settings, "pretraining": dict(about)}
        write_aside(
            folder / "model.safetensors", lambda aside: save_file(weights, str(aside), metadata={"format": "pt"})
        )
        write_aside(folder / "config.json", json.dumps(config, indent=2) + "\n")
