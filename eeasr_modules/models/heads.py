"""Heads: what turns a layer's states into token log-probabilities, and self-conditioning on them.

Every head normalises (`paper` does not), may transform (`mlp`, `attention`, `paper`), drops out and projects. The last
exit sees states that the encoder has normalised (`Encoder.exit_view`) and has a norm of its own only on a frozen
encoder (`last_norm`), whose norm cannot learn. Self-conditioned CTC
(Nozaki & Komatsu 2021) adds an inner exit's posterior, projected back to the encoder's width, to the layer's output;
the projection starts at zero, so that an encoder that was trained without it starts as it was.
"""

import copy
import importlib
import inspect

import torch
from torch import nn

HEADS = ("linear", "mlp", "attention", "paper")  # those of a YAML; `lens` is for `eeasr probe`
ACTIVATIONS = ("LeakyReLU", "ReLU", "GELU", "SiLU", "Tanh", "Dropout", "Identity")
NORMS = ("BatchNorm1d", "LayerNorm")
NODES = ("speechbrain.nnet.linear.Linear", *(f"speechbrain.nnet.normalization.{name}" for name in NORMS))
NODES += tuple(f"torch.nn.{name}" for name in ACTIVATIONS)  # what `SpeechBrainBody` may consist of


class FeedForward(nn.Module):
    """Linear and GELU: with the dropout and projection that follow, the exit MLP of Zaiem et al. (2023)."""

    def __init__(self, dim: int, *, width: int):
        super().__init__()
        self.linear = nn.Linear(dim, width)

    def forward(self, hidden: torch.Tensor, n_frames: torch.Tensor | None = None) -> torch.Tensor:
        """States (batch, frames, dim) -> (batch, frames, width); `n_frames` is not needed."""
        return nn.functional.gelu(self.linear(hidden))

    def macs(self, n_frames: int) -> float:
        """Multiply-accumulates for one utterance."""
        return float(n_frames * self.linear.in_features * self.linear.out_features)


class SelfAttention(nn.Module):
    """The MLP, then a layer of self-attention with residual and norm, in the manner of HuBERT-EE (Yoon et al. 2022)."""

    def __init__(self, dim: int, *, width: int, n_heads: int = 4, dropout: float = 0.0):
        super().__init__()
        if width % n_heads:
            raise ValueError(f"head_dim must be a multiple of {n_heads} (the attention head's heads), got {width}")
        self.feed_forward = FeedForward(dim, width=width)
        self.n_heads, self.width = n_heads, width
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, hidden: torch.Tensor, n_frames: torch.Tensor | None = None) -> torch.Tensor:
        """States (batch, frames, dim), valid frames (batch,) -> (batch, frames, width); padding is not attended to."""
        if n_frames is None:
            raise ValueError("an attention head must know where padding begins: expected n_frames, got None")
        x = self.feed_forward(hidden)
        batch, length, _ = x.shape
        parts = self.queries_keys_values(x).view(batch, length, 3, self.n_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # three of (batch, heads, frames, width / heads)
        valid = torch.arange(length, device=x.device) < n_frames.clamp(min=1).unsqueeze(1)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None])
        attended = attended.transpose(1, 2).reshape(batch, length, self.width)
        return self.norm(x + self.dropout(self.output(attended)))

    def macs(self, n_frames: int) -> float:
        """Multiply-accumulates for one utterance."""
        attention = 4 * n_frames * self.width**2 + 2 * n_frames**2 * self.width
        return self.feed_forward.macs(n_frames) + attention


class PaperBody(nn.Module):
    """Linear, self-attention of one head and a feed-forward, one after the other, without residuals or norms.

    What stands before the shared projection in the code of Berrebbi et al. 2022 ("Avoid Overthinking in Self-Supervised
    Models for Speech Recognition"), written afresh; the dropout after the feed-forward is the head's own.

    `width`: of keys, queries, values and inside the feed-forward; 512 there. `dropout`: on attention weights, on the
    attention's output and inside the feed-forward; 0.3 there.
    """

    def __init__(self, dim: int, *, width: int, dropout: float = 0.0):
        super().__init__()
        self.dim, self.width = dim, width
        self.linear = nn.Linear(dim, dim)
        self.queries_keys_values = nn.Linear(dim, 3 * width)
        self.output = nn.Linear(width, dim)
        self.inner = nn.Linear(dim, width)
        self.outer = nn.Linear(width, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor, n_frames: torch.Tensor | None = None) -> torch.Tensor:
        """States (batch, frames, dim), valid frames (batch,) -> (batch, frames, dim); padding is not attended to."""
        if n_frames is None:
            raise ValueError("a paper head must know where padding begins: expected n_frames, got None")
        x = self.linear(hidden)
        query, key, value = self.queries_keys_values(x).chunk(3, dim=-1)  # three of (batch, frames, width)
        valid = torch.arange(x.shape[1], device=x.device) < n_frames.clamp(min=1).unsqueeze(1)
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=valid[:, None], dropout_p=self.dropout.p if self.training else 0.0
        )
        x = self.dropout(self.output(attended))
        return self.outer(self.dropout(torch.relu(self.inner(x))))

    def macs(self, n_frames: int) -> float:
        """Multiply-accumulates for one utterance."""
        per_frame = self.dim**2 + 4 * self.dim * self.width + 2 * self.dim * self.width
        return float(n_frames * per_frame + 2 * n_frames**2 * self.width)


