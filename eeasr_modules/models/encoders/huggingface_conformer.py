"""Encoders of transformers whose layers are Conformers: wav2vec2-conformer, and wav2vec2-bert on log-mel features.

The first lets padding into the depthwise convolution of every layer, so a batch differs from single; here padded
frames are zeroed on their way in (`padded_front_end: true`: transformers' way). The second masks it itself.
"""

import torch
from torch import nn

from eeasr_modules.models.encoders.huggingface import HuggingFaceEncoder
from eeasr_modules.models.walk import WalkState


class OfConformers(HuggingFaceEncoder):
    """What both share; arguments and errors as `HuggingFaceEncoder`. Batch norm keeps its statistics in training."""

    def train(self, mode: bool = True):
        """As torch's; batch norm stays in eval mode, where padding and the size of a batch do not change it."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self

    def _positioned(self, hidden: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        hidden = hidden if valid is None else hidden.masked_fill(~valid.unsqueeze(-1), 0.0)
        return self.model.encoder.dropout(hidden)

    def refresh(self, state: WalkState) -> WalkState:
        """Attention mask and positions for the batch as it is now."""
        state, embed, positions = super().refresh(state), self.model.encoder.embed_positions, None
        if embed is not None:
            embed.cached_sequence_length = None  # a rotary one would keep a tensor of inference mode for training
            positions = embed(state.hidden)
        padded = state.padded
        state.extra |= {"relative_position_embeddings": positions, "padded": padded if bool(padded.any()) else None}
        return state

    def layer_macs(self, n_frames: int) -> float:
        """Multiply-accumulates of one layer: two feed-forward parts, attention with positions, convolution."""
        config, t, d = self.model.config, n_frames, self.dim
        attention = 4 * t * d * d + 2 * t * t * d
        if config.position_embeddings_type == "relative":
            attention += (2 * t - 1) * (d * d + t * d)
        elif config.position_embeddings_type == "relative_key":
            attention += t * t * d
        convolution = 3 * t * d * d + t * config.conv_depthwise_kernel_size * d
        return float(4 * t * d * self.ffn_dim + attention + convolution)


class Wav2Vec2ConformerEncoder(OfConformers):
    """wav2vec2-conformer, walked layer by layer; arguments and errors as `HuggingFaceEncoder`.

    Example
    -------
    >>> shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    >>> shape |= {"conv_dim": [8] * 7, "num_conv_pos_embedding_groups": 2}
    >>> encoder = Wav2Vec2ConformerEncoder(hf_config={"model_type": "wav2vec2-conformer", **shape}).eval()
    >>> encoder.front_end(torch.randn(2, 16000), torch.tensor([16000, 8000])).n_frames.tolist()
    [49, 24]
    """

    pre_norm = True  # a norm follows the last layer, though each layer has its own

    def prepare(self, *, frozen: bool) -> None:
        """As the base's; the position convolution, which transformers builds and never calls, goes."""
        super().prepare(frozen=frozen)
        del self.model.encoder.pos_conv_embed

    def _layer(self, module: nn.Module, hidden: torch.Tensor, *, padded: torch.Tensor | None, **extra):
        if padded is None or self.padded_front_end:
            return module(hidden, **extra)
        silent = padded.unsqueeze(1)  # (batch, 1, frames)
        hook = module.conv_module.depthwise_conv.register_forward_pre_hook(
            lambda _, x: (x[0].masked_fill(silent, 0.0),)
        )
        try:
            return module(hidden, **extra)
        finally:
            hook.remove()


WINDOW, HOP, FFT = 400, 160, 512  # samples


