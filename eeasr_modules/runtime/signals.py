"""The signals a policy asks for, computed at one exit for the utterances that are still undecided.

Replay reads them from an exit table; here they are made by the same functions, and only those that are needed.
"""

from collections.abc import Sequence

import numpy as np
import torch

from eeasr_modules.data.text import CharVocabulary, SentencePieceVocabulary
from eeasr_modules.exits.policies.protocol import DECODER_SIGNALS, Policy, lagged, reach_of
from eeasr_modules.exits.words.signals import (
    LEXICAL_SIGNALS,
    TEXT_SIGNALS,
    change,
    lexical_signals,
    text_lag,
    text_signals_at_exit,
    uniform,
)
from eeasr_modules.models.signals import ACOUSTIC_SIGNALS, LAGS, WORD_SIGNALS, acoustic_signals

PLAIN_SIGNALS = ("exit_layer", "duration_s", "uniform")
# posteriors compared with those of exits before, and how many exits before
POSTERIOR_LAGS = {lagged(name, lag): lag for name in ("cross_entropy", "binary_cross_entropy") for lag in LAGS}
COMPARED_WITH_PREVIOUS = (*POSTERIOR_LAGS, "char_change", "word_change")
LIVE_SIGNALS = (*PLAIN_SIGNALS, "hypothesis", *TEXT_SIGNALS, *LEXICAL_SIGNALS, *ACOUSTIC_SIGNALS, *WORD_SIGNALS)


class SignalPlan:
    """Which signals a policy needs, and at which exits a head must be read for them.

    `spells`: whether transcripts are the attention decoder's: its signals can be read then. `remembers`: exits before
    whose layer states the model reads (`MultiExit.reach`). `fused`: signals by which words are fused at every exit;
    None where they are not. ValueError when the policy reads something that is not computed live; what is, is named.
    """

    def __init__(
        self,
        policy: Policy,
        exit_layers: Sequence[int],
        *,
        spells: bool = False,
        remembers: int = 0,
        fused: Sequence[str] | None = None,
    ):
        self.remembers, self.fuses = remembers, fused is not None
        self.names = tuple(dict.fromkeys([*policy.needs, *(fused or ())]))
        self.of_decoder = tuple(name for name in self.names if name in DECODER_SIGNALS)
        if self.of_decoder and not spells:
            raise ValueError(
                f"{policy} reads the signal {self.of_decoder[0]!r} of the attention decoder: transcribe with "
                "--decoding attention (decoding=AttentionOptions() in Python)"
            )
        self.text_lags = {name: text_lag(name) for name in self.names if text_lag(name)}
        known = (*LIVE_SIGNALS, *self.of_decoder, *self.text_lags)
        unknown = [name for name in self.names if name not in known]
        if unknown:
            raise ValueError(
                f"{policy} reads the signal {unknown[0]!r}, which is not computed while transcribing; "
                f"those that are: {', '.join(LIVE_SIGNALS)}"
            )
        self.acoustic = tuple(name for name in ACOUSTIC_SIGNALS if name in self.names)
        self.text = tuple(name for name in TEXT_SIGNALS if name in self.names)
        self.lexical = tuple(name for name in LEXICAL_SIGNALS if name in self.names)
        self.headless = tuple(name for name in self.acoustic if name == "cosine")  # of layer states alone
        self.of_words = tuple(name for name in WORD_SIGNALS if name in self.names)
        self.transcribes = bool(self.text or self.text_lags or self.lexical or "hypothesis" in self.names)
        self.keeps_paths = reach_of(policy) > 0  # an earlier exit may speak
        lags = [lag for _, lag in self.text_lags.values()]
        lags += [POSTERIOR_LAGS[name] for name in self.names if name in POSTERIOR_LAGS]
        # exits before that are remembered: the one before in any case
        self.n_before = min(max([1, reach_of(policy), remembers, *lags]), len(exit_layers))
        reads = np.asarray(policy.reads(np.asarray(exit_layers)), dtype=bool).copy()
        reads[-1] = self.keeps_paths  # the last exit decides nothing, but an output rule compares it
        reads |= self.fuses
        if reads.any() and (self.text_lags or set(COMPARED_WITH_PREVIOUS) & set(self.names)):
            reads[: int(np.flatnonzero(reads)[-1])] = True
        self.reads_head = reads

    @property
    def keeps_states(self) -> bool:
        """Whether layer states of exits before are compared with or read again."""
        return "cosine" in self.acoustic or self.remembers > 0

    @property
    def keeps_log_probs(self) -> bool:
        """Whether log-probs of exits before are compared with."""
        return any(name in POSTERIOR_LAGS for name in self.acoustic)