class SpeechBrainBody(nn.Module):
    """What stands before `ctc_lin` in SpeechBrain's CTC recipes: the norm of its wrapper, and `enc`.

    `nodes`: of `enc`: name, class (one of `NODES`) and arguments. `output_norm`: zero mean and unit variance over all
    valid frames and channels of an utterance, as its wrapper has it of one that is alone (in a batch, padding counts
    there, and here not). ValueError on a class that is none of `NODES`, or arguments that it does not take.
    """

    def __init__(self, dim: int, *, nodes, output_norm: bool):
        from speechbrain.nnet.containers import Sequential

        super().__init__()
        self.output_norm = output_norm
        self.nodes = Sequential(input_shape=[None, None, dim])
        for name, path, arguments in nodes:
            if path not in NODES:
                raise ValueError(f"node {name} of enc must be one of {', '.join(NODES)}, got {path}")
            module, _, kind = path.rpartition(".")
            node = getattr(importlib.import_module(module), kind)
            try:
                if "input_shape" in inspect.signature(node).parameters:
                    self.nodes.append(node, layer_name=name, **arguments)
                else:
                    self.nodes.append(node(**arguments), layer_name=name)
            except TypeError as err:
                raise ValueError(f"node {name} of enc cannot be a {path} with {arguments}: {err}") from err
        self.width = self.nodes.get_output_shape()[-1]

    def forward(self, hidden: torch.Tensor, n_frames: torch.Tensor | None = None) -> torch.Tensor:
        """States (batch, frames, dim), valid frames (batch,) -> (batch, frames, width)."""
        if not self.output_norm:
            return self.nodes(hidden)
        if n_frames is None:
            raise ValueError("a norm over an utterance must know where padding begins: expected n_frames, got None")
        n_frames = n_frames.clamp(min=1)
        valid = (torch.arange(hidden.shape[1], device=hidden.device) < n_frames[:, None])[..., None]
        count = (n_frames * hidden.shape[2])[:, None, None]
        centred = hidden - (hidden * valid).sum(dim=(1, 2), keepdim=True) / count
        variance = (centred.square() * valid).sum(dim=(1, 2), keepdim=True) / count
        return self.nodes(centred * torch.rsqrt(variance + 1e-5))

    def macs(self, n_frames: int) -> float:
        """Multiply-accumulates for one utterance."""
        return float(n_frames * sum(m.weight.numel() for m in self.nodes.modules() if isinstance(m, nn.Linear)))


