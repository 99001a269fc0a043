"""A model folder as ONNX graphs (front end, the layers between exits, heads) and the manifest to run them by.

All graphs take utterances of one length (a batch of one, or of equals), so no masks are needed: the front end begins
with the waveform, filterbanks included, as two convolutions with the window's sines and cosines.
"""

import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from eeasr_modules.common.files import write_aside
from eeasr_modules.models.encoders.conformer import ConformerEncoder, LogMel
from eeasr_modules.models.encoders.front_end import shortest, with_positions
from eeasr_modules.models.encoders.huggingface import HuggingFaceEncoder
from eeasr_modules.models.encoders.huggingface_conformer import OfConformers
from eeasr_modules.models.encoders.moonshine import SHORTEST, MoonshineEncoder
from eeasr_modules.models.encoders.whisper import FRAME, HOP, WINDOW, WhisperEncoder
from eeasr_modules.models.folder import FILES, INDEX, model_digest
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.runtime.onnx.loop import MANIFEST, MANIFEST_VERSION, check_computed
from eeasr_modules.runtime.sources import find_source
from eeasr_modules.runtime.transcript import fusion_of


class PowerSpectrum(nn.Module):
    """What `LogMel` takes from SpeechBrain's STFT, by one real convolution."""

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
    """Waveforms to the input of layer 1 of a Conformer: filterbanks, normalisation, subsampling."""

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
    """Normalised waveforms to the input of layer 1: convolutions, projection, position embedding."""

    def __init__(self, encoder: HuggingFaceEncoder):
        super().__init__()
        self.model = encoder.model

    def forward(self, wavs: torch.Tensor) -> torch.Tensor:
        """Waveforms (batch, samples), zero mean and unit variance where the checkpoint asks -> (batch, frames, dim)."""
        x = self.model.feature_projection(self.model.feature_extractor(wavs).transpose(1, 2))
        x = x[0] if isinstance(x, tuple) else x
        return with_positions(self.model, x, None, padded=False)


