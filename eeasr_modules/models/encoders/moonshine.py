"""The encoder of Moonshine (Jeffries et al. 2024) behind the walk's protocol: raw waveform, a frame each 24 ms.

Trained with supervision, encoder and decoder together; only the encoder is taken. Nothing is padded to a fixed length:
an utterance gets what transformers gives for it alone. In transformers' own batches the group norm runs over padding.
"""

import torch
from torch import nn

from eeasr_modules.models.encoders.whisper import SupervisedEncoder
from eeasr_modules.models.walk import WalkState

# (kernel, stride) of the three convolutions, none padded; transformers has them as constants too
CONVOLUTIONS = ((127, 64), (7, 3), (3, 2))
SHORTEST = 895  # samples of the first frame; shorter utterances are padded with silence to it


class MoonshineEncoder(SupervisedEncoder):
    """Moonshine's encoder, walked layer by layer; arguments and errors as `SupervisedEncoder`.

    Example
    -------
    >>> shape = {"hidden_size": 16, "intermediate_size": 32, "encoder_num_hidden_layers": 2}
    >>> shape |= {"encoder_num_attention_heads": 2, "encoder_num_key_value_heads": 2}
    >>> encoder = MoonshineEncoder(hf_config={"model_type": "moonshine", **shape}).eval()
    >>> state = encoder.front_end(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    >>> state.hidden.shape, state.n_frames.tolist()
    (torch.Size([2, 40, 16]), [40, 19])
    """

    def prepare(self, *, frozen: bool) -> None:
        """Freeze the convolutions and their norm, where that is asked for."""
        encoder = self.model.encoder
        if frozen:
            for part in (encoder.conv1, encoder.conv2, encoder.conv3, encoder.groupnorm):
                part.requires_grad_(False)

    def front_end(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> WalkState:
        """Waveforms (batch, samples) -> the input of layer 1, a frame each 24 ms, more where it is downsampled."""
        if self.downsampler is not None:
            wavs, n_samples = self.downsampler(wavs, n_samples)
        n_frames = self.conv_frames(n_samples)
        padded = max(wavs.shape[1], SHORTEST)
        wavs = nn.functional.pad(wavs, (0, padded - wavs.shape[1])).to(self.model.encoder.conv1.weight.dtype)
        features = self._convolved(wavs, n_samples.clamp(min=SHORTEST).tolist(), n_frames.tolist())
        return self.refresh(WalkState(features, n_frames))

    def _convolved(self, wavs: torch.Tensor, lengths: list[int], frames: list[int]) -> torch.Tensor:
        """(batch, samples) -> (batch, frames, dim); the group norm sees each utterance's own frames."""
        encoder = self.model.encoder
        x = torch.tanh(encoder.conv1(wavs.unsqueeze(1)))
        kernel, stride = CONVOLUTIONS[0]
        normed = [encoder.groupnorm(row[None, :, : (n - kernel) // stride + 1]) for row, n in zip(x, lengths)]
        if len(normed) == 1:
            x = normed[0]
        else:
            x = torch.zeros_like(x)
            for i, row in enumerate(normed):
                x[i, :, : row.shape[2]] = row[0]
        x = nn.functional.gelu(encoder.conv2(x))
        x = nn.functional.gelu(encoder.conv3(x)).transpose(1, 2)[:, : max(frames)]
        return self._hidden_at_random(x, frames) if self.training else x

    def refresh(self, state: WalkState) -> WalkState:
        """Attention mask and rotary positions for the batch as it is now."""
        from transformers.masking_utils import create_bidirectional_mask

        padded = state.padded
        valid = ~padded if bool(padded.any()) else None
        mask = create_bidirectional_mask(self.model.config, state.hidden, valid)
        steps = torch.arange(state.hidden.shape[1], device=state.hidden.device).unsqueeze(0)
        positions = self.model.encoder.rotary_emb(state.hidden, position_ids=steps)
        state.extra = {"attention_mask": mask, "position_embeddings": positions}
        return state

    @staticmethod
    def conv_frames(n_samples):
        """Frames that the convolutions make of so many samples (an int or a tensor), at least one."""
        length = n_samples
        for kernel, stride in CONVOLUTIONS:
            length = (length - kernel) // stride + 1
        return length.clamp(min=1) if isinstance(length, torch.Tensor) else max(1, length)

    def front_end_macs(self, n_samples: int) -> float:
        """Multiply-accumulates of downsampling and convolutions."""
        extra = 0.0
        if self.downsampler is not None:
            extra, n_samples = self.downsampler.macs(n_samples), self.downsampler.length_of(n_samples)
        length, channels = max(n_samples, SHORTEST), 1
        for (kernel, stride), width in zip(CONVOLUTIONS, (self.dim, 2 * self.dim, self.dim), strict=True):
            length = (length - kernel) // stride + 1
            extra += length * kernel * channels * width
            channels = width
        return float(extra)

    def stock(self, wav: torch.Tensor, *, model: nn.Module | None = None) -> torch.Tensor:
        """Last states (frames, dim) of one waveform (samples,) by transformers' own forward (of `model`, if given)."""
        return (model or self.model)(wav[None]).last_hidden_state[0]
