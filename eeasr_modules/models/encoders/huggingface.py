"""Speech encoders from transformers behind the walk's protocol: wav2vec 2.0, HuBERT, WavLM, data2vec-audio, UniSpeech.

Whisper's and Moonshine's encoders (`SupervisedEncoder`) and those of Conformer layers build on it.

The walk calls parts of the models that transformers does not promise to keep, so every encoder, when it is made, runs
a second of noise through the walk and through the model's own forward, and refuses to work where they differ.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from eeasr_modules.models.encoders.front_end import (
    alone,
    build_downsampler,
    conv_frames,
    front_end_macs,
    normalised,
    shortest,
    span_mask,
    together,
    with_positions,
)
from eeasr_modules.models.encoders.huggingface_checkpoint import build_bare, cut, read_checkpoint
from eeasr_modules.models.walk import Walk, WalkState, shallow


class HuggingFaceEncoder(nn.Module):
    """A pre-trained speech encoder, walked layer by layer.

    In eval mode an utterance gets the same states alone and in a batch (to float32 rounding); at batch 1 they are
    transformers' own, bit for bit. An utterance shorter than the first frame (400 samples) is padded with silence to
    one frame. Attention never sees padding. Inner states of "large" models (stable layer norm) are un-normalised:
    `final_norm` is what their heads start from; it is None where layers normalise their output themselves.

    ValueError: one sentence: no such checkpoint, no speech encoder, another sample rate, attention that it has not.
    RuntimeError if the walk does not reproduce the model's own forward under the installed transformers.

    Arguments
    ---------
    source : str or None
        Hub id or local folder; read only where `hf_config` is None.
    hf_config : dict or None
        The checkpoint's settings, as a model folder keeps them: the encoder is built from them with random weights,
        to be loaded.
    attention : str or None
        `sdpa` or `eager` (WavLM: only `eager`); None for the default of transformers.
    padded_front_end : bool
        Convolutions and position embedding over the padded batch, as transformers does: results of models with group
        norm, and of data2vec-audio, then depend on what else is in the batch.
    layerdrop : float
        Chance that a layer (never the first) is skipped for a batch in training; an exit after it sees the layer
        before. Needs `--find_unused_parameters` under DDP.
    mask_time_prob, mask_feature_prob : float
        SpecAugment in training: share of frames, and of channels, to hide at most; 0 for none.
    mask_time_length, mask_feature_length : int
        Span, in frames of 20 ms and in channels.
    dropout : float or None
        In place of all of the encoder's dropouts; None keeps the checkpoint's.
    gradient_checkpointing : bool
        Compute layers again in the backward pass instead of keeping their activations.
    freeze_feature_extractor : bool
        Keep the convolutions as they are.
    normalise_wavs : bool or None
        Zero mean and unit variance per utterance; None: as the checkpoint's feature extractor asks.
    sample_rate : int
        Hz; must be the checkpoint's.
    keep_layers : int or None
        The first so many layers only; None for all. The settings are then those of the smaller encoder.
    downsample : str or None
        Shorter waveforms: `convolution`, `average` or `signal` (see `Downsampler`).
    downsample_factor : int
        2 or 3: 25 or 16.7 frames a second.
    target_lang : str or None
        Language of an MMS checkpoint: its adapter and head are read.

    Example
    -------
    >>> shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    >>> shape |= {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    >>> encoder = HuggingFaceEncoder(hf_config={"model_type": "hubert", **shape}).eval()
    >>> state = encoder.front_end(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    >>> state.hidden.shape, state.n_frames.tolist()
    (torch.Size([2, 49, 16]), [49, 24])
    """

    pre_norm = False  # whether every layer of the family leaves its output un-normalised, whatever the settings say
    written_here = False  # whether layers are ours, compared with those of transformers where a checkpoint is read

    def __init__(
        self,
        *,
        source: str | None = None,
        hf_config: dict | None = None,
        attention: str | None = None,
        padded_front_end: bool = False,
        layerdrop: float = 0.0,
        mask_time_prob: float = 0.0,
        mask_time_length: int = 10,
        mask_feature_prob: float = 0.0,
        mask_feature_length: int = 10,
        dropout: float | None = None,
        gradient_checkpointing: bool = False,
        freeze_feature_extractor: bool = True,
        normalise_wavs: bool | None = None,
        sample_rate: int = 16000,
        keep_layers: int | None = None,
        downsample: str | None = None,
        downsample_factor: int = 2,
        target_lang: str | None = None,
    ):
        super().__init__()
        if hf_config is None and source is None:
            raise ValueError("a huggingface encoder needs source, a hub id or a local folder, got null")
        self.ctc = None
        is_read = hf_config is None
        if is_read:
            read = read_checkpoint(source, attention=attention, dropout=dropout, target_lang=target_lang)
            self.model, hf_config, self.ctc = read.model, read.hf_config, read.ctc
            if self.written_here:
                self.model = self.built(hf_config, attention=attention, dropout=dropout)
                self.model.load_state_dict(read.model.state_dict(), assign=True)
            if sample_rate != read.sample_rate:
                raise ValueError(f"'{source}' was trained at {read.sample_rate} Hz, sample_rate is {sample_rate}")
            normalise_wavs = read.normalise_wavs if normalise_wavs is None else normalise_wavs
            hf_config = cut(self.model, hf_config, keep_layers=keep_layers)
        else:
            self.model = self.built(hf_config, attention=attention, dropout=dropout)
            hf_config = cut(self.model, hf_config, keep_layers=keep_layers)
            normalise_wavs = True if normalise_wavs is None else normalise_wavs
        self.settings = {
            "encoder": "huggingface",
            "source": source,
            "hf_config": hf_config,
            "attention": attention,
            "padded_front_end": padded_front_end,
            "layerdrop": layerdrop,
            "mask_time_prob": mask_time_prob,
            "mask_time_length": mask_time_length,
            "mask_feature_prob": mask_feature_prob,
            "mask_feature_length": mask_feature_length,
            "dropout": dropout,
            "gradient_checkpointing": gradient_checkpointing,
            "freeze_feature_extractor": freeze_feature_extractor,
            "normalise_wavs": normalise_wavs,
            "sample_rate": sample_rate,
            "downsample": downsample,
            "downsample_factor": downsample_factor,
            "target_lang": target_lang,
        }
        self.downsampler = build_downsampler(downsample, downsample_factor)
        self.padded_front_end, self.layerdrop, self.normalise_wavs = padded_front_end, layerdrop, normalise_wavs
        self.gradient_checkpointing = gradient_checkpointing
        self.time_masks = {"share": mask_time_prob, "span": mask_time_length}
        self.channel_masks = {"share": mask_feature_prob, "span": mask_feature_length}
        self._own_mask_embedding()
        config = self.model.config
        self.n_layers, self.dim = len(self.model.encoder.layers), config.hidden_size
        self.head_dropout = getattr(config, "final_dropout", 0.1)
        self.stable = self.pre_norm or bool(getattr(config, "do_stable_layer_norm", False))
        self.ffn_dim = getattr(config, "encoder_ffn_dim", None) or config.intermediate_size
        self.is_wavlm = config.model_type == "wavlm"
        self.prepare(frozen=freeze_feature_extractor)
        if is_read or not self.written_here:
            self.self_test()

    def built(self, hf_config: dict, *, attention: str | None, dropout: float | None) -> nn.Module:
        """The bare encoder of a checkpoint's settings, with random weights."""
        return build_bare(hf_config, attention=attention, dropout=dropout)

    def stock_model(self) -> nn.Module:
        """The encoder with the forward of transformers, our weights in it."""
        return self.model

    def prepare(self, *, frozen: bool) -> None:
        """What this family needs besides the model; `frozen` keeps the convolutions as they are."""
        if frozen:
            self.model.feature_extractor._freeze_parameters()  # also tells it to ask for no gradient of its input

    def _own_mask_embedding(self) -> None:
        """What stands for a hidden frame: always a weight of ours, trained only where frames are hidden.

        Transformers has it or not depending on its settings, and leaves it without gradients (DDP refuses that).
        """
        theirs = getattr(self.model, "masked_spec_embed", None)
        if theirs is not None:
            del self.model.masked_spec_embed
        values = torch.rand(self.model.config.hidden_size) if theirs is None else theirs.detach().clone()
        self.mask_embedding = nn.Parameter(values, requires_grad=self.time_masks["share"] > 0)

    @property
    def final_norm(self) -> nn.Module | None:
        """The norm after the last layer; None for models whose layers normalise what they give."""
        return self.model.encoder.layer_norm if self.stable else None

    def front_end(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> WalkState:
        """Waveforms (batch, samples) -> the input of layer 1 at 50 frames a second, fewer where it is downsampled."""
        if self.downsampler is not None:
            wavs, n_samples = self.downsampler(wavs, n_samples)
        first_frame = shortest(self.model.config)
        lengths = [max(int(n), first_frame) for n in n_samples.tolist()]
        with torch.autocast(wavs.device.type, enabled=False), torch.set_grad_enabled(wavs.requires_grad):
            wavs = wavs[:, : max(lengths)].float()
            wavs = nn.functional.pad(wavs, (0, max(lengths) - wavs.shape[1]))
            wavs = normalised(wavs, n_samples) if self.normalise_wavs else wavs
        n_frames = conv_frames(self.model.config, n_samples)
        frames = n_frames.tolist()
        state = WalkState(self._projected(wavs, lengths, frames), n_frames)
        valid = ~state.padded if min(frames) < state.hidden.shape[1] else None
        state.hidden = self._positioned(state.hidden, valid)
        return self.refresh(state)

    def _positioned(self, hidden: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Projected features (batch, frames, dim) -> the input of layer 1; `valid`: see `with_positions`."""
        return with_positions(self.model, hidden, valid, padded=self.padded_front_end)

    def _projected(self, wavs: torch.Tensor, lengths: list[int], frames: list[int]) -> torch.Tensor:
        """Convolutions, projection and, in training, SpecAugment -> (batch, frames, dim)."""
        extractor, trained = self.model.feature_extractor, self.settings["freeze_feature_extractor"] is False
        with torch.set_grad_enabled(torch.is_grad_enabled() and (trained or wavs.requires_grad)):
            if self.training or self.padded_front_end:
                recompute = self.gradient_checkpointing and torch.is_grad_enabled()
                x = together(extractor, wavs, lengths, padded=self.padded_front_end, recompute=recompute)
            else:
                x = alone(extractor, wavs, lengths, frames)
        x = self.model.feature_projection(x)
        x = x[0] if isinstance(x, tuple) else x  # a tuple for all but HuBERT
        return self._hidden_at_random(x, frames) if self.training else x

    def _hidden_at_random(self, x: torch.Tensor, frames: list[int]) -> torch.Tensor:
        if self.time_masks["share"]:
            hide = span_mask(frames, x.shape[1], **self.time_masks).to(x.device)
            x = torch.where(hide.unsqueeze(-1), self.mask_embedding.to(x.dtype), x)
        if self.channel_masks["share"]:
            hide = span_mask([x.shape[2]] * len(frames), x.shape[2], **self.channel_masks).to(x.device)
            x = x.masked_fill(hide.unsqueeze(1), 0.0)
        return x

    def refresh(self, state: WalkState) -> WalkState:
        """Attention mask, and WavLM's position bias, for the batch as it is now."""
        padded = state.padded
        valid = ~padded if bool(padded.any()) else None
        if self.is_wavlm:
            state.extra = {"attention_mask": valid, **self._position_bias(state)}
            return state
        from transformers.masking_utils import create_bidirectional_mask

        # by position: the name of the second argument differs between versions
        state.extra = {"attention_mask": create_bidirectional_mask(self.model.encoder.config, state.hidden, valid)}
        return state

    def _position_bias(self, state: WalkState) -> dict[str, torch.Tensor]:
        """Position bias of shape (batch x heads, frames, frames), and its first (heads, frames, frames).

        It is the same for every utterance and made by the first layer's weights alone, so what was made for the whole
        batch serves who is left.
        """
        batch, length = state.hidden.shape[:2]
        if "bias" in state.extra:
            bias = state.extra["bias"][:, :length, :length]
        else:
            bias = self.model.encoder.layers[0].attention.compute_bias(length, length)
        return {"bias": bias, "position_bias": bias.unsqueeze(0).repeat(batch, 1, 1, 1).view(-1, length, length)}

    def run_layer(self, layer: int, state: WalkState) -> WalkState:
        """State after `layer`, numbered from 1."""
        if self.training and self.layerdrop and layer > 1 and torch.rand(()).item() < self.layerdrop:
            return state
        module = self.model.encoder.layers[layer - 1]
        arguments = {name: value for name, value in state.extra.items() if name != "bias"}
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            hidden = checkpoint(self._layer, module, state.hidden, use_reentrant=False, **arguments)
        else:
            hidden = self._layer(module, state.hidden, **arguments)
        return WalkState(hidden[0] if isinstance(hidden, tuple) else hidden, state.n_frames, state.extra)

    def _layer(self, module: nn.Module, hidden: torch.Tensor, **extra):
        """What a layer of transformers gives."""
        return module(hidden, **extra)

    def exit_view(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """The layer's output; after the last layer of a "large" model, normalised as the model does."""
        return self.model.encoder.layer_norm(hidden) if self.stable and layer == self.n_layers else hidden

    def frames_for(self, n_samples):
        """Frames of 20 ms that so many samples give (an int or a tensor), at least one; longer where downsampled."""
        n_samples = n_samples if self.downsampler is None else self.downsampler.length_of(n_samples)
        return conv_frames(self.model.config, n_samples)

    def front_end_macs(self, n_samples: int) -> float:
        """Multiply-accumulates of downsampling, convolutions, projection and position embedding."""
        if self.downsampler is None:
            return front_end_macs(self.model.config, n_samples)
        heard = self.downsampler.length_of(n_samples)
        return self.downsampler.macs(n_samples) + front_end_macs(self.model.config, heard)

    def layer_macs(self, n_frames: int) -> float:
        """Multiply-accumulates of one layer: attention, feed-forward, WavLM's gate, adapter."""
        config, t, d = self.model.config, n_frames, self.dim
        gate = 8 * t * d if self.is_wavlm else 0
        adapter = 2 * t * d * (getattr(config, "adapter_attn_dim", None) or 0)
        return float(4 * t * d * d + 2 * t * t * d + 2 * t * d * self.ffn_dim + gate + adapter)

    @torch.no_grad()
    def self_test(self) -> None:
        """Compare the walk with the model's own forward on a second of noise, padded.

        RuntimeError where they differ, with the version of transformers.
        """
        import transformers

        mode, device = self.training, self.mask_embedding.device
        n_samples = torch.tensor([16000, 11000], device=device)
        wavs = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)).to(device)
        wavs = wavs * (torch.arange(16000, device=device) < n_samples.unsqueeze(1))
        self.eval()
        try:
            difference = self.difference_from_stock(wavs, n_samples)
        except (TypeError, AttributeError, IndexError, ValueError, RuntimeError) as err:
            difference = f"{type(err).__name__}: {err}"
        finally:
            self.train(mode)
        if isinstance(difference, str) or not difference <= 1e-3:
            raise RuntimeError(
                f"the {self.model.config.model_type} of transformers {transformers.__version__} is not the one that "
                f"the walk was written for (last layer differs by {difference}): install another version"
            )

    def difference_from_stock(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> float:
        """Largest difference of the last layer's states from those of transformers' own forward over the same batch."""
        padded_front_end, normalise, downsampler = self.padded_front_end, self.normalise_wavs, self.downsampler
        self.padded_front_end, self.normalise_wavs, self.downsampler = True, False, None
        try:
            walk = Walk(self, wavs, n_samples)
            ours = walk.advance(self.n_layers)
            stock = self.stock_states(self.model, wavs, n_samples)
        finally:
            self.padded_front_end, self.normalise_wavs, self.downsampler = padded_front_end, normalise, downsampler
        return max((ours[i, :n] - stock[i, :n]).abs().max().item() for i, n in enumerate(walk.n_frames.tolist()))

    def stock_states(self, model: nn.Module, wavs: torch.Tensor, n_samples: torch.Tensor) -> torch.Tensor:
        """States (batch, frames, dim) by the forward of transformers' `model`, with an attention mask where needed."""
        if self.downsampler is not None:
            wavs, n_samples = self.downsampler(wavs, n_samples)
        x = normalised(wavs, n_samples) if self.normalise_wavs else wavs
        mask = None
        if bool((n_samples < wavs.shape[1]).any()):
            mask = (torch.arange(wavs.shape[1], device=wavs.device) < n_samples.unsqueeze(1)).long()
        return model(x, attention_mask=mask).last_hidden_state


def stock_forward(encoder: HuggingFaceEncoder, n_layers: int):
    """Transformers' forward of the first layers, weights shared: (wavs, n_samples) to (states, n_frames)."""
    model = encoder.stock_model()
    if n_layers < encoder.n_layers:
        model = shallow(model)
        model.encoder = shallow(model.encoder)
        model.encoder.layers = nn.ModuleList(list(model.encoder.layers)[:n_layers])
        if encoder.stable:  # inner heads of "large" normalise themselves
            model.encoder.layer_norm = nn.Identity()
        model.eval()

    def forward(wavs: torch.Tensor, n_samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return encoder.stock_states(model, wavs, n_samples), encoder.frames_for(n_samples)

    forward.model = model  # whose weights a tracer meets
    return forward
