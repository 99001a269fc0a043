"""Before layer 1: shorter input for any encoder, and the front end of wav2vec2 and its kin.

*Shorter input*: fewer frames for every layer, as in Zaiem et al. (2023), "Fine-tuning strategies for faster inference
using speech self-supervised models": waveforms resampled (`signal`), averaged over a window (`average`), or passed
through a convolution that is learned with the rest (`convolution`). The samplers are SpeechBrain's. What listens at the
rate of the shorter input hears it as if it were of the usual rate, that is, sped up with its pitch raised. Ours differs
in three points: padding never matters; the learned convolution starts as a low pass and not at random, so that a
trained encoder starts from speech; and the Conformer, whose filterbanks cost next to nothing, averages and convolves
those instead of the waveform.

*wav2vec2 and its kin*, the same for an utterance alone and in a batch. Transformers' own front ends depend on padding
in two places: the group norm of "base" models runs over time, padding included (differences of 0.1 to 1 in the output),
and data2vec-audio's stacked position convolutions carry the padding they are given on from layer to layer. Here the
norm sees each utterance's own frames, and padding is zeroed before each convolution. `padded` asks for transformers'
way instead, which is what such checkpoints saw in fine-tuning.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

KINDS = ("convolution", "average", "signal")  # of shorter input
FACTORS = (2, 3)
WINDOWS = {"convolution": 81, "average": 21}  # samples of a waveform: as in SpeechBrain's recipes for LibriSpeech


class Downsampler(nn.Module):
    """A waveform, or the frames of a filterbank, made `factor` times shorter.

    `kind`: `convolution`, `average` or `signal` (resampling with a low pass). `factor`: 2 or 3. `window`: steps that
    one step of the output sees, for `convolution` and `average`; `signal` has its own. ValueError if there is no such
    kind or factor.

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

        `x` (batch, steps) or (batch, steps, channels): zero-padded; every channel is treated alike. `n_steps` (batch,):
        valid steps. An utterance shorter than the window is padded with zeros to it.
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


def normalised(wavs: torch.Tensor, n_samples: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance per utterance over its own samples, padding zero.

    As `Wav2Vec2FeatureExtractor(do_normalize=True)` does before it pads, up to float32 rounding. `wavs` (batch,
    samples): zero-padded. `n_samples` (batch,): valid ones.

    Example
    -------
    >>> normalised(torch.tensor([[1.0, 3.0, 5.0, 0.0]]), torch.tensor([3]))
    tensor([[-1.2247,  0.0000,  1.2247, -0.0000]])
    """
    valid = torch.arange(wavs.shape[1], device=wavs.device) < n_samples.unsqueeze(1)
    count = n_samples.clamp(min=1).unsqueeze(1)
    mean = (wavs * valid).sum(dim=1, keepdim=True) / count
    centred = (wavs - mean) * valid
    variance = centred.square().sum(dim=1, keepdim=True) / count
    return centred / (variance + 1e-7).sqrt()


def conv_frames(config, n_samples):
    """Frames that the convolutions make of so many samples (an int or a tensor); at least one, see `shortest`."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride):
        n_samples = (n_samples - kernel) // stride + 1
    return n_samples.clamp(min=1) if isinstance(n_samples, torch.Tensor) else max(1, n_samples)


def shortest(config) -> int:
    """Samples of the first frame (400: 25 ms); shorter utterances are padded with silence to it."""
    samples = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride)):
        samples = (samples - 1) * stride + kernel
    return samples


def front_end_macs(config, n_samples: int) -> float:
    """Multiply-accumulates of convolutions, projection and position embedding, for one utterance."""
    length, channels, macs = max(n_samples, shortest(config)), 1, 0
    for kernel, stride, width in zip(config.conv_kernel, config.conv_stride, config.conv_dim):
        length = (length - kernel) // stride + 1
        macs += length * kernel * channels * width
        channels = width
    dim = config.hidden_size
    if config.model_type == "wav2vec2-conformer":  # positions are its layers' affair
        return float(macs + length * channels * dim)
    kernel, n_convolutions = config.num_conv_pos_embeddings, 1
    if config.model_type == "data2vec-audio":
        kernel, n_convolutions = config.conv_pos_kernel_size, config.num_conv_pos_embeddings
    even = 1 - kernel % 2  # such a kernel makes a frame too many, which is dropped
    in_group = dim // config.num_conv_pos_embedding_groups
    positions = n_convolutions * (length + even) * kernel * in_group * dim
    return float(macs + length * channels * dim + positions)