class Wav2Vec2BertEncoder(OfConformers):
    """wav2vec2-bert on log-mel features, 50 frames a second; arguments and errors as `HuggingFaceEncoder`.

    Features are those of transformers' `SeamlessM4TFeatureExtractor`: two mel frames of 10 ms side by side, each band
    of zero mean and unit variance over the utterance. Half a frame at the end is left out, as its mask does.

    Example
    -------
    >>> shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    >>> encoder = Wav2Vec2BertEncoder(hf_config={"model_type": "wav2vec2-bert", **shape}).eval()
    >>> encoder.front_end(torch.randn(2, 16000), torch.tensor([16000, 8000])).n_frames.tolist()
    [49, 24]
    """

    def __init__(self, **settings):
        if settings.get("padded_front_end"):
            raise ValueError(
                "padded_front_end: true is for wav2vec 2.0 and its kin, wav2vec2-bert has none: give false"
            )
        super().__init__(**{**settings, "normalise_wavs": False})

    def prepare(self, *, frozen: bool) -> None:
        """Mel filters and window; there are no convolutions to freeze."""
        from transformers import SeamlessM4TFeatureExtractor

        bands = self.model.config.feature_projection_input_dim // 2
        theirs = SeamlessM4TFeatureExtractor(feature_size=bands, num_mel_bins=bands)
        self.register_buffer("mel_filters", torch.tensor(theirs.mel_filters, dtype=torch.float64), persistent=False)
        self.register_buffer("window", torch.tensor(theirs.window, dtype=torch.float64), persistent=False)

    def front_end(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> WalkState:
        """Waveforms (batch, samples) -> the input of layer 1 at 50 frames a second, fewer where it is downsampled."""
        if self.downsampler is not None:
            wavs, n_samples = self.downsampler(wavs, n_samples)
        n_frames = self.mel_pairs(n_samples)
        x = self.model.feature_projection(self.features(wavs, n_samples))[0]
        state = WalkState(self._hidden_at_random(x, n_frames.tolist()) if self.training else x, n_frames)
        padded = state.padded
        state.hidden = self._positioned(state.hidden, ~padded if bool(padded.any()) else None)
        return self.refresh(state)

    def features(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> torch.Tensor:
        """Normalised log-mels, (batch, frames, 2 x bands), float32, zero where padded."""
        made = [self._log_mels(wav[:n]) for wav, n in zip(wavs, n_samples.tolist(), strict=True)]
        return nn.utils.rnn.pad_sequence(made, batch_first=True)

    def _log_mels(self, wav: torch.Tensor) -> torch.Tensor:
        """(samples,) -> (frames, 2 x bands); in double precision, as transformers' numpy computes them."""
        window, filters = self.window.double(), self.mel_filters.double()
        with torch.autocast(wav.device.type, enabled=False):
            wav = nn.functional.pad(wav.double() * 2**15, (0, max(0, WINDOW + HOP - len(wav))))
            parts = wav.unfold(0, WINDOW, HOP)
            parts = parts - parts.mean(dim=1, keepdim=True)
            before = torch.cat([parts[:, :1], parts[:, :-1]], dim=1)
            spectrum = torch.fft.rfft((parts - 0.97 * before) * window, n=FFT)
            logs = (spectrum.abs().square() @ filters).clamp(min=1.192092955078125e-07).log().float()
            logs = (logs - logs.mean(dim=0)) / (logs.var(dim=0) + 1e-7).sqrt()
            return logs[: len(logs) // 2 * 2].reshape(-1, 2 * logs.shape[1])

    def _layer(self, module: nn.Module, hidden: torch.Tensor, *, padded: torch.Tensor | None, **extra):
        return module(hidden, conv_attention_mask=None if padded is None else ~padded, **extra)

    @staticmethod
    def mel_pairs(n_samples):
        """Pairs of mel frames in so many samples (an int or a tensor), at least one."""
        frames = ((n_samples - WINDOW) // HOP + 1) // 2
        return frames.clamp(min=1) if isinstance(frames, torch.Tensor) else max(1, frames)

    def frames_for(self, n_samples):
        """Frames of 20 ms that so many samples give (an int or a tensor), at least one; longer where downsampled."""
        return self.mel_pairs(n_samples if self.downsampler is None else self.downsampler.length_of(n_samples))

    def front_end_macs(self, n_samples: int) -> float:
        """Multiply-accumulates of downsampling, mel filters and projection (the Fourier transform is left out)."""
        extra = 0.0
        if self.downsampler is not None:
            extra, n_samples = self.downsampler.macs(n_samples), self.downsampler.length_of(n_samples)
        width, frames = self.model.config.feature_projection_input_dim, max(2, (n_samples - WINDOW) // HOP + 1)
        return float(extra + frames * (FFT // 2 + 1) * (width // 2) + self.mel_pairs(n_samples) * width * self.dim)

    def stock_states(self, model: nn.Module, wavs: torch.Tensor, n_samples: torch.Tensor) -> torch.Tensor:
        """States (batch, frames, dim) by the forward of transformers' `model`, from our features."""
        if self.downsampler is not None:
            wavs, n_samples = self.downsampler(wavs, n_samples)
        features, n_frames = self.features(wavs, n_samples), self.mel_pairs(n_samples)
        mask = (torch.arange(features.shape[1], device=wavs.device) < n_frames.unsqueeze(1)).long()
        return model(features, attention_mask=mask).last_hidden_state
