"""Ways of transcribing a batch that `eeasr benchmark` times side by side, each as its authors would run it.

Beside ours: the plain forward of transformers (or SpeechBrain) with a greedy decoder; a model cut off at an exit; all
layers first and the policy's pick afterwards, as services do that log every exit; and a break of the whole batch on
the batch's mean signal (Zaiem et al. 2023, "Fine-tuning Strategies for Faster Inference Using Speech Self-Supervised
Models"; their mean counts padding, this one does not).

Peers, ONNX Runtime and OpenVINO, run what somebody would pick instead: the stock forward at full depth, normalisation
of the waveform and greedy transcript of the last exit included, exported to ONNX for one shape of waveforms.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.policies.rules import Static
from eeasr_modules.models.encoders import ENCODERS
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.signals import WORD_SIGNALS
from eeasr_modules.runtime.batch import LiveBatch
from eeasr_modules.runtime.engine import Engine
from eeasr_modules.runtime.files.inputs import Material


@dataclass(frozen=True)
class Heard:
    """What a way makes of one utterance."""

    text: str
    exit_layer: int  # layer of the exit that gave it
    layers_run: int  # encoder layers that ran with it in the batch


@dataclass(frozen=True, eq=False)
class Way:
    """One way of transcribing."""

    name: str  # such as "ours"
    policy: str  # what decides; "" where nothing does
    # padded waveforms (batch, samples), valid samples (batch,) and names to a list of `Heard`
    run: Callable[[torch.Tensor, torch.Tensor, Sequence[str]], list[Heard]]
    reads: tuple[bool, ...]  # heads that are read to decide, per exit; the emitting one comes on top
    least_batch: int = 1  # batch size from which it differs from another way


def all_ways(engine: Engine, policies: Sequence[Policy]) -> list[Way]:
    """Every way that a model and these policies have; the first is the one that others are compared with."""
    layers = engine.model.exit_layers
    never = (False,) * len(layers)
    full = with_policy(engine, Static(layers[-1]))
    ways = [Way("full depth, this runtime", "", _engine_run(full), never)]
    if ENCODERS[engine.model.config["encoder"]["encoder"]].stock is not None:
        stock = Stock(engine.model)
        ways.append(Way(f"full depth, {stock.name}", "", _stock_run(engine, stock), never))
    ways += [Way(f"cut off at layer {layer}", "", _cut_run(engine, k), never) for k, layer in enumerate(layers[:-1])]
    for policy in policies:
        own = with_policy(engine, policy)
        reads = tuple(bool(read) for read in own.plan.reads_head)
        ways.append(Way("ours", str(policy), _engine_run(own), reads))
        ways.append(Way("all layers, then pick", str(policy), _leaving_run(own, AllThenPick), reads))
        if averages(own):
            ways.append(Way("whole-batch break", str(policy), _leaving_run(own, WholeBatch), reads, 2))
    return ways


def with_policy(engine: Engine, policy: Policy) -> Engine:
    """The same model under another policy."""
    return Engine(
        engine.model,
        engine.vocabulary,
        policy=policy,
        seed=engine.seed,
        language=engine.language,
    )


def averages(engine: Engine) -> bool:
    """Whether a batch mean of what the policy reads exists: not of transcripts or lists of words."""
    return not {"hypothesis", *WORD_SIGNALS} & set(engine.plan.names)


class AllThenPick(LiveBatch):
    """All layers for everybody, heads and signals at every exit that the policy may read; it picks as it would live."""

    def visit(self, k: int) -> None:
        """Exit k: ask the policy of everybody; the first exit that it takes counts."""
        if k == len(self.model.exit_layers) - 1:
            super().visit(k)
            return
        here = self._arrive(k)
        stop, self.state = self.engine.policy.step(self._signals(here), self.state)
        self._emit_decided(here, np.flatnonzero(stop))
        everybody = np.ones(len(stop), dtype=bool)
        self.before = [self._of_those_left(one, everybody) for one in [here, *self.before][: self.plan.n_before]]

    def _emit(self, here, who: np.ndarray, *, decided) -> None:
        first = np.array([i for i in who if self.results[i] is None], dtype=np.int64)
        if len(first):
            super()._emit(here, first, decided=decided)


class WholeBatch(LiveBatch):
    """Everybody stops where the policy says for the mean of the batch's signals."""

    def _signals(self, here) -> dict[str, np.ndarray]:
        signals = super()._signals(here)
        return {name: np.full(len(values), np.mean(values)) for name, values in signals.items()}


