"""The parts of a model as modules that ONNX can hold: front end, the layers between two exits, heads.

All take utterances of one length (a batch of one, or of equals), so no masks are needed: the front end begins with the
waveform, filterbanks included, as two convolutions with the window's sines and cosines in place of complex numbers.
"""

import torch
from torch import nn

from eeasr_modules.models.conformer import ConformerEncoder
from eeasr_modules.models.features import LogMel
from eeasr_modules.models.huggingface import HuggingFaceEncoder
from eeasr_modules.models.huggingface_front_end import with_positions


class PowerSpectrum(nn.Module):
    """What `LogMel` takes from SpeechBrain's STFT, by one real convolution.

    Arguments
    ---------
    features : LogMel
        For window, hop and transform.
    """

    def __init__(self, features: LogMel):
        super().__init__()
        stft = features.fbank.compute_STFT
        n_fft, width = stft.n_fft, stft.win_length
        window = torch.zeros(n_fft, dtype=torch.float64)
        begin = (n_fft - width) // 2  # torch.stft centres a window that is shorter than the transform
        window[begin : begin + width] = stft.window.double()
        bins, steps = torch.arange(n_fft // 2 + 1), torch.arange(n_fft)
        angle = 2 * torch.pi * (bins[:, None] * steps % n_fft).double() / n_fft
        basis = torch.cat([angle.cos(), -angle.sin()]) * window
        self.register_buffer("basis", basis.float().unsqueeze(1))  # (2 x bins, 1, n_fft)
        self.hop, self.pad, self.n_bins = stft.hop_length, n_fft // 2, len(bins)

    def forward(self, wavs: torch.Tensor) -> torch.Tensor:
        """Waveforms (batch, samples) -> power (batch, frames, bins)."""
        padded = nn.functional.pad(wavs.unsqueeze(1), (self.pad, self.pad))
        parts = nn.functional.conv1d(padded, self.basis, stride=self.hop).transpose(1, 2).square()
        return parts[..., : self.n_bins] + parts[..., self.n_bins :]


class ConformerFrontEnd(nn.Module):
    """Waveforms to the input of layer 1 of a Conformer: filterbanks, normalisation, subsampling.

    Arguments
    ---------
    encoder : ConformerEncoder
        In eval mode.
    """

    def __init__(self, encoder: ConformerEncoder):
        super().__init__()
        self.power = PowerSpectrum(encoder.features)
        self.subsampling = encoder.subsampling
        self.n_mels = encoder.n_mels
        bins = self.power.n_bins
        # SpeechBrain makes the filters anew in each call: their matrix is what it gives for single bins, before the log
        fbank = encoder.features.fbank.compute_fbanks
        was, fbank.log_mel = fbank.log_mel, False
        try:
            filters = fbank(torch.eye(bins).unsqueeze(0))[0]
        finally:
            fbank.log_mel = was
        self.register_buffer("filters", filters.detach().clone())  # (bins, n_mels)
        self.least, self.multiplier, self.range_db = fbank.amin, fbank.multiplier, fbank.top_db
        self.offset = fbank.multiplier * fbank.db_multiplier

    def forward(self, wavs: torch.Tensor) -> torch.Tensor:
        """Waveforms (batch, samples) -> (batch, frames, dim)."""
        mels = self.multiplier * torch.log10((self.power(wavs) @ self.filters).clamp(min=self.least)) - self.offset
        loudest = mels.amax(dim=(1, 2), keepdim=True)
        mels = torch.maximum(mels, loudest - self.range_db)
        deviation = mels - mels.mean(dim=1, keepdim=True)
        x = deviation / (deviation.square().mean(dim=1, keepdim=True).sqrt() + 1e-5)
        x = x.unsqueeze(1)
        for convolution in self.subsampling.convolutions:
            x = nn.functional.silu(convolution(x))
        return self.subsampling.project(x.transpose(1, 2).flatten(2))


class HuggingFaceFrontEnd(nn.Module):
    """Normalised waveforms to the input of layer 1: convolutions, projection, position embedding.

    Arguments
    ---------
    encoder : HuggingFaceEncoder
        In eval mode.
    """

    def __init__(self, encoder: HuggingFaceEncoder):
        super().__init__()
        self.model = encoder.model

    def forward(self, wavs: torch.Tensor) -> torch.Tensor:
        """Waveforms (batch, samples), zero mean and unit variance where the checkpoint asks -> (batch, frames, dim)."""
        x = self.model.feature_projection(self.model.feature_extractor(wavs).transpose(1, 2))
        x = x[0] if isinstance(x, tuple) else x
        return with_positions(self.model, x, None, padded=False)


class LayerGroup(nn.Module):
    """The layers after one exit up to the next.

    Arguments
    ---------
    encoder : ConformerEncoder or HuggingFaceEncoder
        In eval mode.
    first, last : int
        Layers, numbered from 1, both included.
    """

    def __init__(self, encoder: nn.Module, *, first: int, last: int):
        super().__init__()
        self.encoder, self.first, self.last = encoder, first, last

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """States (batch, frames, dim) -> states; after the encoder's last layer, normalised as its head sees them."""
        layers = range(self.first, self.last + 1)
        if isinstance(self.encoder, ConformerEncoder):
            positions = self.encoder.positions(hidden)
            for layer in layers:
                hidden, _ = self.encoder.conformer.layers[layer - 1](hidden, pos_embs=positions)
        else:
            extra: dict = {"attention_mask": None}
            if self.encoder.is_wavlm:
                length = hidden.shape[1]
                bias = self.encoder.model.encoder.layers[0].attention.compute_bias(length, length)
                extra["position_bias"] = bias.repeat(hidden.shape[0], 1, 1)
            for layer in layers:
                hidden = self.encoder.model.encoder.layers[layer - 1](hidden, **extra)
                hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return self.encoder.exit_view(self.last, hidden) if self.last == self.encoder.n_layers else hidden


class HeadGraph(nn.Module):
    """A head on utterances of one length.

    Arguments
    ---------
    head : CTCHead
        In eval mode.
    """

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """States (batch, frames, dim) -> log-probs (batch, frames, tokens)."""
        n_frames = torch.ones_like(hidden[..., 0]).sum(dim=1)  # a sum: a shape would be written down as a constant
        return self.head(hidden, n_frames)
