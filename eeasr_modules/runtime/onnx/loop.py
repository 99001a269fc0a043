"""Early exit with onnxruntime and numpy: the graphs that `eeasr export` wrote, one utterance at a time.

The policy's `step`, the text signals and the vocabulary are those of live use and replay; acoustic signals are those of
`models.signals` in numpy. Torch is not imported here.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from eeasr_modules.data.audio_files import rounded
from eeasr_modules.data.text import load_vocabulary
from eeasr_modules.exits.policies.combine import check_against
from eeasr_modules.exits.policies.files import read_policies
from eeasr_modules.exits.policies.protocol import Policy, reach_of
from eeasr_modules.exits.tuning.calibration import Calibrated
from eeasr_modules.exits.words.signals import (
    LEXICAL_SIGNALS,
    TEXT_SIGNALS,
    lexical_signals,
    text_signals_at_exit,
    uniform,
)
from eeasr_modules.runtime.sources import choose_policy

LEAST_LOG_PROB = -100.0  # in place of -inf: 0 log 0 is 0, not nan


@dataclass(frozen=True, eq=False)
class ExitArrays:
    """One utterance at one exit."""

    log_probs: np.ndarray | None  # (frames, tokens): float32; None where only layer states are asked for
    # hidden, previous_hidden: (frames, dim): layer states at this exit and at the one before
    hidden: np.ndarray
    previous_log_probs: np.ndarray | None  # (frames, tokens): of the exit before; None at the first
    previous_hidden: np.ndarray
    blank_index: int

    @cached_property
    def finite(self) -> np.ndarray:
        """Log-probs without -inf."""
        return np.maximum(self.log_probs, np.float32(LEAST_LOG_PROB))

    @cached_property
    def path(self) -> np.ndarray:
        """Best token of each frame, (frames,)."""
        return self.log_probs.argmax(axis=-1)

    @cached_property
    def spoken(self) -> np.ndarray:
        """True for frames whose best token is not blank."""
        return self.path != self.blank_index

    @cached_property
    def top_probs(self) -> np.ndarray:
        """The largest and the second probability of each frame, (frames, 2)."""
        return np.exp(-np.partition(-self.log_probs, 1, axis=-1)[:, :2])

    @cached_property
    def entropy(self) -> np.ndarray:
        """Nats of each frame, (frames,)."""
        return -(np.exp(self.log_probs) * self.finite).sum(axis=-1)

    def token_mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over tokens of the mean over each token's frames; 0 without tokens."""
        runs = np.cumsum(np.diff(self.path, prepend=-1) != 0)[self.spoken]
        _, inverse, counts = np.unique(runs, return_inverse=True, return_counts=True)
        sums = np.bincount(inverse, weights=values[self.spoken])
        return mean(sums / counts)


def mean(values: np.ndarray) -> np.ndarray:
    """Mean, 0 of nothing."""
    return values.sum() / np.float32(max(len(values), 1))


def _cross_entropy(exit_: ExitArrays) -> np.ndarray:
    if exit_.previous_log_probs is None:
        return mean(-exit_.finite[:, exit_.blank_index])
    return mean(-(np.exp(exit_.previous_log_probs) * exit_.finite).sum(axis=-1))


def _cosine(exit_: ExitArrays) -> np.ndarray:
    one, two = exit_.hidden, exit_.previous_hidden
    norms = np.maximum(np.linalg.norm(one, axis=-1), 1e-8) * np.maximum(np.linalg.norm(two, axis=-1), 1e-8)
    return mean((one * two).sum(axis=-1) / norms)


# Each as the function of the same name in `eeasr_modules.models.signals`.
NUMPY_SIGNALS: dict[str, Callable[[ExitArrays], np.ndarray]] = {
    "entropy": lambda e: mean(e.entropy),
    "entropy_nonblank": lambda e: mean(e.entropy[e.spoken]),
    "max_entropy": lambda e: e.entropy.max(initial=0.0),
    "entropy_token": lambda e: e.token_mean(e.entropy),
    "confidence": lambda e: mean(e.top_probs[:, 0]),
    "margin": lambda e: mean(e.top_probs[:, 0] - e.top_probs[:, 1]),
    "blank_rate": lambda e: mean((~e.spoken).astype(np.float32)),
    "path_log_prob": lambda e: mean(e.finite.max(axis=-1)),
    "cross_entropy": _cross_entropy,
    "cosine": _cosine,
}


MANIFEST = "manifest.json"
MANIFEST_VERSION = 1
KEYS = {
    "sample_rate": int,
    "exit_layers": list,
    "blank_index": int,
    "n_tokens": int,
    "dim": int,
    "policy": str,
    "model_digest": str,
    "normalise_wavs": bool,
    "shortest_samples": int,
    "graphs": dict,
}
COMPARED_WITH_PREVIOUS = ("cross_entropy", "char_change", "word_change")
PLAIN_SIGNALS = ("exit_layer", "duration_s", "uniform", "hypothesis")
LOOP_SIGNALS = (*PLAIN_SIGNALS, *TEXT_SIGNALS, *LEXICAL_SIGNALS, *NUMPY_SIGNALS)