class WhisperFrontEnd(nn.Module):
    """Waveforms to the input of layer 1 of a Whisper encoder: log-mel features, convolutions, positions."""

    def __init__(self, encoder: WhisperEncoder):
        super().__init__()
        self.encoder = encoder.model.encoder
        steps = torch.arange(WINDOW)
        angle = 2 * torch.pi * (torch.arange(WINDOW // 2 + 1)[:, None] * steps % WINDOW).double() / WINDOW
        basis = torch.cat([angle.cos(), -angle.sin()]) * encoder.window.double()
        self.register_buffer("basis", basis.float().unsqueeze(1))
        self.register_buffer("filters", encoder.mel_filters.float().T.contiguous())

    def forward(self, wavs: torch.Tensor) -> torch.Tensor:
        """Waveforms (batch, samples) -> (batch, frames, dim)."""
        whole = nn.functional.pad(wavs, (0, -wavs.shape[1] % FRAME))
        padded = nn.functional.pad(whole.unsqueeze(1), (WINDOW // 2, WINDOW // 2), mode="reflect")
        parts = nn.functional.conv1d(padded, self.basis, stride=HOP)[..., :-1].square()
        real, imaginary = parts.chunk(2, dim=1)
        logs = (self.filters @ (real + imaginary)).clamp(min=1e-10).log10()
        mels = (torch.maximum(logs, logs.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0
        x = nn.functional.gelu(self.encoder.conv1(mels))
        x = nn.functional.gelu(self.encoder.conv2(x)).transpose(1, 2)
        return x + self.encoder.embed_positions.weight[: x.shape[1]]


class MoonshineFrontEnd(nn.Module):
    """Waveforms to the input of layer 1 of a Moonshine encoder: three convolutions and a group norm."""

    def __init__(self, encoder: MoonshineEncoder):
        super().__init__()
        self.encoder = encoder.model.encoder

    def forward(self, wavs: torch.Tensor) -> torch.Tensor:
        """Waveforms (batch, samples) -> (batch, frames, dim)."""
        x = self.encoder.groupnorm(torch.tanh(self.encoder.conv1(wavs.unsqueeze(1))))
        x = nn.functional.gelu(self.encoder.conv2(x))
        return nn.functional.gelu(self.encoder.conv3(x)).transpose(1, 2)


def _rotated(queries, keys, cos, sin, unsqueeze_dim=1):
    """transformers' `apply_rotary_pos_emb` of Moonshine, without `repeat_interleave`, which ONNX has not."""
    half = cos.shape[-1] // 2
    cos, sin = (torch.stack([one[..., :half]] * 2, dim=-1).flatten(-2).unsqueeze(unsqueeze_dim) for one in (cos, sin))

    def turned(x: torch.Tensor) -> torch.Tensor:
        moving, still = x[..., : 2 * half], x[..., 2 * half :]
        across = torch.stack([-moving[..., 1::2], moving[..., ::2]], dim=-1).flatten(-2)
        return torch.cat([moving * cos + across * sin, still], dim=-1)

    return turned(queries), turned(keys)


FRONT_ENDS = {ConformerEncoder: ConformerFrontEnd, WhisperEncoder: WhisperFrontEnd, MoonshineEncoder: MoonshineFrontEnd}


class LayerGroup(nn.Module):
    """The layers after one exit up to the next.

    `first`, `last`: layers, numbered from 1, both included.
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
            if isinstance(self.encoder, MoonshineEncoder):
                extra = {"mask": None, "positions": self.encoder.model.encoder.rotary_emb(hidden)}
            if self.encoder.is_wavlm:
                length = hidden.shape[1]
                bias = self.encoder.model.encoder.layers[0].attention.compute_bias(length, length)
                extra["position_bias"] = bias.repeat(hidden.shape[0], 1, 1)
            for layer in layers:
                hidden = self.encoder.model.encoder.layers[layer - 1](hidden, **extra)
                hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return self.encoder.exit_view(self.last, hidden) if self.last == self.encoder.n_layers else hidden


class HeadGraph(nn.Module):
    """A head on utterances of one length."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """States (batch, frames, dim) -> log-probs (batch, frames, tokens)."""
        n_frames = torch.ones_like(hidden[..., 0]).sum(dim=1)  # a sum: a shape would be written down as a constant
        return self.head(hidden, n_frames)


FORMATS = ("onnx",)
OPSET = 17
TRACED_FRAMES = 37  # any: the time axis is dynamic


def export_model(
    name: str | Path,
    folder: str | Path,
    *,
    format: str = "onnx",
    int8: bool = False,
    policy: str | None = None,
    budget: float | None = None,
) -> Path:
    """Write a model as ONNX graphs with a manifest; the folder appears when it is whole.

    FileNotFoundError when a file of the model is missing. ValueError when the folder is not empty, the format or policy
    unknown, the policy one that the exported loop cannot ask, a package is missing, or the model is one whose exits
    feed back into its layers, or that downsamples.

    Arguments
    ---------
    name : str or Path
        Folder of a model or CTC checkpoint, or an id on the hub.
    folder : str or Path
        To write; must not exist, or be empty.
    int8 : bool
        Also write layers and heads with matrix products in 8 bits (dynamic quantisation).
    policy, budget : str or None, float or None
        Which policy the manifest names, as `EarlyExitASR.from_pretrained` takes them.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"the output must be a new or empty folder, '{folder}' is not: name another or empty it")
    _check_packages()
    source = find_source(name)
    source.refuse_own_decoder("eeasr export")
    chosen = source.policy(policy, budget=budget)
    check_computed(chosen, source.calibrated)
    fusion_of(source, "exit", policy=chosen, searches=False)  # refuses what was certified for fused words
    model, vocabulary = source.load("cpu")
    if getattr(model, "conditioning", None) is not None:
        raise ValueError(f"'{name}' is self-conditioned: its exits feed back into its layers, which is not exported")
    if getattr(model, "averaged", ()):
        raise ValueError(f"'{name}' averages the states of several exits (average_states), which is not exported")
    if getattr(model.encoder, "downsampler", None) is not None:
        raise ValueError(
            f"'{name}' shortens its input (downsample: {model.encoder.downsampler.kind}), which is not exported: "
            "transcribe with eeasr transcribe, or export a model without downsample"
        )
    encoder = model.encoder
    if isinstance(encoder, OfConformers) or not isinstance(encoder, (ConformerEncoder, HuggingFaceEncoder)):
        of_ours = model.config["encoder"]["encoder"]
        kind = encoder.model.config.model_type if isinstance(encoder, OfConformers) else of_ours
        raise ValueError(
            f"'{name}' stands on an encoder of kind {kind}, which is not exported: "
            "transcribe with eeasr transcribe, or export a model on another encoder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as aside:
        work = Path(aside) / "whole"
        work.mkdir()
        graphs = {"float32": write_graphs(model, work)}
        if int8:
            graphs["int8"] = quantise_graphs(graphs["float32"], work)
        vocabulary.save(work)
        if source.folder is not None:
            _copy_small_files(source.folder, work)
        manifest = {
            "manifest_version": MANIFEST_VERSION,
            "sample_rate": model.config["sample_rate"],
            "exit_layers": list(model.exit_layers),
            "n_tokens": model.config["n_tokens"],
            "blank_index": model.blank_index,
            "dim": encoder.dim,
            "policy": str(chosen),
            "model_digest": "" if source.folder is None else model_digest(source.folder),
            "normalise_wavs": bool(getattr(encoder, "normalise_wavs", False)),
            "shortest_samples": shortest_samples(encoder),
            "shapes": {
                "front_end": [["batch", "samples"], ["batch", "frames", encoder.dim]],
                "groups": [["batch", "frames", encoder.dim], ["batch", "frames", encoder.dim]],
                "heads": [["batch", "frames", encoder.dim], ["batch", "frames", model.config["n_tokens"]]],
            },
            "graphs": graphs,
        }
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        os.replace(work, folder)
    return folder / MANIFEST


def shortest_samples(encoder: nn.Module) -> int:
    """Samples that a front end needs at least: shorter waveforms are padded with silence."""
    if isinstance(encoder, MoonshineEncoder):
        return SHORTEST
    if isinstance(encoder, WhisperEncoder):
        return FRAME
    return shortest(encoder.model.config) if isinstance(encoder, HuggingFaceEncoder) else 1


def write_graphs(model: MultiExit, folder: Path) -> dict:
    """The float32 graphs of a model.

    Returns: file names: `front_end`, and lists `groups` and `heads` in the order of the exits.
    """
    encoder = model.encoder
    front_end = FRONT_ENDS.get(type(encoder), HuggingFaceFrontEnd)(encoder)
    states = torch.randn(1, TRACED_FRAMES, encoder.dim, generator=torch.Generator().manual_seed(0))
    second = torch.randn(1, model.config["sample_rate"], generator=torch.Generator().manual_seed(0))
    names: dict = {"front_end": "front_end.onnx", "groups": [], "heads": []}
    _write(front_end, second, folder / names["front_end"], axes=("wavs", "hidden"), time="samples")
    first = 1
    for layer, head in zip(model.exit_layers, model.heads, strict=True):
        names["groups"].append(f"layers_{first}_{layer}.onnx")
        names["heads"].append(f"head_{layer}.onnx")
        group = LayerGroup(encoder, first=first, last=layer)
        _write(group, states, folder / names["groups"][-1], axes=("hidden", "states"), time="frames")
        _write(HeadGraph(head), states, folder / names["heads"][-1], axes=("hidden", "log_probs"), time="frames")
        first = layer + 1
    return names


def _write(module: nn.Module, example: torch.Tensor, path: Path, *, axes: tuple[str, str], time: str) -> None:
    dynamic = {axes[0]: {0: "batch", 1: time}, axes[1]: {0: "batch", 1: "frames"}}
    write_graph(module, example, path, names=axes, dynamic=dynamic)


def write_graph(
    module: nn.Module, example: torch.Tensor, path: Path, *, names: tuple[str, str], dynamic: dict | None = None
) -> None:
    """A module of one tensor as an ONNX graph, traced.

    `dynamic`: axes that may have another length, as torch.onnx.export has them; None: none.
    """
    from transformers.models.moonshine import modeling_moonshine

    rotated = patch.object(modeling_moonshine, "apply_rotary_pos_emb", _rotated)
    with warnings.catch_warnings(), torch.inference_mode(), rotated:
        warnings.simplefilter("ignore")  # the tracer's, on shapes that it takes for constants: tests try other lengths
        torch.onnx.export(
            module.eval(),
            (example,),
            str(path),
            dynamo=False,  # a tenth of the time; folds the transposed weights that quantisation looks for
            opset_version=OPSET,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_axes=dynamic,
        )


def quantise_graphs(names: dict, folder: Path) -> dict:
    """Groups and heads with 8-bit matrix products beside the float32 ones; the front end stays as it is."""
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().addFilter(_is_not_advice)
    written: dict = {"front_end": names["front_end"]}
    try:
        for part in ("groups", "heads"):
            written[part] = [name.replace(".onnx", ".int8.onnx") for name in names[part]]
            for name, eight in zip(names[part], written[part], strict=True):
                quantize_dynamic(
                    folder / name, folder / eight, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8
                )
    finally:
        logging.getLogger().removeFilter(_is_not_advice)
    return written


def _is_not_advice(record) -> bool:
    return "pre-processing before quantization" not in record.getMessage()


def check_export(name: str | Path, folder: str | Path, inputs: list[str], *, normaliser: str = "upper") -> dict:
    """Compare the exported loop with the model itself on recordings, and note it in the manifest.

    `inputs`: as `eeasr transcribe` takes them; a .csv with references gives WER. Returns: `n_utterances`,
    `n_with_reference`, and per precision `n_other_transcripts`, `n_other_exits` (against torch) and `wer` (in %, None
    without references), with `torch_wer`.
    """
    from eeasr_modules.exits.measure.edits import count_word_edits
    from eeasr_modules.exits.tables.plain_transcripts import NORMALISERS
    from eeasr_modules.runtime.files.inputs import read_material
    from eeasr_modules.runtime.onnx.loop import OnnxASR, read_manifest
    from eeasr_modules.runtime.recogniser import EarlyExitASR

    normalise, manifest = NORMALISERS[normaliser], read_manifest(folder)
    asr = EarlyExitASR.from_pretrained(name, policy=manifest["policy"], device="cpu")
    material = read_material(inputs, sample_rate=manifest["sample_rate"])
    expected = asr.engine.run_all(material.wavs, utt_ids=material.utt_ids, batch_seconds=1e-9)
    spoken = [(i, normalise(text)) for i, text in enumerate(material.references) if text is not None]

    def wer(texts: list[str]) -> float | None:
        n_words = sum(len(text.split()) for _, text in spoken)
        errors = sum(count_word_edits(text, normalise(texts[i])) for i, text in spoken)
        return round(100 * errors / n_words, 2) if n_words else None

    found: dict = {
        "n_utterances": len(expected),
        "n_with_reference": len(spoken),
        "torch_wer": wer([one.text for one in expected]),
    }
    for precision in manifest["graphs"]:
        loop = OnnxASR(folder, precision=precision)
        heard = [
            loop.transcribe(np.asarray(wav), utt_id=utt_id)
            for wav, utt_id in zip(material.wavs, material.utt_ids, strict=True)
        ]
        pairs = list(zip(heard, expected, strict=True))
        found[precision] = {
            "n_other_transcripts": sum(a.text != b.text for a, b in pairs),
            "n_other_exits": sum(a.exit_layer != b.exit_layer for a, b in pairs),
            "wer": wer([one.text for one in heard]),
        }
    manifest["check"] = {"inputs": [Path(one).name for one in inputs], **found}
    path = Path(folder) / MANIFEST
    write_aside(path, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return found


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as err:
        raise ValueError(f"export needs onnx and onnxruntime ({err}): pip install 'eeasr[onnx]'") from err


def _copy_small_files(source: Path, folder: Path) -> None:
    """Policies and what they were fitted as, so that the export can be given another policy by name."""
    for path in sorted(source.iterdir()):
        if path.suffix in (".json", ".npz") and path.name not in ("config.json", "vocab.json", INDEX, *FILES):
            shutil.copy(path, folder / path.name)