def plain_signals(
    names: Sequence[str], *, utt_ids: Sequence[str], duration_s: np.ndarray, exit_layer: int, seed: int
) -> dict[str, np.ndarray]:
    """Those of `PLAIN_SIGNALS` that are in `names`: they need no model.

    Returns: (n,).
    """
    signals = {}
    if "exit_layer" in names:
        signals["exit_layer"] = np.full(len(utt_ids), exit_layer)
    if "duration_s" in names:
        signals["duration_s"] = duration_s
    if "uniform" in names:
        signals["uniform"] = uniform(utt_ids, exit_layer, seed=seed)
    return signals


def transcript_signals(
    plan: SignalPlan, hypotheses: Sequence[str], before: Sequence[Sequence[str] | None], *, language: str
) -> dict[str, np.ndarray]:
    """Signals that are read off transcripts.

    `before`: of the exits before, the latest first; None where an exit has none, as before the first. Returns: (n,).
    """
    signals = {}
    if "hypothesis" in plan.names:
        signals["hypothesis"] = np.array([*hypotheses], dtype=object)
    if plan.text:
        every = text_signals_at_exit(hypotheses, before[0])
        signals.update({name: every[name] for name in plan.text})
    for name, (compared, lag) in plan.text_lags.items():
        signals[name] = change(compared, hypotheses, before[lag - 1] if lag <= len(before) else None)
    if plan.lexical:
        from eeasr_modules.exits.words.resources import word_resources

        signals.update(lexical_signals(hypotheses, words=word_resources(language), names=plan.lexical))
    return signals


def head_signals(
    names: Sequence[str],
    log_probs: torch.Tensor | None,
    hidden: torch.Tensor,
    n_frames: torch.Tensor,
    *,
    log_probs_before: Sequence[torch.Tensor],
    previous_hidden: torch.Tensor,
    blank_index: int,
) -> list[torch.Tensor]:
    """Acoustic signals in the order of `names`, each of shape (n,), still on the device.

    `log_probs` (n, frames, tokens): of this exit; None where only layer states are asked for. `hidden`,
    `previous_hidden` (n, frames, dim): layer states likewise; the previous ones are not read unless `cosine` is asked
    for. `log_probs_before` (n, frames, tokens): of the exits before, the latest first, as many as there are.
    """
    found = acoustic_signals(
        hidden if log_probs is None else log_probs,  # of which `cosine` asks the length only
        hidden,
        n_frames,
        previous_log_probs=log_probs_before[0] if log_probs_before else None,
        earlier_log_probs=log_probs_before[1:],
        previous_hidden=previous_hidden,
        blank_index=blank_index,
        names=names,
    )
    return list(found.values())


def spelled(
    best: np.ndarray, n_frames: Sequence[int], *, vocabulary: CharVocabulary | SentencePieceVocabulary, blank_index: int
) -> list[str]:
    """Transcripts of greedy paths: repeats merged, blanks removed.

    `best` (n, frames): best token of each frame.
    """
    said = best != blank_index
    said[:, 1:] &= best[:, 1:] != best[:, :-1]
    return [vocabulary.decode(row[:n][kept[:n]].tolist()) for row, kept, n in zip(best, said, n_frames, strict=True)]
