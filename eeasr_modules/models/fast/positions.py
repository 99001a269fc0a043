"""A long grouped convolution over time by fast Fourier transform: the position embedding of wav2vec 2.0 and its kin.

128 taps over 16 groups of channels are 128 products a frame and group; in frequency they are one. Time is cut into
overlapping blocks of a fixed length (overlap-save), so the weights are transformed once, whatever the utterance's
length, and all blocks of a batch share one small matrix product per frequency and group.
"""

import torch
from torch import nn


def why_not(conv: nn.Module) -> str | None:
    """What about the convolution is not foreseen here, in a few words; None if nothing is.

    Arguments
    ---------
    conv : nn.Module
        Of the position embedding.
    """
    if not isinstance(conv, nn.Conv1d) or conv.stride != (1,) or conv.dilation != (1,):
        return "its position convolution is not a plain one-dimensional one of stride 1"
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return "its position convolution is not padded with a number of zeros"
    return None


class SpectralConvolution:
    """A convolution's weights in frequency.

    Arguments
    ---------
    conv : nn.Conv1d
        Stride 1; grouped or not; weight norm allowed.
    dtype : torch.dtype
        Of the products; transforms are float32.
    block : int or None
        Length of a block, in frames; None: the power of two that is at least twice the kernel.

    Example
    -------
    >>> conv = nn.Conv1d(8, 8, kernel_size=6, padding=3, groups=2)
    >>> x = torch.randn(1, 8, 50)
    >>> torch.allclose(SpectralConvolution(conv, torch.float32)(x), conv(x), atol=1e-5)
    True
    """

    def __init__(self, conv: nn.Conv1d, dtype: torch.dtype, *, block: int | None = None):
        self.kernel, self.padding, self.groups = conv.kernel_size[0], conv.padding[0], conv.groups
        self.block = block or 2 ** (2 * self.kernel - 1).bit_length()
        self.step = self.block - self.kernel + 1
        self.width = conv.out_channels
        self.bias = None if conv.bias is None else conv.bias.detach().float()[:, None]
        weight = conv.weight.detach().float()  # (width, channels / groups, kernel)
        spectrum = torch.fft.rfft(weight, n=self.block).conj()  # a layer's "convolution" is a correlation
        spectrum = spectrum.view(self.groups, -1, *spectrum.shape[1:]).permute(3, 0, 2, 1)
        # (frequencies, groups, channels in, channels out) -> real and imaginary parts side by side, one product each
        both = torch.cat([spectrum.real, spectrum.imag], dim=-1)
        self.weights = both.flatten(0, 1).to(dtype).contiguous()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """As the convolution: (batch, channels, frames) -> (batch, width, its frames), float32."""
        batch, channels, frames = x.shape
        made = frames + 2 * self.padding - self.kernel + 1
        n_blocks = -(-made // self.step)
        covered = (n_blocks - 1) * self.step + self.block
        x = nn.functional.pad(x.float(), (self.padding, covered - frames - self.padding))
        spectrum = torch.fft.rfft(x.unfold(2, self.block, self.step))  # (batch, channels, blocks, frequencies)
        rows = torch.view_as_real(spectrum).view(batch, self.groups, channels // self.groups, n_blocks, -1, 2)
        rows = rows.permute(4, 1, 5, 0, 3, 2)  # (frequencies, groups, real and imaginary, batch, blocks, channels)
        shape = rows.shape
        products = rows.to(self.weights.dtype).reshape(len(self.weights), -1, shape[-1]) @ self.weights
        products = products.float().view(shape[0], self.groups, 2, batch, n_blocks, 2, -1)
        real, imaginary = products.unbind(2)
        real, imaginary = real[..., 0, :] - imaginary[..., 1, :], real[..., 1, :] + imaginary[..., 0, :]
        # (frequencies, groups, batch, blocks, channels) -> (batch, groups, channels, blocks, frequencies)
        spectrum = torch.complex(
            real.permute(2, 1, 4, 3, 0).contiguous(), imaginary.permute(2, 1, 4, 3, 0).contiguous()
        )
        y = torch.fft.irfft(spectrum, n=self.block)[..., : self.step]
        y = y.reshape(batch, self.width, -1)[..., :made]
        return y if self.bias is None else y + self.bias
