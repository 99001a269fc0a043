"""Filterbanks with per-utterance normalisation, unaffected by padding; SpecAugment while training."""

import torch
from torch import nn


class LogMel(nn.Module):
    """SpeechBrain's log-mel filterbanks, normalised per utterance and channel over its own frames.

    Frames beyond an utterance's end are silenced before the logarithm's floor is set (SpeechBrain sets it 80 dB below
    the utterance's loudest bin, padding included) and are zero afterwards, so an utterance gets the same features alone
    and in a batch.

    Arguments
    ---------
    n_mels : int
        Mel channels.
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
