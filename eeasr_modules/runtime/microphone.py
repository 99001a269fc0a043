"""The command `eeasr try`: a model on your own voice, exit by exit, and what leaving early saves on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from eeasr_modules.data.audio import as_waveform, read_speech
from eeasr_modules.data.text import normalise_english
from eeasr_modules.exits.measure.edits import count_edits
from eeasr_modules.runtime.recogniser import EarlyExitASR

SENTENCES = (
    "The kettle is warm but the tea has gone cold",
    "Seven small boats came back before the rain",
    "Please leave the green door open for my brother",
    "Nobody heard the train until it crossed the bridge",
    "We bought bread and apples and walked slowly home",
)
DEFAULT_MODELS = (Path(__file__).resolve().parents[1] / "shipped" / "small", Path("runs/an4/model"))


@dataclass(frozen=True)
class Trial:
    """One sentence as every exit heard it.

    Arguments
    ---------
    reference : str
        What should have been said, normalised.
    texts : tuple of str
        Of each exit, normalised.
    exit_index : int
        Where the policy stopped, from 0.
    duration_s : float
        Seconds of audio.
    """

    reference: str
    texts: tuple[str, ...]
    exit_index: int
    duration_s: float


def default_model() -> Path:
    """The first of `DEFAULT_MODELS` that is there; ValueError without one."""
    for folder in DEFAULT_MODELS:
        if (folder / "config.json").is_file():
            return folder
    raise ValueError("no model comes with this installation: name one, as in: eeasr try runs/an4/model")


def model_and_files(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Split the arguments of `eeasr try`: a model first, unless that is a file; then recordings.

    Arguments
    ---------
    arguments : sequence of str
        As typed.

    Returns
    -------
    model : str
        The default one where none is named.
    files : list of str
    """
    if arguments and not Path(arguments[0]).is_file():
        return arguments[0], list(arguments[1:])
    return str(default_model()), list(arguments)


def read_sentences(path: str | Path | None) -> list[str]:
    """Sentences of a file, one a line; ours without a file.

    Arguments
    ---------
    path : str, Path or None
        UTF-8 text.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it holds no sentence.
    """
    if path is None:
        return list(SENTENCES)
    if not Path(path).is_file():
        raise FileNotFoundError(f"expected sentences, one a line, in '{path}', found no file")
    sentences = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    if not sentences:
        raise ValueError(f"'{path}' holds no sentence")
    return sentences


def hear(
    files: Sequence[str], sentences: Sequence[str], *, sample_rate: int, ask: Callable[[str], object] = input
) -> list[torch.Tensor]:
    """The sentences' waveforms: from files, one per sentence in their order, or from the microphone.

    Arguments
    ---------
    files : sequence of str
        Recordings; empty to record.
    sentences : sequence of str
        What is to be said.
    sample_rate : int
        Hz.
    ask : callable
        Shows a text and waits for Enter.

    Raises
    ------
    ValueError
        When there are not as many files as sentences, or no microphone.
    """
    if not files:
        return _recorded(sentences, sample_rate, ask)
    if len(files) != len(sentences):
        raise ValueError(
            f"expected {len(sentences)} files, one per sentence in this order, got {len(files)}; sentences: "
            + "; ".join(sentences)
        )
    return [read_speech(file, sample_rate) for file in files]


def _recorded(sentences: Sequence[str], sample_rate: int, ask: Callable[[str], object]) -> list[torch.Tensor]:
    advice = f"pass {len(sentences)} files, one per sentence, in place of it; sentences: {'; '.join(sentences)}"
    try:
        import sounddevice
    except ImportError as err:
        raise ValueError(f"the microphone needs the package sounddevice (pip install sounddevice): {advice}") from err
    except OSError as err:  # its C library is not there
        raise ValueError(f"no microphone can be used here ({err}): {advice}") from err
    try:
        device = sounddevice.query_devices(kind="input")
        rate = int(device["default_samplerate"])
        return [
            as_waveform(_until_enter(sounddevice, sentence, rate, ask), from_rate=rate, sample_rate=sample_rate)
            for sentence in sentences
        ]
    except (sounddevice.PortAudioError, EOFError) as err:
        raise ValueError(
            f"no microphone can be used here ({err or 'no terminal to press Enter in'}): {advice}"
        ) from err