@dataclass(frozen=True)
class Heard:
    """What came out for one utterance."""

    text: str  # transcript of the exit it left at
    exit_layer: int  # layers run
    confidence: float  # mean over frames of the best token's probability


def read_manifest(folder: str | Path) -> dict:
    """The manifest of an exported model, checked.

    FileNotFoundError when the manifest or a graph that it names is missing. ValueError when it is none, of another
    version, or does not fit together.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"expected an exported model with {MANIFEST} in '{folder}', found none: eeasr export")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise ValueError(f"'{path}' is not readable JSON: {err}") from err
    version = manifest.get("manifest_version") if isinstance(manifest, dict) else None
    if version != MANIFEST_VERSION:
        raise ValueError(f"'{path}' has manifest_version {version}; this program reads {MANIFEST_VERSION}: export anew")
    for key, kind in KEYS.items():
        if type(manifest.get(key)) is not kind:
            raise ValueError(f"'{path}' must have {key} as {kind.__name__}, got {manifest.get(key)!r}: export anew")
    n_exits = len(manifest["exit_layers"])
    for precision, graphs in manifest["graphs"].items():
        for part in ("groups", "heads"):
            if len(graphs[part]) != n_exits:
                raise ValueError(
                    f"'{path}' has {n_exits} exit_layers and {len(graphs[part])} {part} for {precision}: export anew"
                )
        for name in (graphs["front_end"], *graphs["groups"], *graphs["heads"]):
            if not (Path(folder) / name).is_file():
                raise FileNotFoundError(f"'{path}' names the graph {name}, which is missing in '{folder}': export anew")
    return manifest


def check_computed(policy: Policy, calibrated: Sequence[Calibrated] = ()) -> None:
    """ValueError when a policy reads what the exported loop does not compute, with those of `calibrated` to take."""
    unknown = [name for name in policy.needs if name not in LOOP_SIGNALS]
    if unknown:
        fit = [one for one in calibrated if set(one.policy.needs) <= set(LOOP_SIGNALS) and not reach_of(one.policy)]
        others = ", ".join(str(one.open_policy) for one in fit)
        raise ValueError(
            f"{policy} reads the signal {unknown[0]!r}, which the exported loop does not compute: take another policy"
            + (f" (--policy), of this model's {others}" if others else "")
            + f"; signals that it does: {', '.join(LOOP_SIGNALS)}"
        )
    if reach_of(policy):
        raise ValueError(f"{policy} emits the transcript of an earlier exit, which the exported loop does not keep")


class OnnxASR:
    """Speech to text from an exported model.

    FileNotFoundError, ValueError when files are missing or do not fit, or the policy reads what is not computed here.

    Arguments
    ---------
    folder : str or Path
        What `eeasr export` wrote.
    policy : str or None
        As `EarlyExitASR.from_pretrained` takes it; None for the one in the manifest.
    budget : float or None
        Mean cost allowed on the calibration data.
    precision : str
        "float32", or "int8" where it was exported.
    n_threads : int
        Of onnxruntime.
    seed : int
        Of the policy `random`.
    language : str
        Of the words that text policies look up.

    Example
    -------
    >>> OnnxASR("exported").transcribe(wav).text  # doctest: +SKIP
    'HELLO'
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        policy: str | None = None,
        budget: float | None = None,
        precision: str = "float32",
        n_threads: int = 1,
        seed: int = 0,
        language: str = "en",
    ):
        folder = Path(folder)
        self.manifest = read_manifest(folder)
        if precision not in self.manifest["graphs"]:
            known = ", ".join(self.manifest["graphs"])
            raise ValueError(f"precision must be one that was exported ({known}), got {precision!r}")
        self.exit_layers, self.sample_rate = self.manifest["exit_layers"], self.manifest["sample_rate"]
        self.vocabulary = load_vocabulary(folder)
        if len(self.vocabulary) != self.manifest["n_tokens"]:
            raise ValueError(
                f"the vocabulary in '{folder}' must hold {self.manifest['n_tokens']} tokens, got {len(self.vocabulary)}"
            )
        calibrated = []
        if (folder / "policy.json").is_file():
            calibrated = read_policies(folder / "policy.json", model_digest=self.manifest["model_digest"])
        text = self.manifest["policy"] if policy is None and budget is None else policy
        self.policy = choose_policy(
            calibrated, text=text, budget=budget, exit_layers=self.exit_layers, name=str(folder)
        )
        check_against(self.policy, self.exit_layers)
        self.names = tuple(self.policy.needs)
        check_computed(self.policy)
        reads = np.array(self.policy.reads(np.asarray(self.exit_layers)), dtype=bool)
        reads[-1] = False  # the last exit decides nothing
        if reads.any() and set(COMPARED_WITH_PREVIOUS) & set(self.names):
            reads[: int(np.flatnonzero(reads)[-1])] = True
        self.reads_head = reads
        self.seed, self.language = seed, language
        graphs = self.manifest["graphs"][precision]
        self._front_end = _session(folder / graphs["front_end"], n_threads)
        self._groups = [_session(folder / name, n_threads) for name in graphs["groups"]]
        self._heads = [_session(folder / name, n_threads) for name in graphs["heads"]]

    def transcribe(self, wav: np.ndarray, *, utt_id: str = "audio") -> Heard:
        """Transcribe one utterance; no graph runs beyond the exit where it leaves.

        `wav` (samples,): at the model's sample rate, -1 to 1; rounded to 16 bits, as wherever audio is read. `utt_id`:
        its name; only the policy `random` looks at it. ValueError when the waveform is empty, of several channels, or
        not finite.
        """
        wav = np.asarray(wav, dtype=np.float32)
        if wav.ndim != 1 or not len(wav) or not np.isfinite(wav).all():
            raise ValueError(f"expected a waveform of shape (samples,), finite and not empty, got shape {wav.shape}")
        duration_s = len(wav) / self.sample_rate
        hidden = _run(self._front_end, self._prepared(rounded(wav)))
        previous, previous_text, state = (None, hidden[0]), None, self.policy.start(1)
        for k, layer in enumerate(self.exit_layers):
            hidden, log_probs, text = _run(self._groups[k], hidden), None, None
            if k == len(self.exit_layers) - 1:
                return self._emit(k, hidden, None, None)
            signals = self._plain(layer, duration_s, utt_id)
            if self.reads_head[k]:
                log_probs = _run(self._heads[k], hidden)[0]
            found = ExitArrays(log_probs, hidden[0], *previous, self.manifest["blank_index"])
            for name in NUMPY_SIGNALS:
                if name in self.names and (log_probs is not None or name == "cosine"):
                    signals[name] = np.array([NUMPY_SIGNALS[name](found)], dtype=np.float32)
            if log_probs is not None and {"hypothesis", *TEXT_SIGNALS, *LEXICAL_SIGNALS} & set(self.names):
                text = self._text(found.path)
                signals.update(self._of_text(text, previous_text))
            # what the policy names but does not read here (below a floor) cannot stop anybody
            signals = {name: signals.get(name, np.full(1, np.nan)) for name in self.names}
            stop, state = self.policy.step(signals, state)
            if stop[0]:
                return self._emit(k, hidden, log_probs, text)
            previous, previous_text = (log_probs, hidden[0]), text
        raise AssertionError("unreachable: the last exit takes whoever is left")

    def _prepared(self, wav: np.ndarray) -> np.ndarray:
        if self.manifest["normalise_wavs"]:
            centred = wav - wav.mean(dtype=np.float32)
            wav = centred / np.sqrt(np.square(centred).mean(dtype=np.float32) + np.float32(1e-7))
        return np.pad(wav, (0, max(0, self.manifest["shortest_samples"] - len(wav))))[None]

    def _plain(self, layer: int, duration_s: float, utt_id: str) -> dict[str, np.ndarray]:
        every = {
            "exit_layer": lambda: np.full(1, layer),
            "duration_s": lambda: np.array([duration_s]),
            "uniform": lambda: uniform([utt_id], layer, seed=self.seed),
        }
        return {name: make() for name, make in every.items() if name in self.names}

    def _of_text(self, text: str, previous: str | None) -> dict[str, np.ndarray]:
        signals: dict[str, np.ndarray] = {"hypothesis": np.array([text], dtype=object)}
        signals.update(text_signals_at_exit([text], None if previous is None else [previous]))
        lexical = tuple(name for name in LEXICAL_SIGNALS if name in self.names)
        if lexical:
            from eeasr_modules.exits.words.resources import word_resources

            signals.update(lexical_signals([text], words=word_resources(self.language), names=lexical))
        return signals

    def _text(self, path: np.ndarray) -> str:
        said = path[(np.diff(path, prepend=-1) != 0) & (path != self.manifest["blank_index"])]
        return self.vocabulary.decode(said.tolist())

    def _emit(self, k: int, hidden: np.ndarray, log_probs: np.ndarray | None, text: str | None) -> Heard:
        log_probs = _run(self._heads[k], hidden)[0] if log_probs is None else log_probs
        text = self._text(log_probs.argmax(axis=-1)) if text is None else text
        return Heard(text, self.exit_layers[k], float(np.exp(log_probs.max(axis=-1)).mean(dtype=np.float64)))


def _session(path: Path, n_threads: int):
    try:
        import onnxruntime
    except ImportError as err:
        raise ValueError("an exported model needs onnxruntime: pip install 'eeasr[onnx]'") from err
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _run(session, array: np.ndarray) -> np.ndarray:
    return session.run(None, {session.get_inputs()[0].name: array})[0]
