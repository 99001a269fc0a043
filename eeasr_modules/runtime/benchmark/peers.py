"""ONNX Runtime and OpenVINO on the stock forward at full depth and the last head, exported for one shape of waveforms.

What is timed is what somebody would pick instead: the forward of transformers traced to ONNX, normalisation of the
waveform included, and the greedy transcript of its last exit. Lengths are constants of the graph.
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from eeasr_modules.runtime.benchmark.ways import Stock
from eeasr_modules.runtime.engine import Engine

OPSET = 18
PACKAGES = {"ONNX Runtime": ("onnx", "onnxruntime"), "OpenVINO": ("onnx", "openvino")}


class _ToLogProbs(nn.Module):
    def __init__(self, engine: Engine, n_samples: torch.Tensor):
        super().__init__()
        self.model, self.n_samples, self.stock = engine.model, n_samples, Stock(engine.model)

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


def peer_ways(engine: Engine, wavs: torch.Tensor, n_samples: torch.Tensor, *, threads: int = 1) -> dict[str, Callable]:
    """Peers whose packages are installed, by name and precision; each call gives log-probabilities.

    Arguments
    ---------
    engine : Engine
        In float32 on a CPU, of an encoder that has a stock forward.
    wavs : torch.Tensor of shape (batch, samples)
        The only shape that the ways take.
    n_samples : torch.Tensor of shape (batch,)
        Valid samples.
    threads : int
        Of each peer.

    Returns
    -------
    dict of str to callable
        Without arguments, to np.ndarray of shape (batch, frames, tokens).
    """
    lines = missing_peers()
    there = [peer for peer in PACKAGES if not any(line.startswith(peer) for line in lines)]
    if not there:
        return {}
    given, ways = wavs.numpy(), {}
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "stock.onnx", Path(folder) / "int8.onnx"
        _export(_ToLogProbs(engine, n_samples), wavs, path)
        if "ONNX Runtime" in there:
            _quantise(path, small)
            ways["ONNX Runtime float32"] = _onnx_runtime(path, given, threads)
            ways["ONNX Runtime int8"] = _onnx_runtime(small, given, threads)
        if "OpenVINO" in there:
            ways["OpenVINO float32"] = _openvino(path, given, threads, "f32")
            ways["OpenVINO bfloat16"] = _openvino(path, given, threads, "bf16")
            if small.exists():
                ways["OpenVINO int8"] = _openvino(small, given, threads, "f32")
    return ways


def _export(module: nn.Module, wavs: torch.Tensor, path: Path) -> None:
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer's, on shapes: they are constants here
        names = {"input_names": ["wavs"], "output_names": ["log_probs"]}
        torch.onnx.export(module.eval(), (wavs,), str(path), dynamo=False, opset_version=OPSET, **names)


def _quantise(path: Path, small: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(path, small, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)


def _onnx_runtime(path: Path, wavs: np.ndarray, threads: int) -> Callable:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"wavs": wavs})[0]


def _openvino(path: Path, wavs: np.ndarray, threads: int, precision: str) -> Callable:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: request.infer({0: wavs})[compiled.output(0)]