def _until_enter(sounddevice, sentence: str, rate: int, ask: Callable[[str], object]) -> np.ndarray:
    heard: list[np.ndarray] = []
    ask(f"\n  {sentence}\nPress Enter, read it aloud, and press Enter again. ")
    with sounddevice.InputStream(samplerate=rate, channels=1, callback=lambda block, *_: heard.append(block.copy())):
        ask("recording ... ")
    return np.concatenate(heard) if heard else np.zeros((0, 1), dtype=np.float32)


def run_trials(asr: EarlyExitASR, wavs: Sequence[torch.Tensor], sentences: Sequence[str]) -> list[Trial]:
    """Every exit's transcript of every sentence, and where the policy stops.

    Arguments
    ---------
    asr : EarlyExitASR
        Model and policy.
    wavs : sequence of torch.Tensor of shape (samples,)
        At the model's rate.
    sentences : sequence of str
        What was said.

    Returns
    -------
    list of Trial
    """
    engine, trials = asr.engine, []
    for number, (wav, sentence) in enumerate(zip(wavs, sentences, strict=True)):
        n_samples = torch.tensor([len(wav)])
        texts = [said[0] for _, said in engine.every_exit(wav.unsqueeze(0), n_samples)]
        (left,) = engine.run(wav.unsqueeze(0), n_samples, utt_ids=[f"sentence-{number}"])
        trials.append(
            Trial(
                _plain(sentence),
                tuple(map(_plain, texts)),
                asr.source.exit_layers.index(left.exit_layer),
                len(wav) / engine.sample_rate,
            )
        )
    return trials


def _plain(text: str) -> str:
    return normalise_english(text, unreadable="remove")


def trial_lines(trials: Sequence[Trial], *, exit_layers: Sequence[int], policy: str) -> list[str]:
    """What `eeasr try` prints.

    Arguments
    ---------
    trials : sequence of Trial
        At least one.
    exit_layers : sequence of int
        The model's.
    policy : str
        Which one stopped them.

    Returns
    -------
    list of str

    Example
    -------
    >>> lines = trial_lines([Trial("A B", ("A", "A B"), 1, 2.0)], exit_layers=[2, 4], policy="entropy(0.1)")
    >>> print(lines[-1])
    entropy(0.1) leaves after 4.0 of 4 layers (0 % saved): WER 0.0 %, 0.0 % at the last exit.
    """
    lines = []
    for trial in trials:
        lines.append(f"\n{trial.reference}")
        for k, (layer, text) in enumerate(zip(exit_layers, trial.texts, strict=True)):
            mark = "  <- leaves here" if k == trial.exit_index else ""
            lines.append(f"  layer {layer:2d}: {text}{mark}")
    n_words = sum(len(trial.reference.split()) for trial in trials)
    errors = np.array([[sum(count_edits(t.reference, text)) for text in t.texts] for t in trials])
    wer = 100 * errors.sum(axis=0) / n_words
    rates = ", ".join(f"{rate:.1f}" for rate in wer)
    seconds = np.array([trial.duration_s for trial in trials])
    depth = float(np.average([exit_layers[t.exit_index] for t in trials], weights=seconds))
    chosen = 100 * sum(errors[i, t.exit_index] for i, t in enumerate(trials)) / n_words
    lines += [
        "",
        f"WER (%) after layers {', '.join(map(str, exit_layers))}, over {n_words} words: {rates}",
        f"{policy} leaves after {depth:.1f} of {exit_layers[-1]} layers "
        f"({100 * (1 - depth / exit_layers[-1]):.0f} % saved): WER {chosen:.1f} %, {wer[-1]:.1f} % at the last exit.",
    ]
    return lines