def alone(extractor: nn.Module, wavs: torch.Tensor, lengths: list[int], frames: list[int]) -> torch.Tensor:
    """Convolutions utterance by utterance -> (batch, frames, channels), padding zero.

    `wavs` (batch, samples): zero-padded. `lengths`: samples of each utterance, at least `shortest`. `frames`: frames
    that each gives.
    """
    made = [extractor(wav[None, :length])[0].T for wav, length in zip(wavs, lengths)]  # (frames, channels) each
    if len(made) == 1:
        return made[0][None]
    batch = made[0].new_zeros(len(made), max(frames), made[0].shape[1])
    for row, features in zip(batch, made):
        row[: len(features)] = features
    return batch


def together(extractor: nn.Module, wavs: torch.Tensor, lengths: list[int], *, padded: bool, recompute: bool):
    """Convolutions over the padded batch -> (batch, frames, channels), for training: less work than one by one.

    `wavs` (batch, samples): zero-padded. `padded`: let the group norm see padding, as transformers does. `recompute`:
    keep no activations of a layer, compute it again in the backward pass.
    """
    x = wavs[:, None]  # (batch, channels, time)
    for layer in extractor.conv_layers:
        grouped = isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm) and not padded
        arguments = (_group_normed, layer, x, lengths) if grouped else (layer, x)
        x = checkpoint(*arguments, use_reentrant=False) if recompute else arguments[0](*arguments[1:])
    return x.transpose(1, 2)


def _group_normed(layer: nn.Module, wavs: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """The first layer of a "base" model, its group norm over each utterance's own frames; padding zero."""
    x = layer.conv(wavs)
    kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
    normed = [layer.layer_norm(row[None, :, : (n - kernel) // stride + 1]) for row, n in zip(x, lengths)]
    batch = normed[0].new_zeros(x.shape)
    for i, row in enumerate(normed):
        batch[i, :, : row.shape[2]] = row[0]
    return layer.activation(batch)


def with_positions(model: nn.Module, hidden: torch.Tensor, valid: torch.Tensor | None, *, padded: bool) -> torch.Tensor:
    """Projected features plus position convolution, normalised where the model does so: the input of layer 1.

    `hidden` (batch, frames, dim). `valid` (batch, frames): True where a frame is an utterance's own; None if all are.
    `padded`: let data2vec's stacked convolutions see what they made of padding, as transformers does.
    """
    encoder = model.encoder
    if valid is not None:
        hidden = hidden.masked_fill(~valid.unsqueeze(-1), 0.0)
    if valid is None or padded:
        positions = encoder.pos_conv_embed(hidden)
    else:
        positions = _leakproof_positions(encoder.pos_conv_embed, hidden, valid)
    hidden = hidden + positions
    if not getattr(model.config, "do_stable_layer_norm", False):
        hidden = encoder.layer_norm(hidden)
    return encoder.dropout(hidden)


def _leakproof_positions(embed: nn.Module, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Position embedding with padding zeroed before every convolution, (batch, frames, dim)."""
    silent = ~valid.unsqueeze(1)  # (batch, 1, frames)
    x = hidden.transpose(1, 2)
    if hasattr(embed, "layers"):  # data2vec-audio: several convolutions
        for layer in embed.layers:
            x = layer(x.masked_fill(silent, 0.0))
        return x.transpose(1, 2)
    if getattr(embed, "batch_norm", None) is not None:  # some HuBERT models: padding is not zero after it
        x = embed.batch_norm(x).masked_fill(silent, 0.0)
    return embed.activation(embed.padding(embed.conv(x))).transpose(1, 2)


def span_mask(lengths: list[int], size: int, *, share: float, span: int) -> torch.Tensor:
    """Random spans to hide, of shape (len(lengths), size), bool: SpecAugment as wav2vec 2.0 has it.

    A row of length n gets n x share / span spans (rounded up or down at random) with different starts inside its
    length, so at most that share is hidden; a row shorter than a span gets none. Drawn from torch's own generator, so
    that a seeded run can be resumed; transformers draws from numpy's.

    Example
    -------
    >>> span_mask([10, 3], 10, share=1.0, span=5).sum(dim=1)[1].item()
    0
    """
    mask = torch.zeros(len(lengths), size, dtype=torch.bool)
    for row, length in zip(mask, lengths):
        count = int(length * share / span + torch.rand(()).item())
        if count and length >= span:
            for start in torch.randperm(length - span + 1)[:count].tolist():
                row[start : start + span] = True
    return mask
