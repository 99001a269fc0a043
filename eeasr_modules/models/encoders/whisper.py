"""The encoder of Whisper (Radford et al. 2022) behind the walk's protocol, and what it shares with Moonshine's.

Trained with supervision, encoder and decoder together; only the encoder is taken. Transformers runs it over 30 s,
silence included, whatever the length of the speech; here an utterance is as long as it is: the layers are stock, over
the positions that it fills. Whisper's own decoder does not follow that; CTC heads are trained on what they see.
"""

import torch
from torch import nn

from eeasr_modules.models.encoders.huggingface import HuggingFaceEncoder
from eeasr_modules.models.walk import Walk, WalkState


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

    def stock(self, wav: torch.Tensor, *, model: nn.Module) -> torch.Tensor:
        """Last states (frames, dim) of one waveform (samples,) by the forward of `stock_model`."""
        raise NotImplementedError

    def stock_states(self, model: nn.Module, wavs: torch.Tensor, n_samples: torch.Tensor) -> torch.Tensor:
        """As the base's, one utterance after the other: transformers has no masks for these encoders."""
        alone = [self.stock(wav[:n], model=model) for wav, n in zip(wavs, n_samples.tolist(), strict=True)]
        if len({len(one) for one in alone}) == 1:  # also what an ONNX graph can do
            return torch.stack(alone)
        return nn.utils.rnn.pad_sequence(alone, batch_first=True)

    def decoder_states(self, hidden: torch.Tensor, wav: torch.Tensor) -> tuple[torch.Tensor, float]:
        """What the checkpoint's own decoder hears of one utterance, and what making it cost beside the walk.

        `hidden` (frames, dim): after the last layer, without padding. `wav` (samples,): the utterance.

        Returns
        -------
        states : torch.Tensor of shape (frames, dim)
        macs : float
            Multiply-accumulates; 0 where `hidden` is all it needs.
        """
        return hidden, 0.0

    def difference_from_stock(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> float:
        """Largest difference between the walk over a padded batch and transformers' own forward over each alone."""
        downsampler, self.downsampler = self.downsampler, None
        try:
            walk = Walk(self, wavs, n_samples)
            ours = walk.advance(self.n_layers)
            model = self.stock_model()
            stock = [self.stock(wav[:n], model=model) for wav, n in zip(wavs, n_samples.tolist(), strict=True)]
        finally:
            self.downsampler = downsampler
        return max((one[: len(other)] - other).abs().max().item() for one, other in zip(ours, stock, strict=True))


HOP, WINDOW = 160, 400  # samples
FRAME = 2 * HOP  # the second convolution halves 100 frames a second


class WhisperEncoder(SupervisedEncoder):
    """Whisper's encoder, walked layer by layer at true length; arguments and errors as `SupervisedEncoder`.

    The end of an utterance is filled up with silence to whole frames. At most 30 s (the positions that there are).

    Example
    -------
    >>> shape = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    >>> encoder = WhisperEncoder(hf_config={"model_type": "whisper", **shape}).eval()
    >>> state = encoder.front_end(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    >>> state.hidden.shape, state.n_frames.tolist()
    (torch.Size([2, 50, 16]), [50, 25])
    """

    def prepare(self, *, frozen: bool) -> None:
        """Mel filters and window; convolutions are frozen where that is asked for, positions always are."""
        from transformers import WhisperFeatureExtractor

        filters = WhisperFeatureExtractor(feature_size=self.model.config.num_mel_bins).mel_filters
        self.register_buffer("mel_filters", torch.tensor(filters, dtype=torch.float32), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        encoder = self.model.encoder
        encoder.embed_positions.requires_grad_(False)
        if frozen:
            encoder.conv1.requires_grad_(False)
            encoder.conv2.requires_grad_(False)

    def front_end(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> WalkState:
        """Waveforms (batch, samples) -> the input of layer 1 at 50 frames a second, fewer where it is downsampled.

        ValueError if an utterance is longer than the positions that the checkpoint has.
        """
        if self.downsampler is not None:
            wavs, n_samples = self.downsampler(wavs, n_samples)
        n_frames, encoder = self.conv_frames(n_samples), self.model.encoder
        frames, most = n_frames.tolist(), len(encoder.embed_positions.weight)
        if max(frames) > most:
            raise ValueError(
                f"a Whisper encoder hears {most * FRAME // 16000} s at most, got "
                f"{max(n_samples.tolist()) / 16000:.1f} s: cut long recordings into pieces (chunk_s), or leave long "
                "utterances out of training (train_max_s)"
            )
        x = self.log_mels(wavs, n_samples, frames).to(encoder.conv1.weight.dtype)
        x = nn.functional.gelu(encoder.conv1(x))
        if len(frames) > 1:  # zero behind each utterance, as the convolution's own padding is for one alone
            steps = torch.arange(x.shape[2], device=x.device)
            x = x * (steps < 2 * n_frames.unsqueeze(1)).unsqueeze(1)
        x = nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)
        x = self._hidden_at_random(x, frames) if self.training else x
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        dropped = nn.functional.dropout(x, p=encoder.dropout, training=self.training)
        return self.refresh(WalkState(dropped, n_frames))

    def log_mels(self, wavs: torch.Tensor, n_samples: torch.Tensor, frames: list[int]) -> torch.Tensor:
        """Whisper's log-mel features, (batch, mels, 2 x frames), float32; each utterance as if it were alone."""
        made = [self._log_mel(wav[:n], n_frames) for wav, n, n_frames in zip(wavs, n_samples.tolist(), frames)]
        if len(made) == 1:
            return made[0][None]
        batch = made[0].new_zeros(len(made), made[0].shape[0], 2 * max(frames))
        for row, features in zip(batch, made):
            row[:, : features.shape[1]] = features
        return batch

    def _log_mel(self, wav: torch.Tensor, n_frames: int) -> torch.Tensor:
        """(samples,) -> (mels, 2 x n_frames), 80 dB of dynamic range below the loudest."""
        with torch.autocast(wav.device.type, enabled=False):
            wav = nn.functional.pad(wav.float(), (0, max(n_frames * FRAME, FRAME) - len(wav)))
            spectrum = torch.stft(wav, WINDOW, HOP, window=self.window.float(), return_complex=True)
            mels = self.mel_filters.float().T @ spectrum[:, :-1].abs().square()
            logs = mels.clamp(min=1e-10).log10()
            return (torch.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0

    def decoder_states(self, hidden: torch.Tensor, wav: torch.Tensor) -> tuple[torch.Tensor, float]:
        """As the base's, but the encoder runs once more over all its positions (30 s), silence included.

        Whisper's decoder does not follow states of true length: it was never shown any.
        """
        n_frames = len(self.model.encoder.embed_positions.weight)
        n_samples = n_frames * FRAME
        padded = nn.functional.pad(wav, (0, n_samples - len(wav)))[None]
        states = Walk(self, padded, torch.tensor([n_samples], device=wav.device)).advance(self.n_layers)[0]
        return states, self.front_end_macs(n_samples) + self.n_layers * self.layer_macs(n_frames)

    def refresh(self, state: WalkState) -> WalkState:
        """Attention mask for the batch as it is now."""
        from transformers.masking_utils import create_bidirectional_mask

        padded = state.padded
        valid = ~padded if bool(padded.any()) else None
        state.extra = {"attention_mask": create_bidirectional_mask(self.model.config, state.hidden, valid)}
        return state

    @staticmethod
    def conv_frames(n_samples):
        """Frames of so many samples (an int or a tensor), the last one filled up; at least one."""
        frames = (n_samples + FRAME - 1) // FRAME
        return frames.clamp(min=1) if isinstance(frames, torch.Tensor) else max(1, frames)

    def front_end_macs(self, n_samples: int) -> float:
        """Multiply-accumulates of downsampling, mel filters and convolutions (the Fourier transform is left out)."""
        extra = 0.0
        if self.downsampler is not None:
            extra, n_samples = self.downsampler.macs(n_samples), self.downsampler.length_of(n_samples)
        frames, n_mels = self.conv_frames(n_samples), self.model.config.num_mel_bins
        mels = 2 * frames * (WINDOW // 2 + 1) * n_mels
        return float(extra + mels + 2 * frames * 3 * n_mels * self.dim + frames * 3 * self.dim * self.dim)

    def stock(self, wav: torch.Tensor, *, model: nn.Module) -> torch.Tensor:
        """Last states (frames, dim) of a waveform (samples,) by the forward of `model`, its positions cut."""
        encoder, n_frames = model.encoder, self.conv_frames(len(wav))
        features, whole = self._log_mel(wav, n_frames)[None].to(encoder.conv1.weight.dtype), encoder.embed_positions
        encoder.embed_positions = nn.Embedding.from_pretrained(whole.weight[:n_frames])
        most, encoder.config.max_source_positions = encoder.config.max_source_positions, n_frames
        try:
            return model(features).last_hidden_state[0]
        finally:
            encoder.embed_positions, encoder.config.max_source_positions = whole, most