class Stock:
    """A model's encoder run by the forward of the library that it comes from, waveforms to states for the head.

    `n_layers`: cut off there; None for all.
    """

    def __init__(self, model: MultiExit, *, n_layers: int | None = None):
        kind = ENCODERS[model.config["encoder"]["encoder"]]
        self.name, self.n_layers = kind.library, n_layers or model.encoder.n_layers
        self._forward = kind.stock_forward(model.encoder, self.n_layers)
        self.model = getattr(self._forward, "model", None)

    def __call__(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Layer states (batch, frames, dim) and valid frames (batch,)."""
        return self._forward(wavs, n_samples)


def _engine_run(engine: Engine):
    def run(wavs, n_samples, utt_ids):
        said = engine.run(wavs, n_samples, utt_ids=utt_ids)
        return [Heard(one.text, one.decided_layer, one.decided_layer) for one in said]

    return run


def _leaving_run(engine: Engine, kind: type[LiveBatch]):
    @torch.inference_mode()
    def run(wavs, n_samples, utt_ids):
        said = kind.begin(engine, wavs, n_samples, utt_ids).run()
        last = engine.exit_layers[-1] if kind is AllThenPick else 0
        return [Heard(one.text, one.decided_layer, max(last, one.decided_layer)) for one in said]

    return run


def greedy(engine: Engine, hidden: torch.Tensor, n_frames: torch.Tensor, *, exit_index: int) -> list[str]:
    """Transcripts of one exit's head, with nothing beside them; `hidden` (batch, frames, dim), `n_frames` (batch,)."""
    if engine.model.reach:
        raise ValueError("the benchmark reads one exit at a time, but this model averages the states of several")
    log_probs = engine.model.heads[exit_index](hidden, n_frames)
    return engine.texts(log_probs.argmax(dim=-1).cpu().numpy(), n_frames.tolist())


def _stock_run(engine: Engine, stock: Stock):
    @torch.inference_mode()
    def run(wavs, n_samples, utt_ids):
        hidden, n_frames = stock(wavs.to(engine.device), n_samples.to(engine.device))
        upsampling = engine.model.upsampling
        hidden, n_frames = hidden.repeat_interleave(upsampling, dim=1), n_frames * upsampling
        texts = greedy(engine, hidden, n_frames, exit_index=len(engine.model.exit_layers) - 1)
        return [Heard(text, stock.n_layers, stock.n_layers) for text in texts]

    return run


def _cut_run(engine: Engine, k: int):
    layer = engine.model.exit_layers[k]

    @torch.inference_mode()
    def run(wavs, n_samples, utt_ids):
        walk = engine.model.walk(wavs.to(engine.device), n_samples.to(engine.device))
        texts = greedy(engine, walk.advance(layer), walk.n_frames, exit_index=k)
        return [Heard(text, layer, layer) for text in texts]

    return run


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

    Returns: waveforms (batch, samples), np.ndarray (without arguments those given), to log-probabilities, np.ndarray of
    shape (batch, frames, tokens).

    `engine`: in float32 on a CPU, of an encoder that has a stock forward. `wavs` (batch, samples): the only shape that
    the ways take. `n_samples` (batch,): valid ones. `int8`: also in 8 bits; making the graph takes several times the
    model's memory.
    """
    lines = missing_peers()
    there = [peer for peer in PACKAGES if not any(line.startswith(peer) for line in lines)]
    if not there:
        return {}
    from eeasr_modules.runtime.onnx.export import write_graph

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

    `material`: peers are timed where all recordings are equally long and fill every batch, as noise does.
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
