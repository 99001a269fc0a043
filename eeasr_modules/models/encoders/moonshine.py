"""The encoder of Moonshine (Jeffries et al. 2024) behind the walk's protocol: raw waveform, a frame each 24 ms.

Trained with supervision, encoder and decoder together; only the encoder is taken. Nothing is padded to a fixed length:
an utterance gets what transformers gives for it alone. In transformers' own batches the group norm runs over padding.

The layers are written out here, with the names of transformers' parameters and its numbers bit for bit: importing
transformers takes several times as long as recognising a sentence. It is needed only to read a checkpoint of its own.
"""

from types import SimpleNamespace

import torch
from torch import nn

from eeasr_modules.models.encoders.huggingface_checkpoint import OnlyEncoder, check_attention
from eeasr_modules.models.encoders.whisper import SupervisedEncoder
from eeasr_modules.models.walk import WalkState

# (kernel, stride) of the three convolutions, none padded; transformers has them as constants too
CONVOLUTIONS = ((127, 64), (7, 3), (3, 2))
SHORTEST = 895  # samples of the first frame; shorter utterances are padded with silence to it
DEFAULTS = {
    "model_type": "moonshine",
    "hidden_size": 288,
    "intermediate_size": 1152,
    "encoder_num_hidden_layers": 6,
    "encoder_num_attention_heads": 8,
    "encoder_num_key_value_heads": None,
    "encoder_hidden_act": "gelu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
}
"""What a checkpoint's settings mean where they are silent."""


def complete(hf_config: dict, *, attention: str | None = None, dropout: float | None = None) -> SimpleNamespace:
    """A checkpoint's settings with transformers' defaults, and ours in their place.

    Arguments
    ---------
    hf_config : dict
        As `config.json` has them.
    attention : str or None
        `sdpa`, or `eager`; None: `sdpa`.
    dropout : float or None
        Of attention; None keeps the checkpoint's.

    Raises
    ------
    ValueError
        If the encoder has parts that are not written here.
    """
    config = SimpleNamespace(**DEFAULTS | hf_config)
    rope = hf_config.get("rope_parameters") or hf_config.get("rope_scaling") or {}
    config.rope_theta = rope.get("rope_theta", hf_config.get("rope_theta", 10000.0))
    config.rotary_share = rope.get("partial_rotary_factor", hf_config.get("partial_rotary_factor", 0.9))
    config.attention = attention or "sdpa"
    config.attention_dropout = config.attention_dropout if dropout is None else dropout
    heads = config.encoder_num_attention_heads
    config.width = hf_config.get("head_dim") or config.hidden_size // heads
    known = {
        "rope_type": (rope.get("rope_type", "default"), "default"),
        "encoder_hidden_act": (config.encoder_hidden_act, "gelu"),
        "encoder_num_key_value_heads": (config.encoder_num_key_value_heads or heads, heads),
    }
    for name, (value, expected) in known.items():
        if value != expected:
            raise ValueError(f"a Moonshine encoder of {name} {value!r} is not known, expected {expected!r}")
    return config


class Attention(nn.Module):
    """Self-attention; the first part of each head's queries and keys is turned by its position.

    Arguments
    ---------
    config : SimpleNamespace
        From `complete`.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.n_heads = config.encoder_num_attention_heads
        self.width = config.width
        self.eager, self.dropout = config.attention == "eager", config.attention_dropout
        inner = self.n_heads * self.width
        self.q_proj = nn.Linear(config.hidden_size, inner, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, inner, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, inner, bias=config.attention_bias)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def forward(
        self, hidden: torch.Tensor, *, mask: torch.Tensor | None, positions: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """States (batch, frames, dim) to the same; `mask`, `positions`: see `Layer`."""
        batch, frames, _ = hidden.shape
        queries, keys, values = (
            projection(hidden).view(batch, frames, self.n_heads, self.width).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        queries, keys = turned(queries, *positions), turned(keys, *positions)
        dropout, scale = self.dropout if self.training else 0.0, self.width**-0.5
        if self.eager:
            scores = torch.matmul(queries, keys.transpose(2, 3)) * scale
            if mask is not None:
                scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
            weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(queries.dtype)
            attended = torch.matmul(nn.functional.dropout(weights, p=dropout, training=self.training), values)
        else:
            attended = nn.functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, dropout_p=dropout, scale=scale
            )
        return self.o_proj(attended.transpose(1, 2).reshape(batch, frames, -1))


def turned(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Heads (batch, heads, frames, width), pairs of neighbouring channels turned by rotary angles.

    Arguments
    ---------
    x : torch.Tensor of shape (batch, heads, frames, width)
        Queries or keys.
    cosines, sines : torch.Tensor of shape (frames, turned channels)
        From `Rotary`.
    """
    n_turned = cosines.shape[-1]
    moving, still = x[..., :n_turned], x[..., n_turned:]
    across = torch.stack((-moving[..., 1::2], moving[..., ::2]), dim=-1).flatten(-2)
    return torch.cat([moving * cosines + across * sines, still], dim=-1)


