"""What masked prediction predicts: a code per encoder frame, from filterbanks or from another encoder's layer."""

import torch
from torch import nn

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
