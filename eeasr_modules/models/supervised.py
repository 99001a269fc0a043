"""What the encoders of Whisper and Moonshine share: taken from models with a decoder, heard at true length."""

import torch
from torch import nn

from eeasr_modules.models.huggingface import HuggingFaceEncoder
from eeasr_modules.models.walk import Walk


class SupervisedEncoder(HuggingFaceEncoder):
    """Base of the encoders that were trained together with a decoder; arguments and errors as `HuggingFaceEncoder`.

    Inner states are un-normalised (`final_norm` comes after the last layer). An utterance gets the same states alone
    and in a batch, to float32 rounding; waveforms are not normalised, and `padded_front_end` is refused.
    """

    pre_norm = True

    def __init__(self, **settings):
        if settings.get("padded_front_end"):
            raise ValueError(
                "padded_front_end: true is for wav2vec 2.0 and its kin; Whisper and Moonshine hear each utterance at "
                "its own length: give false"
            )
        super().__init__(**{**settings, "normalise_wavs": False})

    def frames_for(self, n_samples):
        """Frames that so many samples give (an int or a tensor), at least one; longer where downsampled."""
        return self.conv_frames(n_samples if self.downsampler is None else self.downsampler.length_of(n_samples))

    def stock(self, wav: torch.Tensor, *, model: nn.Module | None = None) -> torch.Tensor:
        """Last states (frames, dim) of one waveform (samples,) by transformers' own forward (of `model`, if given)."""
        raise NotImplementedError

    def difference_from_stock(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> float:
        """Largest difference between the walk over a padded batch and transformers' own forward over each alone."""
        downsampler, self.downsampler = self.downsampler, None
        try:
            walk = Walk(self, wavs, n_samples)
            ours = walk.advance(self.n_layers)
            stock = [self.stock(wav[:n]) for wav, n in zip(wavs, n_samples.tolist(), strict=True)]
        finally:
            self.downsampler = downsampler
        return max((one[: len(other)] - other).abs().max().item() for one, other in zip(ours, stock, strict=True))
