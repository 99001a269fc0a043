"""SpeechBrain's Conformer on filterbanks, behind the walk's protocol.

SpeechBrain's encoder masks padding after the depthwise convolution of each layer, so a padded neighbour leaks into the
last frames of an utterance (batch against single differs by 0.5 after one layer). Here padded frames are zeroed on
their way into that convolution, by a hook. Filterbanks are normalised per utterance. Masks of dropout take eight
elements from each 64-bit draw (rates are multiples of 1/256): torch's own took a third of a training step on a CPU.
"""

from contextvars import ContextVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from eeasr_modules.models.encoders.front_end import build_downsampler
from eeasr_modules.models.walk import WalkState, shallow

_PADDED: ContextVar[torch.Tensor | None] = ContextVar("padded", default=None)  # of the batch in this thread's layer
_BYTES = 8  # mask elements per 64-bit draw
_LOWEST = -(2**63)


class ByteDropout(nn.Dropout):
    """`nn.Dropout` with the rate rounded to a multiple of 1/256 on a CPU; on other devices it is `nn.Dropout`.

    Example
    -------
    >>> dropout = ByteDropout(0.1).train()
    >>> round(float((dropout(torch.ones(1000, 100)) == 0).float().mean()), 2)
    0.1
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of any shape -> the same shape."""
        dropped = round(256 * self.p)
        if not self.training or dropped in (0, 256) or x.device.type != "cpu":
            return super().forward(x)
        drawn = torch.empty((x.numel() + _BYTES - 1) // _BYTES, dtype=torch.int64).random_(_LOWEST, None)
        kept = drawn.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


def cheapen_dropout(module: nn.Module) -> None:
    """Replace every `nn.Dropout` below `module`, with its rate, by a `ByteDropout`."""
    for name, child in module.named_children():
        if type(child) is nn.Dropout:
            setattr(module, name, ByteDropout(child.p))
        else:
            cheapen_dropout(child)


class LogMel(nn.Module):
    """SpeechBrain's log-mel filterbanks, normalised per utterance and channel over its own frames.

    Frames beyond an utterance's end are silenced before the logarithm's floor is set (SpeechBrain sets it 80 dB below
    the utterance's loudest bin, padding included) and are zero afterwards, so an utterance gets the same features alone
    and in a batch.

    Arguments
    ---------
    sample_rate : int
        Hz. Window 25 ms, hop 10 ms.
    time_masks, freq_masks : int
        SpecAugment (Park et al. 2019): at most so many masks per utterance while training; 0 for none.
    time_mask_frames, freq_mask_channels : int
        Widest mask, in frames of 10 ms and in channels.
    """

    def __init__(
        self,
        n_mels: int = 80,
        *,
        sample_rate: int = 16000,
        time_masks: int = 0,
        time_mask_frames: int = 25,
        freq_masks: int = 0,
        freq_mask_channels: int = 15,
    ):
        super().__init__()
        from speechbrain.augment.freq_domain import SpectrogramDrop
        from speechbrain.lobes.features import Fbank

        self.fbank = Fbank(n_mels=n_mels, sample_rate=sample_rate)
        self.hop = sample_rate // 100
        self.augment = nn.ModuleList()
        if time_masks:
            self.augment.append(SpectrogramDrop(1, time_mask_frames + 1, 0, time_masks, "zeros", dim=1))
        if freq_masks:
            self.augment.append(SpectrogramDrop(1, freq_mask_channels + 1, 0, freq_masks, "zeros", dim=2))

    def frames_for(self, n_samples):
        """Frames that so many samples give (an int or a tensor)."""
        return n_samples // self.hop + 1

    def forward(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Waveforms (batch, samples) -> features (batch, frames, n_mels), zero where padded, and frame counts."""
        from speechbrain.processing.features import spectral_magnitude

        # fp32 whatever the precision of the rest: powers of a spectrum overflow in half precision
        with torch.autocast(wavs.device.type, enabled=False), torch.no_grad():
            power = spectral_magnitude(self.fbank.compute_STFT(wavs.float()))  # (batch, frames, bins)
            n_frames = self.frames_for(n_samples)
            valid = torch.arange(power.shape[1], device=wavs.device) < n_frames.unsqueeze(1)
            valid = valid.unsqueeze(-1)
            mels = self.fbank.compute_fbanks(power * valid)
            count = n_frames.view(-1, 1, 1)
            mean = (mels * valid).sum(1, keepdim=True) / count
            deviation = (mels - mean) * valid
            std = (deviation.square().sum(1, keepdim=True) / count).sqrt()
            features = deviation / (std + 1e-5)
            if self.training:
                for drop in self.augment:
                    features = drop(features)
        return features, n_frames


class Subsampling(nn.Module):
    """Two strided 3 x 3 convolutions: 100 frames a second become 25 (Dong et al. 2018), padding kept at zero."""

    def __init__(self, n_mels: int, dim: int, *, channels: int = 32, dropout: float = 0.1):
        super().__init__()
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(1, channels, 3, stride=2, padding=1), nn.Conv2d(channels, channels, 3, stride=2, padding=1)]
        )
        self.width = channels * self.halved(self.halved(n_mels))
        self.project = nn.Linear(self.width, dim)
        self.dropout = ByteDropout(dropout)

    @staticmethod
    def halved(n):
        """Length after one convolution of stride 2 (an int or a tensor)."""
        return (n - 1) // 2 + 1

    def forward(self, features: torch.Tensor, n_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (batch, frames, n_mels) -> (batch, frames / 4, dim) and frame counts."""
        x = features.unsqueeze(1)  # (batch, 1, frames, n_mels)
        for convolution in self.convolutions:
            x = nn.functional.silu(convolution(x))
            n_frames = self.halved(n_frames)
            valid = torch.arange(x.shape[2], device=x.device) < n_frames.unsqueeze(1)
            x = x * valid[:, None, :, None]
        x = x.transpose(1, 2).flatten(2)  # (batch, channels, frames, mels) -> (batch, frames, channels x mels)
        return self.dropout(self.project(x)), n_frames


class ConformerEncoder(nn.Module):
    """Filterbanks, subsampling to 25 frames a second, and SpeechBrain's Conformer layers.

    Arguments
    ---------
    n_layers, dim, n_heads, ffn_dim, kernel_size : int
        Shape of the Conformer (Gulati et al. 2020).
    layerdrop : float
        Chance that a layer (never the first) is skipped for a batch in training (Fan et al. 2020, LayerDrop); an exit
        after it sees the layer before. Needs `--find_unused_parameters` under DDP.
    gradient_checkpointing : bool
        Compute layers again in the backward pass instead of keeping their activations.
    time_masks, time_mask_frames, freq_masks, freq_mask_channels : int
        SpecAugment, see `LogMel`.
    downsample : str or None
        Shorter input: `signal` resamples the waveform, `average` and `convolution` shorten the filterbanks.
    downsample_factor : int
        2 or 3: 12.5 or 8.3 frames a second.

    Example
    -------
    >>> encoder = ConformerEncoder(n_layers=2, dim=16, n_heads=2, ffn_dim=32).eval()
    >>> state = encoder.front_end(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    >>> state.hidden.shape, state.n_frames.tolist()
    (torch.Size([2, 26, 16]), [26, 13])
    """

    def __init__(
        self,
        *,
        n_layers: int,
        dim: int,
        n_heads: int,
        ffn_dim: int,
        kernel_size: int = 15,
        n_mels: int = 80,
        sample_rate: int = 16000,
        dropout: float = 0.1,
        layerdrop: float = 0.0,
        gradient_checkpointing: bool = False,
        time_masks: int = 0,
        time_mask_frames: int = 25,
        freq_masks: int = 0,
        freq_mask_channels: int = 15,
        downsample: str | None = None,
        downsample_factor: int = 2,
    ):
        super().__init__()
        from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder as Layers
        from speechbrain.nnet.attention import RelPosEncXL

        self.n_layers, self.dim = n_layers, dim
        self.ffn_dim, self.kernel_size, self.n_mels = ffn_dim, kernel_size, n_mels
        self.layerdrop, self.gradient_checkpointing = layerdrop, gradient_checkpointing
        self.features = LogMel(
            n_mels,
            sample_rate=sample_rate,
            time_masks=time_masks,
            time_mask_frames=time_mask_frames,
            freq_masks=freq_masks,
            freq_mask_channels=freq_mask_channels,
        )
        window = 2 * downsample_factor + 1 if downsample == "convolution" else downsample_factor
        self.downsampler = build_downsampler(downsample, downsample_factor, window=window)
        self.subsampling = Subsampling(n_mels, dim, dropout=dropout)
        self.positions = RelPosEncXL(dim)
        self.conformer = Layers(n_layers, dim, ffn_dim, n_heads, kernel_size=kernel_size, dropout=dropout)
        cheapen_dropout(self.conformer)
        for layer in self.conformer.layers:
            layer.convolution_module.conv.register_forward_pre_hook(self._silence_padding)

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last layer; inner exits start from a copy."""
        return self.conformer.norm.norm

    @property
    def _hears_less(self) -> bool:
        """Whether it is the waveform that is made shorter, and not the filterbanks."""
        return self.downsampler is not None and self.downsampler.kind == "signal"

    def _silence_padding(self, module, inputs):
        padded = _PADDED.get()
        if padded is None:
            return None
        return (inputs[0].masked_fill(padded.unsqueeze(1), 0.0),)  # (batch, dim, frames)

    def front_end(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> WalkState:
        """Waveforms (batch, samples) -> the input of layer 1 at 25 frames a second, fewer where it is downsampled."""
        if self._hears_less:
            wavs, n_samples = self.downsampler(wavs, n_samples)
        return self.front_end_of(*self.features(wavs, n_samples))

    def front_end_of(self, features: torch.Tensor, n_frames: torch.Tensor) -> WalkState:
        """Filterbanks (batch, frames, n_mels) and their frame counts -> the input of layer 1."""
        if self.downsampler is not None and not self._hears_less:
            features, n_frames = self.downsampler(features, n_frames)
        return self.refresh(WalkState(*self.subsampling(features, n_frames)))

    def refresh(self, state: WalkState) -> WalkState:
        """Padding mask and relative positions for the batch as it is now."""
        padded = state.padded
        state.extra = {"padded": padded if bool(padded.any()) else None, "positions": self.positions(state.hidden)}
        return state

    def run_layer(self, layer: int, state: WalkState) -> WalkState:
        """State after `layer`, numbered from 1."""
        if self.training and self.layerdrop and layer > 1 and torch.rand(()).item() < self.layerdrop:
            return state
        arguments = (self.conformer.layers[layer - 1], state.hidden, state.extra["padded"], state.extra["positions"])
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            hidden = checkpoint(self._layer, *arguments, use_reentrant=False)
        else:
            hidden = self._layer(*arguments)
        return WalkState(hidden, state.n_frames, state.extra)

    def _layer(self, layer: nn.Module, hidden: torch.Tensor, padded, positions) -> torch.Tensor:
        """One layer's output, with padding silenced on its way; the backward pass may ask for it again."""
        token = _PADDED.set(padded)
        try:
            return layer(hidden, src_key_padding_mask=padded, pos_embs=positions)[0]
        finally:
            _PADDED.reset(token)

    def exit_view(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """The layer's output; after the last layer, normalised as SpeechBrain's encoder does."""
        return self.conformer.norm(hidden) if layer == self.n_layers else hidden

    def frames_for(self, n_samples):
        """Frames of 40 ms that so many samples give (an int or a tensor), longer ones where it is downsampled."""
        halved = self.subsampling.halved
        return halved(halved(self._features_for(n_samples)))

    def _features_for(self, n_samples):
        """Filterbank frames that reach the subsampling."""
        if self.downsampler is None:
            return self.features.frames_for(n_samples)
        if self._hears_less:
            return self.features.frames_for(self.downsampler.length_of(n_samples))
        return self.downsampler.length_of(self.features.frames_for(n_samples))

    def front_end_macs(self, n_samples: int) -> float:
        """Multiply-accumulates of mel filters, subsampling and projection (the FFT, under 1 %, is left out)."""
        macs, heard = 0.0, n_samples
        if self._hears_less:
            macs, heard = self.downsampler.macs(n_samples), self.downsampler.length_of(n_samples)
        frames = self.features.frames_for(heard)
        bins = self.features.fbank.compute_STFT.n_fft // 2 + 1
        macs += frames * bins * self.n_mels
        if self.downsampler is not None and not self._hears_less:
            macs += self.downsampler.macs(frames, n_channels=self.n_mels)
        frames = self._features_for(n_samples)
        mels, channels_in = self.n_mels, 1
        for convolution in self.subsampling.convolutions:
            frames, mels = self.subsampling.halved(frames), self.subsampling.halved(mels)
            macs += frames * mels * 9 * channels_in * convolution.out_channels
            channels_in = convolution.out_channels
        return float(macs + frames * self.subsampling.width * self.dim)

    def layer_macs(self, n_frames: int) -> float:
        """Multiply-accumulates of one layer: feed-forward twice, attention with relative positions, convolution."""
        t, d = n_frames, self.dim
        feed_forward = 2 * 2 * t * d * self.ffn_dim
        positions = 2 * t - 1
        attention = 4 * t * d * d + positions * d * d + 2 * t * t * d + t * positions * d
        convolution = 3 * t * d * d + t * d * self.kernel_size
        return float(feed_forward + attention + convolution)


def stock_forward(encoder: ConformerEncoder, n_layers: int):
    """SpeechBrain's forward of the first layers: (wavs, n_samples) to (states, n_frames).

    Features and subsampling are ours, which SpeechBrain has none of; its Conformer leaks padding into the last frames
    of shorter utterances.
    """
    conformer = encoder.conformer
    if n_layers < encoder.n_layers:
        conformer = shallow(conformer)
        conformer.layers = nn.ModuleList(list(conformer.layers)[:n_layers])
        conformer.norm = nn.Identity()
        conformer.eval()

    def forward(wavs: torch.Tensor, n_samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state = encoder.front_end(wavs, n_samples)
        padded, positions = state.extra["padded"], state.extra["positions"]
        return conformer(state.hidden, src_key_padding_mask=padded, pos_embs=positions)[0], state.n_frames

    return forward
