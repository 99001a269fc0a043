"""Shorter input for an encoder: fewer frames for every layer, as in Zaiem et al. (2023).

"Fine-tuning strategies for faster inference using speech self-supervised models" shortens waveforms before a
pre-trained encoder: resampled (`signal`), averaged over a window (`average`), or by a convolution that is learned with
the rest (`convolution`). The samplers are SpeechBrain's. What listens at the rate of the shorter input hears it as if
it were of the usual rate, that is, sped up with its pitch raised. Ours differs in three points: padding never matters;
the learned convolution starts as a low pass and not at random, so that a trained encoder starts from speech; and the
Conformer, whose filterbanks cost next to nothing, averages and convolves those instead of the waveform.
"""

import torch
from torch import nn

KINDS = ("convolution", "average", "signal")
FACTORS = (2, 3)
WINDOWS = {"convolution": 81, "average": 21}  # samples of a waveform: as in SpeechBrain's recipes for LibriSpeech


class Downsampler(nn.Module):
    """A waveform, or the frames of a filterbank, made `factor` times shorter.

    ValueError if there is no such kind or factor.

    Arguments
    ---------
    kind : str
        `convolution`, `average` or `signal` (resampling with a low pass).
    factor : int
        2 or 3.
    window : int
        Steps that one step of the output sees, for `convolution` and `average`; `signal` has its own.

    Example
    -------
    >>> shorter, n = Downsampler("average", 2)(torch.ones(2, 1000), torch.tensor([1000, 500]))
    >>> shorter.shape, n.tolist(), shorter.sum(1).tolist()
    (torch.Size([2, 490]), [490, 240], [490.0, 240.0])
    """

    def __init__(self, kind: str, factor: int, *, window: int | None = None):
        super().__init__()
        from speechbrain.lobes.downsampling import Conv1DDownsampler, PoolingDownsampler, SignalDownsampler

        if kind not in KINDS:
            raise ValueError(f"downsample must be null or one of {', '.join(KINDS)}, got {kind!r}")
        if factor not in FACTORS:
            raise ValueError(f"downsample_factor must be one of {', '.join(map(str, FACTORS))}, got {factor!r}")
        self.kind, self.factor = kind, factor
        self.window = 1 if kind == "signal" else window or WINDOWS[kind]
        if kind == "signal":
            # the ratio alone matters, and 16000 to 5333 Hz would be a filter of 85 million weights
            self.sampler = SignalDownsampler(factor, factor)
        elif kind == "average":
            self.sampler = PoolingDownsampler(factor, self.window)
        else:
            self.sampler = Conv1DDownsampler(factor, self.window)
            self._start_as_low_pass()

    def _start_as_low_pass(self) -> None:
        """A windowed sinc that keeps what the lower rate can hold."""
        convolution = self.sampler.downsampler.conv
        steps = torch.arange(self.window) - (self.window - 1) / 2
        taps = torch.sinc(steps / self.factor) * torch.hann_window(self.window + 2, periodic=False)[1:-1]
        with torch.no_grad():
            convolution.weight.copy_((taps / taps.sum())[None, None])
            convolution.bias.zero_()

    @property
    def learned(self) -> bool:
        """Whether it has weights that train."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def length_of(self, n_steps):
        """Steps that so many steps become (an int or a tensor), at least one."""
        if self.kind == "signal":
            return -(-n_steps // self.factor)
        n_steps = (n_steps - self.window) // self.factor + 1
        return n_steps.clamp(min=1) if isinstance(n_steps, torch.Tensor) else max(1, n_steps)

    def macs(self, n_steps: int, *, n_channels: int = 1) -> float:
        """Multiply-accumulates for one utterance; additions of an average are counted as such."""
        taps = self.sampler.downsampler.kernel.shape[-1] if self.kind == "signal" else self.window
        return float(self.length_of(n_steps) * taps * n_channels)

    def forward(self, x: torch.Tensor, n_steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shorter input, zero where padded, in float32 whatever the precision of the rest; and its lengths.

        Arguments
        ---------
        x : torch.Tensor of shape (batch, steps) or (batch, steps, channels)
            Zero-padded; every channel is treated alike.
        n_steps : torch.Tensor of shape (batch,)
            Valid steps. An utterance shorter than the window is padded with zeros to it.
        """
        channels = x.shape[2:]
        if channels:
            x = x.transpose(1, 2).flatten(0, 1)  # (batch, steps, channels) -> (batch x channels, steps)
        x = nn.functional.pad(x, (0, max(0, self.window - x.shape[1])))
        with torch.autocast(x.device.type, enabled=False):
            x = self.sampler(x.float())
        if channels:
            x = x.unflatten(0, (-1, *channels)).transpose(1, 2)
        n_steps = self.length_of(n_steps)
        x = x[:, : int(n_steps.max())]
        valid = torch.arange(x.shape[1], device=x.device) < n_steps.unsqueeze(1)
        return torch.where(valid.unsqueeze(-1) if channels else valid, x, 0.0), n_steps


def build_downsampler(kind: str | None, factor: int, *, window: int | None = None) -> Downsampler | None:
    """A `Downsampler`; None without a kind."""
    return None if kind is None else Downsampler(kind, factor, window=window)