class Rotary(nn.Module):
    """Angles of rotary positions (Su et al. 2021), each for two neighbouring channels.

    Arguments
    ---------
    config : SimpleNamespace
        From `complete`.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        n_turned = int(config.width * config.rotary_share)
        frequencies = 1.0 / (config.rope_theta ** (torch.arange(0, n_turned, 2, dtype=torch.float) / n_turned))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, (frames, turned channels) each, for states (batch, frames, dim), in their precision."""
        # a sum, as its length is no constant of a traced graph
        steps = torch.ones_like(hidden[0, :, 0], dtype=torch.float).cumsum(dim=0) - 1
        angles = (steps.unsqueeze(1) * self.frequencies.float()).unsqueeze(2).expand(-1, -1, 2).flatten(1)
        return angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)


class FeedForward(nn.Module):
    """Two linear layers, GELU between them.

    Arguments
    ---------
    config : SimpleNamespace
        From `complete`.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """States (batch, frames, dim) to the same."""
        return self.fc2(nn.functional.gelu(self.fc1(hidden)))


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm and beside a sum.

    Arguments
    ---------
    config : SimpleNamespace
        From `complete`.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, bias=False)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, bias=False)

    def forward(
        self, hidden: torch.Tensor, *, mask: torch.Tensor | None, positions: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """States to states.

        Arguments
        ---------
        hidden : torch.Tensor of shape (batch, frames, dim)
            Padding counts only where there is no mask.
        mask : torch.Tensor of shape (batch, 1, 1, frames) or None
            True where there is speech; None: everywhere.
        positions : tuple of two torch.Tensor of shape (frames, turned channels)
            From `Rotary`.
        """
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), mask=mask, positions=positions)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Parts(nn.Module):
    """Convolutions, layers and last norm, with the names and first values that transformers gives them.

    Arguments
    ---------
    config : SimpleNamespace
        From `complete`.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        dim = config.hidden_size
        self.config = config
        kernels, strides = zip(*CONVOLUTIONS)
        self.conv1 = nn.Conv1d(1, dim, kernels[0], strides[0], bias=False)
        self.conv2 = nn.Conv1d(dim, 2 * dim, kernels[1], strides[1])
        self.conv3 = nn.Conv1d(2 * dim, dim, kernels[2], strides[2])
        self.groupnorm = nn.GroupNorm(1, dim)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.encoder_num_hidden_layers)])
        self.layer_norm = nn.LayerNorm(dim, bias=False)
        self.rotary_emb = Rotary(config)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d)):
                nn.init.normal_(module.weight, std=config.initializer_range)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, wavs: torch.Tensor, lengths: list[int], frames: list[int]) -> torch.Tensor:
        """Waveforms to the input of layer 1; the group norm sees each utterance's own frames.

        Arguments
        ---------
        wavs : torch.Tensor of shape (batch, samples)
            At least `SHORTEST`.
        lengths, frames : list of int
            Valid samples, at least `SHORTEST`, and what the convolutions make of them.

        Returns
        -------
        torch.Tensor of shape (batch, frames, dim)
        """
        x = torch.tanh(self.conv1(wavs.unsqueeze(1)))
        kernel, stride = CONVOLUTIONS[0]
        normed = [self.groupnorm(row[None, :, : (n - kernel) // stride + 1]) for row, n in zip(x, lengths)]
        if len(normed) == 1:
            x = normed[0]
        else:
            x = torch.zeros_like(x)
            for i, row in enumerate(normed):
                x[i, :, : row.shape[2]] = row[0]
        x = nn.functional.gelu(self.conv2(x))
        return nn.functional.gelu(self.conv3(x)).transpose(1, 2)[:, : max(frames)]


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

    written_here = True

    def built(self, hf_config: dict, *, attention: str | None, dropout: float | None) -> nn.Module:
        """As the base's; transformers is not imported."""
        config = complete(hf_config, attention=attention, dropout=dropout)
        check_attention(config, attention)
        return OnlyEncoder(Parts(config))

    def stock_model(self) -> nn.Module:
        """Transformers' own encoder, which shares our weights."""
        from transformers import AutoConfig
        from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder as Stock

        own = self.model.encoder
        values = {name: value for name, value in self.settings["hf_config"].items() if name != "model_type"}
        settings = AutoConfig.for_model("moonshine", **values)
        stock = Stock._from_config(settings, attn_implementation=own.config.attention)
        stock.load_state_dict(own.state_dict(), assign=True)
        return OnlyEncoder(stock).train(self.training)

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
        frames = n_frames.tolist()
        x = self.model.encoder(wavs, n_samples.clamp(min=SHORTEST).tolist(), frames)
        return self.refresh(WalkState(self._hidden_at_random(x, frames) if self.training else x, n_frames))

    def refresh(self, state: WalkState) -> WalkState:
        """Attention mask and rotary positions for the batch as it is now."""
        padded = state.padded
        mask = ~padded[:, None, None] if bool(padded.any()) else None
        state.extra = {"mask": mask, "positions": self.model.encoder.rotary_emb(state.hidden)}
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

    def stock(self, wav: torch.Tensor, *, model: nn.Module) -> torch.Tensor:
        """Last states (frames, dim) of one waveform (samples,) by the forward of `stock_model`."""
        return model(wav[None]).last_hidden_state[0]
