"""ONNX Runtime and OpenVINO on the stock forward at full depth and the last head, exported for one shape of waveforms.

What is timed is what somebody would pick instead: the forward of transformers traced to ONNX, normalisation of the
waveform included, and the greedy transcript of its last exit. Lengths are constants of the graph.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from eeasr_modules.models.encoders import ENCODERS
from eeasr_modules.runtime.benchmark.ways import Heard, Stock, Way
from eeasr_modules.runtime.engine import Engine
from eeasr_modules.runtime.files.inputs import Material
from eeasr_modules.runtime.onnx.export import write_graph

PACKAGES = {"ONNX Runtime": ("onnx", "onnxruntime"), "OpenVINO": ("onnx", "openvino")}


class _ToLogProbs(nn.Module):
    def __init__(self, engine: Engine, n_samples: torch.Tensor):
        super().__init__()
        self.model, self.n_samples, self.stock = engine.model, n_samples, Stock(engine.model)
        self.of_stock = self.stock.model  # weights that a tracer does not know become constants, never quantised

    def forward(self, wavs: torch.Tensor) -> torch.Tensor:
        hidden, n_frames = self.stock(wavs, self.n_samples)
        up = self.model.upsampling
        return self.model.heads[-1](hidden.repeat_interleave(up, dim=1) if up > 1 else hidden, n_frames * up)


def missing_peers() -> list[str]:
    """A sentence for every peer that cannot be timed here."""
    lines = []
    for peer, packages in PACKAGES.items():
        absent = [name for name in packages if importlib.util.find_spec(name) is None]
        if absent:
            lines.append(f"{peer} is not timed: {' and '.join(absent)} not installed (pip install 'eeasr[peers]')")
    return lines


def peer_ways(
    engine: Engine, wavs: torch.Tensor, n_samples: torch.Tensor, *, threads: int = 1, int8: bool = True
) -> dict[str, Callable]:
    """Peers whose packages are installed, by name and precision; each call gives log-probabilities.

    Arguments
    ---------
    engine : Engine
        In float32 on a CPU, of an encoder that has a stock forward.
    wavs : torch.Tensor of shape (batch, samples)
        The only shape that the ways take.
    int8 : bool
        Also in 8 bits; making the graph takes several times the model's memory.

    Returns
    -------
    dict of str to callable
        Waveforms (batch, samples), np.ndarray (without arguments those given), to log-probabilities, np.ndarray of
        shape (batch, frames, tokens).
    """
    lines = missing_peers()
    there = [peer for peer in PACKAGES if not any(line.startswith(peer) for line in lines)]
    if not there:
        return {}
    given, ways = wavs.numpy(), {}
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "stock.onnx", Path(folder) / "int8.onnx"
        write_graph(_ToLogProbs(engine, n_samples), wavs, path, names=("wavs", "log_probs"))
        if "ONNX Runtime" in there:
            ways["ONNX Runtime float32"] = _onnx_runtime(path, given, threads)
            if int8:
                _quantise(path, small)
                ways["ONNX Runtime int8"] = _onnx_runtime(small, given, threads)
        if "OpenVINO" in there:
            ways["OpenVINO float32"] = _openvino(path, given, threads, "f32")
            ways["OpenVINO bfloat16"] = _openvino(path, given, threads, "bf16")
            if small.exists():
                ways["OpenVINO int8"] = _openvino(small, given, threads, "f32")
    return ways


def peers_beside(
    engine: Engine, material: Material, *, batches: Sequence[int], threads: int = 1
) -> tuple[list[Way], list[str]]:
    """Peers as ways for `run_benchmark`, made anew for each batch size, and a sentence for what cannot be timed.

    Arguments
    ---------
    material : Material
        Peers are timed where all recordings are equally long and fill every batch, as noise does.
    """
    notes = missing_peers()
    if len(notes) == len(PACKAGES):
        return [], notes
    reason = _why_not(engine, material, batches)
    if reason is None:
        peers = _Peers(engine, threads)
        size = min(min(batches), len(material.wavs))
        try:
            names = list(peers.made_for(torch.stack(list(material.wavs[:size]))))
        except Exception as err:  # whatever the exporter or a peer raises on an operator that it lacks
            reason = f"the stock forward cannot be exported to ONNX ({type(err).__name__}: {str(err).splitlines()[0]})"
    if reason is not None:
        return [], [*notes, f"ONNX Runtime and OpenVINO are not timed: {reason}"]
    never = (False,) * len(engine.model.exit_layers)
    return [Way(f"full depth, {name}", "", peers.run(name), never) for name in names], notes


def _why_not(engine: Engine, material: Material, batches: Sequence[int]) -> str | None:
    n = len(material.wavs)
    if engine.device.type != "cpu":
        return f"they are compared on a CPU, the device is {engine.device}"
    if ENCODERS[engine.model.config["encoder"]["encoder"]].stock is None:
        return "this kind of encoder has no stock forward"
    if engine.precision == "int8":
        return "the weights are 8 bits already, choose another precision"
    if len({len(wav) for wav in material.wavs}) > 1 or any(n > batch and n % batch for batch in batches):
        return "a graph takes one shape, and the recordings are of several lengths or do not fill each batch: try noise"
    return None


class _Peers:
    """`peer_ways` of one batch size at a time."""

    def __init__(self, engine: Engine, threads: int):
        self.engine, self.threads, self.shape, self.ways = engine, threads, None, {}

    def made_for(self, wavs: torch.Tensor) -> dict[str, Callable]:
        if self.shape != wavs.shape:
            n_samples = torch.full((len(wavs),), wavs.shape[1])
            with torch.autocast("cpu", enabled=False):
                self.ways = peer_ways(self.engine, wavs, n_samples, threads=self.threads)
            self.shape = wavs.shape
        return self.ways

    def run(self, name: str) -> Callable:
        model = self.engine.model

        def run(wavs, n_samples, utt_ids):
            best = self.made_for(wavs)[name](wavs.numpy()).argmax(axis=-1)
            frames = model.encoder.frames_for(n_samples) * model.upsampling
            layers = model.encoder.n_layers
            return [Heard(text, layers, layers) for text in self.engine.texts(best, frames.tolist())]

        return run


def _quantise(path: Path, small: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(path, small, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)


def _onnx_runtime(path: Path, wavs: np.ndarray, threads: int) -> Callable:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda given=wavs: session.run(None, {"wavs": given})[0]


def _openvino(path: Path, wavs: np.ndarray, threads: int, precision: str) -> Callable:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda given=wavs: request.infer({0: given})[compiled.output(0)]
