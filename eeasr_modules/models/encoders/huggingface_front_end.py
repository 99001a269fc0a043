"""From waveforms to the input of layer 1 for wav2vec2 and its kin, the same for an utterance alone and in a batch.

Transformers' own front ends depend on padding in two places: the group norm of "base" models runs over time, padding
included (differences of 0.1 to 1 in the output), and data2vec-audio's stacked position convolutions carry the padding
they are given on from layer to layer. Here the norm sees each utterance's own frames, and padding is zeroed before
each convolution. `padded` asks for transformers' way instead, which is what such checkpoints saw in fine-tuning.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def normalised(wavs: torch.Tensor, n_samples: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance per utterance over its own samples, padding zero.

    As `Wav2Vec2FeatureExtractor(do_normalize=True)` does before it pads, up to float32 rounding.

    Example
    -------
    >>> normalised(torch.tensor([[1.0, 3.0, 5.0, 0.0]]), torch.tensor([3]))
    tensor([[-1.2247,  0.0000,  1.2247, -0.0000]])
    """
    valid = torch.arange(wavs.shape[1], device=wavs.device) < n_samples.unsqueeze(1)
    count = n_samples.clamp(min=1).unsqueeze(1)
    mean = (wavs * valid).sum(dim=1, keepdim=True) / count
    centred = (wavs - mean) * valid
    variance = centred.square().sum(dim=1, keepdim=True) / count
    return centred / (variance + 1e-7).sqrt()


def conv_frames(config, n_samples):
    """Frames that the convolutions make of so many samples (an int or a tensor); at least one, see `shortest`."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride):
        n_samples = (n_samples - kernel) // stride + 1
    return n_samples.clamp(min=1) if isinstance(n_samples, torch.Tensor) else max(1, n_samples)


def shortest(config) -> int:
    """Samples of the first frame (400: 25 ms); shorter utterances are padded with silence to it."""
    samples = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride)):
        samples = (samples - 1) * stride + kernel
    return samples


def front_end_macs(config, n_samples: int) -> float:
    """Multiply-accumulates of convolutions, projection and position embedding, for one utterance."""
    length, channels, macs = max(n_samples, shortest(config)), 1, 0
    for kernel, stride, width in zip(config.conv_kernel, config.conv_stride, config.conv_dim):
        length = (length - kernel) // stride + 1
        macs += length * kernel * channels * width
        channels = width
    dim = config.hidden_size
    if config.model_type == "wav2vec2-conformer":  # positions are its layers' affair
        return float(macs + length * channels * dim)
    kernel, n_convolutions = config.num_conv_pos_embeddings, 1
    if config.model_type == "data2vec-audio":
        kernel, n_convolutions = config.conv_pos_kernel_size, config.num_conv_pos_embeddings
    even = 1 - kernel % 2  # such a kernel makes a frame too many, which is dropped
    in_group = dim // config.num_conv_pos_embedding_groups
    positions = n_convolutions * (length + even) * kernel * in_group * dim
    return float(macs + length * channels * dim + positions)


def alone(extractor: nn.Module, wavs: torch.Tensor, lengths: list[int], frames: list[int]) -> torch.Tensor:
    """Convolutions utterance by utterance -> (batch, frames, channels), padding zero.

    Arguments
    ---------
    lengths : list of int
        Samples of each utterance, at least `shortest`.
    frames : list of int
        Frames that each gives.
    """
    made = [extractor(wav[None, :length])[0].T for wav, length in zip(wavs, lengths)]  # (frames, channels) each
    if len(made) == 1:
        return made[0][None]
    batch = made[0].new_zeros(len(made), max(frames), made[0].shape[1])
    for row, features in zip(batch, made):
        row[: len(features)] = features
    return batch


def together(extractor: nn.Module, wavs: torch.Tensor, lengths: list[int], *, padded: bool, recompute: bool):
    """Convolutions over the padded batch -> (batch, frames, channels), for training: less work than one by one.

    Arguments
    ---------
    padded : bool
        Let the group norm see padding, as transformers does.
    recompute : bool
        Keep no activations of a layer, compute it again in the backward pass.
    """
    x = wavs[:, None]  # (batch, channels, time)
    for layer in extractor.conv_layers:
        grouped = isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm) and not padded
        arguments = (_group_normed, layer, x, lengths) if grouped else (layer, x)
        x = checkpoint(*arguments, use_reentrant=False) if recompute else arguments[0](*arguments[1:])
    return x.transpose(1, 2)


def _group_normed(layer: nn.Module, wavs: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """The first layer of a "base" model, its group norm over each utterance's own frames; padding zero."""
    x = layer.conv(wavs)
    kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
    normed = [layer.layer_norm(row[None, :, : (n - kernel) // stride + 1]) for row, n in zip(x, lengths)]
    batch = normed[0].new_zeros(x.shape)
    for i, row in enumerate(normed):
        batch[i, :, : row.shape[2]] = row[0]
    return layer.activation(batch)


def with_positions(model: nn.Module, hidden: torch.Tensor, valid: torch.Tensor | None, *, padded: bool) -> torch.Tensor:
    """Projected features plus position convolution, normalised where the model does so: the input of layer 1.

    Arguments
    ---------
    valid : torch.Tensor of shape (batch, frames) or None
        True where a frame is an utterance's own; None if all are.
    padded : bool
        Let data2vec's stacked convolutions see what they made of padding, as transformers does.
    """
    encoder = model.encoder
    if valid is not None:
        hidden = hidden.masked_fill(~valid.unsqueeze(-1), 0.0)
    if valid is None or padded:
        positions = encoder.pos_conv_embed(hidden)
    else:
        positions = _leakproof_positions(encoder.pos_conv_embed, hidden, valid)
    hidden = hidden + positions
    if not getattr(model.config, "do_stable_layer_norm", False):
        hidden = encoder.layer_norm(hidden)
    return encoder.dropout(hidden)


def _leakproof_positions(embed: nn.Module, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Position embedding with padding zeroed before every convolution, (batch, frames, dim)."""
    silent = ~valid.unsqueeze(1)  # (batch, 1, frames)
    x = hidden.transpose(1, 2)
    if hasattr(embed, "layers"):  # data2vec-audio: several convolutions
        for layer in embed.layers:
            x = layer(x.masked_fill(silent, 0.0))
        return x.transpose(1, 2)
    if getattr(embed, "batch_norm", None) is not None:  # some HuBERT models: padding is not zero after it
        x = embed.batch_norm(x).masked_fill(silent, 0.0)
    return embed.activation(embed.padding(embed.conv(x))).transpose(1, 2)


def span_mask(lengths: list[int], size: int, *, share: float, span: int) -> torch.Tensor:
    """Random spans to hide, of shape (len(lengths), size), bool: SpecAugment as wav2vec 2.0 has it.

    A row of length n gets n x share / span spans (rounded up or down at random) with different starts inside its
    length, so at most that share is hidden; a row shorter than a span gets none. Drawn from torch's own generator, so
    that a seeded run can be resumed; transformers draws from numpy's.

    Example
    -------
    >>> span_mask([10, 3], 10, share=1.0, span=5).sum(dim=1)[1].item()
    0
    """
    mask = torch.zeros(len(lengths), size, dtype=torch.bool)
    for row, length in zip(mask, lengths):
        count = int(length * share / span + torch.rand(()).item())
        if count and length >= span:
            for start in torch.randperm(length - span + 1)[:count].tolist():
                row[start : start + span] = True
    return mask