class CTCHead(nn.Module):
    """Normalisation of its own, perhaps a body, dropout and a linear projection to tokens.

    Arguments
    ---------
    norm : nn.Module
        LayerNorm of this exit (Identity where the encoder has normalised already).
    projection : nn.Linear
        To tokens, blank included; the same object at every exit when heads share it.
    upsampling : int
        Frames of log-probs for each frame of the encoder; the projection gives them side by side, as in SpeechBrain's
        recipes with a downsampled encoder. States then come as `Walk` gives them, each so many times.
    """

    def __init__(
        self,
        norm: nn.Module,
        projection: nn.Linear,
        *,
        body: FeedForward | SelfAttention | PaperBody | SpeechBrainBody | None = None,
        dropout: float = 0.0,
        upsampling: int = 1,
    ):
        super().__init__()
        self.upsampling = upsampling
        self.norm = norm
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.projection = projection

    def forward(self, hidden: torch.Tensor, n_frames: torch.Tensor | None = None) -> torch.Tensor:
        """States (batch, frames, dim) -> log-probs (batch, frames, tokens), float32 under any precision.

        `n_frames`, valid frames (batch,), may be left out where the head looks at each frame alone.
        """
        return self.log_probs(self.states(hidden, n_frames))

    def states(self, hidden: torch.Tensor, n_frames: torch.Tensor | None = None) -> torch.Tensor:
        """What the projection sees, (batch, frames of the encoder, dim or width)."""
        hidden = self.norm(hidden[:, :: self.upsampling])
        if self.body is not None:
            hidden = self.body(hidden, None if n_frames is None else n_frames // self.upsampling)
        return self.dropout(hidden)

    def log_probs(self, states: torch.Tensor) -> torch.Tensor:
        """What the projection says of `states`."""
        logits = self.projection(states)
        if self.upsampling > 1:
            logits = logits.unflatten(-1, (self.upsampling, -1)).flatten(1, 2)
        return torch.log_softmax(logits.float(), dim=-1)

    def macs(self, n_frames: int) -> float:
        """Multiply-accumulates of one reading, for one utterance of so many frames of the encoder."""
        body = 0.0 if self.body is None else self.body.macs(n_frames)
        return body + float(n_frames * self.projection.in_features * self.projection.out_features)


def build_heads(
    encoder,
    exit_layers: list[int],
    *,
    n_tokens: int,
    kind: str = "linear",
    width: int | None = None,
    shared: bool = False,
    dropout: float = 0.0,
    plain_last: bool = False,
    upsampling: int = 1,
    lens_body: dict | None = None,
    last_norm: bool = False,
) -> nn.ModuleList:
    """A head per exit.

    An inner exit gets a LayerNorm that starts as a copy of the encoder's final one, where it has one: inner states are
    otherwise seen un-normalised. A `paper` head has no norm, as its authors' has none; a `lens` is linear and has only
    the encoder's own, as it reads layers that nothing was trained for. The last layer's states come normalised
    (`Encoder.exit_view`); `last_norm` gives their head one more.

    ValueError if `kind` is unknown, or a projection would have to fit two widths.

    Arguments
    ---------
    kind : str
        One of `HEADS`, or `lens`.
    width : int or None
        Inside `mlp`, `attention` and `paper`; None for the encoder's.
    plain_last : bool
        The last exit's head is linear whatever `kind` says (it holds a checkpoint's own).
    upsampling : int
        See `CTCHead`.
    lens_body : dict or None
        Arguments of the one `SpeechBrainBody` that all exits of a `lens` share; None for none.
    last_norm : bool
        A LayerNorm in the last exit's head too, unless that is a `paper`, a `lens` or a checkpoint's own.
    """
    if kind not in (*HEADS, "lens"):
        raise ValueError(f"head must be one of {', '.join(HEADS)}, got {kind!r}")
    if shared and plain_last and kind not in ("linear", "lens"):
        raise ValueError(f"share_projection: true with a checkpoint's own head needs head: linear, got head: {kind}")
    width = encoder.dim if width is None else width
    own_body = None if lens_body is None else SpeechBrainBody(encoder.dim, **lens_body)
    heads: list[CTCHead] = []
    for layer in exit_layers:
        last = layer == encoder.n_layers
        own = "linear" if last and plain_last else kind
        seen = encoder.dim if own in ("linear", "paper", "lens") else width
        projection = nn.Linear(own_body.width if own_body else seen, upsampling * n_tokens)
        if shared and heads:
            projection = heads[0].projection
        body = own_body
        if own == "mlp":
            body = FeedForward(encoder.dim, width=width)
        elif own == "attention":
            body = SelfAttention(encoder.dim, width=width, dropout=dropout)
        elif own == "paper":
            body = PaperBody(encoder.dim, width=width, dropout=dropout)
        bare = own == "paper" or (own == "lens" and encoder.final_norm is None)
        bare |= last and (not last_norm or plain_last or own == "lens")
        of_its_own = last or encoder.final_norm is None
        norm = nn.LayerNorm(encoder.dim) if of_its_own else copy.deepcopy(encoder.final_norm)
        norm = nn.Identity() if bare else norm
        heads.append(CTCHead(norm, projection, body=body, dropout=dropout, upsampling=upsampling))
    return nn.ModuleList(heads)


class SelfConditioning(nn.Module):
    """What the walk adds to the stream after a layer with an inner exit.

    `heads`: heads of the inner exits by layer, from 1; they stay the model's own, not parts of this module.

    Example
    -------
    >>> from eeasr_modules.models.heads import CTCHead
    >>> conditioning = SelfConditioning({1: CTCHead(nn.Identity(), nn.Linear(4, 3))}, n_tokens=3, dim=4)
    >>> bool((conditioning.after(1, torch.ones(2, 5, 4), torch.tensor([5, 3])) == 0).all())  # before any training
    True
    """

    def __init__(self, heads: dict[int, nn.Module], *, n_tokens: int, dim: int):
        super().__init__()
        self.projection = nn.Linear(n_tokens, dim)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self._heads = tuple(heads.items())  # a tuple: no modules of this one

    @property
    def upsampling(self) -> int:
        """Frames of log-probs for each frame of the encoder."""
        return self._heads[0][1].upsampling if self._heads else 1

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers whose exit is told on."""
        return tuple(layer for layer, _ in self._heads)

    def after(self, layer: int, hidden: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
        """What is added to the stream after `layer`, (batch, frames, dim).

        `hidden` (batch, frames, dim): what the exit's head sees. `n_frames` (batch,): valid frames.
        """
        return self.told(dict(self._heads)[layer](hidden, n_frames))

    def told(self, log_probs: torch.Tensor) -> torch.Tensor:
        """The same for log-probs (batch, frames, tokens) that are known already.

        Of heads that upsample, the frames of the log-probs that belong to one of the encoder's are averaged.
        """
        posteriors = log_probs.exp()
        if self.upsampling > 1:
            posteriors = posteriors.unflatten(1, (-1, self.upsampling)).mean(dim=2)
        return self.projection(posteriors)

    def macs(self, n_frames: int, *, layer: int) -> float:
        """Multiply-accumulates after `layer` for one utterance: the head, read for this, and the projection."""
        projection = float(n_frames * self.projection.in_features * self.projection.out_features)
        return dict(self._heads)[layer].macs(n_frames) + projection
