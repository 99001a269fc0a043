"""`EarlyExitASR`: a model that transcribes files and arrays, each stopping where its policy says."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from eeasr_modules.data.audio import CLIPPED_FROM, AudioReader, as_waveform, clipping
from eeasr_modules.data.text import CharVocabulary, SentencePieceVocabulary, load_vocabulary
from eeasr_modules.exits.measure.fusion import FusionModel
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.policies.rules import Static
from eeasr_modules.models.decoding.attention import AttentionOptions, AttentionSearch
from eeasr_modules.models.decoding.ctc import BeamDecoder, BeamOptions
from eeasr_modules.models.device import checked_device
from eeasr_modules.models.fast.switches import check_switches, made_faster
from eeasr_modules.models.folder import write_transformers_files
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.runtime.batch import OnExit, Recognised
from eeasr_modules.runtime.chunks import (
    LONGEST_S,
    OVERLAP_S,
    Chunk,
    ChunkBatches,
    OnDraft,
    PendingRecording,
    assembled,
    chunks,
)
from eeasr_modules.runtime.drift_watch import ON_DRIFT, Audit, LiveRisk, LiveWatch, reference_of
from eeasr_modules.runtime.engine import Engine
from eeasr_modules.runtime.sources import Source, find_source
from eeasr_modules.runtime.transcript import Transcript, fusion_of

logger = logging.getLogger(__name__)

Audio = str | Path | np.ndarray | torch.Tensor


class EarlyExitASR:
    """Speech to text; made by `EarlyExitASR.from_pretrained`.

    The weights are read when something is first transcribed, and left out of a pickle. Threads may share one: they read
    audio side by side and recognise in turn.

    ValueError when a choice is none of these, the policy cannot be watched, or words cannot be fused.

    Arguments
    ---------
    policy : policy
        Not open.
    device : str
        Such as "cpu" or "cuda".
    batch_seconds : float
        Longest padded batch; results do not depend on it.
    longest_s : float
        Of what is recognised in one piece; longer recordings are cut in chunks.
    pool_survivors : bool
        Put those whom no exit of theirs has taken yet, of several batches, into fewer: deep layers run on fuller ones.
    front_end : str
        "fast" (wav2vec 2.0 and its kin on a CPU; same output) or "stock".
    precision : str
        "float32", "bfloat16", "float16" (GPU), "int8" (CPU); docs/transcribe.md says what each costs and saves.
    decoding : BeamOptions, AttentionOptions or None
        A CTC beam search, or the attention decoder, for the transcript at the exit that is taken; None for greedy
        decoding.
    words : str or None
        "exit" says the words of the exit that is taken; "fused" the fusion of all exits passed, by the model folder's
        `fusion.json`: every exit's head is then read. None takes those that the policy was certified for, else "exit".
    on_drift : str
        "warn" logs an alarm when exits and blank rates leave the calibration distribution, "full_depth" moreover takes
        everybody to the last exit from then on; "off" does not watch.
    drift_alpha : float
        Probability of ever raising a false alarm.
    audit : Audit or None
        Lets a random share of the utterances run to the end too and watches how many words leaving changes; what is
        said stays. None does not.
    seed : int
        Of the policy `random`.

    Example
    -------
    >>> asr = EarlyExitASR.from_pretrained("runs/an4/model", policy="entropy", budget=0.6)  # doctest: +SKIP
    >>> asr.transcribe("hello.flac").text                                                   # doctest: +SKIP
    'HELLO'
    """

    def __init__(
        self,
        source: Source,
        *,
        policy: Policy,
        device: str = "cpu",
        batch_seconds: float = 60.0,
        longest_s: float = LONGEST_S,
        pool_survivors: bool = False,
        front_end: str = "fast",
        precision: str = "float32",
        decoding: BeamOptions | AttentionOptions | None = None,
        words: str | None = None,
        on_drift: str = "off",
        drift_alpha: float = 0.01,
        audit: Audit | None = None,
        seed: int = 0,
    ):
        if not batch_seconds > 0:
            raise ValueError(f"batch_seconds must be above 0, got {batch_seconds}")
        if not longest_s >= 1:
            raise ValueError(f"longest_s must be at least 1 (seconds in one piece), got {longest_s}")
        self.source, self.policy, self.device = source, policy, checked_device(device)
        self.batch_seconds, self.longest_s = batch_seconds, longest_s
        check_switches(front_end, precision, device=self.device)
        self.front_end, self.precision = front_end, precision
        if isinstance(decoding, BeamOptions):
            decoding.check_language_model()
        elif decoding is not None and source.config.get("decoder") is None:
            raise ValueError(
                f"decoding by attention needs a model that was trained with attention_decoder: true, '{source.name}' "
                "has CTC exits only"
            )
        self.decoding, self.seed = decoding, seed
        self.pool_survivors = pool_survivors
        self.fusion = fusion_of(source, words, policy=policy, searches=decoding is not None)
        if on_drift not in ON_DRIFT:
            raise ValueError(f"on_drift must be one of {', '.join(ON_DRIFT)}, got {on_drift!r}")
        self.on_drift = on_drift
        self.drift: LiveWatch | None = None
        if on_drift != "off":
            self.drift = LiveWatch(reference_of(source.calibrated, policy), alpha=drift_alpha)
        self.risk = None if audit is None else LiveRisk(audit, calibrated=source.calibrated, policy=policy)
        self._engine: Engine | None = None
        self._auditor: Engine | None = None  # the same model, everybody at the last exit
        self._loading, self._running = threading.Lock(), threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        policy: str | None = None,
        budget: float | None = None,
        device: str | None = None,
        batch_seconds: float = 60.0,
        longest_s: float = LONGEST_S,
        pool_survivors: bool = False,
        front_end: str = "fast",
        precision: str = "float32",
        decoding: BeamOptions | AttentionOptions | None = None,
        words: str | None = None,
        on_drift: str = "off",
        drift_alpha: float = 0.01,
        audit: Audit | None = None,
        seed: int = 0,
    ) -> EarlyExitASR:
        """A model by its name.

        FileNotFoundError when a file of the model is missing. ValueError when there is no such model or policy, or the
        policy was not calibrated for this model.

        Arguments
        ---------
        name : str or Path
            A folder that `train.py` left; a Hugging Face CTC checkpoint's folder, or an id on the hub, which is used
            at its last layer.
        policy : str or None
            Text such as "entropy(0.12)", or the name of a policy that was calibrated for this model; None takes the
            `exit_policy` of its `config.json`, else the first of its `policy.json`, else the last exit.
        budget : float or None
            Mean cost allowed on the calibration data: up to 1 a share of full depth, above 1 layers; None takes the
            `budget` of its `config.json`.
        device : str or None
            None takes a GPU where there is one.
        """
        source = find_source(name)
        chosen = source.policy(
            source.config.get("exit_policy") if policy is None else policy,
            budget=source.config.get("budget") if budget is None else budget,
        )
        return cls(
            source,
            policy=chosen,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            batch_seconds=batch_seconds,
            longest_s=longest_s,
            pool_survivors=pool_survivors,
            front_end=front_end,
            precision=precision,
            decoding=decoding,
            words=words,
            on_drift=on_drift,
            drift_alpha=drift_alpha,
            audit=audit,
            seed=seed,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy the model's folder, with what lets `AutoModelForCTC` and `pipeline` of transformers load it.

        ValueError when the model is a checkpoint of transformers, which loads it as it is.
        """
        own, folder = self.source.folder, Path(folder)
        if own is None:
            raise ValueError(f"'{self.source.name}' is a checkpoint of transformers already: copy it as it is")
        if folder.resolve() != own.resolve():
            shutil.copytree(own, folder, dirs_exist_ok=True)
        write_transformers_files(folder, load_vocabulary(folder))

    def __getstate__(self) -> dict:
        left_out = ("_engine", "_auditor", "_loading", "_running")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _engine=None, _auditor=None, _loading=threading.Lock(), _running=threading.Lock())

    @property
    def engine(self) -> Engine:
        """Model, heads and policy, read from disk when first asked for, once however many threads ask."""
        with self._loading:
            if self._engine is None:
                self._engine = self._made_engine()
        return self._engine

    def _made_engine(self) -> Engine:
        model, vocabulary = self.source.load(self.device)
        model = made_faster(model, front_end=self.front_end, precision=self.precision)
        return self._deciding(model, vocabulary, policy=self.policy, fusion=self.fusion)

    def _deciding(
        self,
        model: MultiExit,
        vocabulary: CharVocabulary | SentencePieceVocabulary,
        *,
        policy: Policy,
        fusion: FusionModel | None,
    ) -> Engine:
        return Engine(
            model,
            vocabulary,
            policy=policy,
            precision=self.precision,
            seed=self.seed,
            language=self.source.config.get("language") or "en",
            decoder=self._decoder(model, vocabulary),
            fusion=fusion,
        )

    @property
    def rule(self) -> str:
        """The policy's text, and whether words are fused: what transcripts name."""
        return self._rule(self.policy)

    def _rule(self, policy: Policy) -> str:
        return str(policy) if self.fusion is None else f"{policy} + fusion"

    def _recognise(
        self, wavs: list[torch.Tensor], utt_ids: list[str], *, on_exit: OnExit | None = None
    ) -> tuple[list[Recognised], str]:
        """What is heard, and the policy that decided; one thread at a time where a decoder searches (with a state)."""
        engine = self.engine
        searches = engine.decoder is not None or engine.own is not None
        with self._running if searches else contextlib.nullcontext():
            results = engine.run_all(
                wavs,
                utt_ids=utt_ids,
                batch_seconds=self.batch_seconds,
                pool_survivors=self.pool_survivors,
                on_exit=on_exit,
            )
        with self._running:
            self._look_for_drift(results)
            self._look_for_risk(engine, results, wavs, utt_ids)
        return results, self._rule(engine.policy)

    def _look_for_drift(self, results: Sequence[Recognised]) -> None:
        """Watch what was recognised; after an alarm, take everybody to the last exit if that is wanted."""
        layers = self.source.exit_layers
        if self.drift is None or (self.drift.alarm and self.on_drift == "full_depth"):
            return  # static exits say nothing about the policy's calibration any more
        if self.drift.hear(results, exit_layers=layers) and self.on_drift == "full_depth":
            self._go_to_full_depth("drift")

    def _look_for_risk(
        self, engine: Engine, results: Sequence[Recognised], wavs: list[torch.Tensor], utt_ids: list[str]
    ) -> None:
        """Audit some of what the engine recognised; after an alarm, the same."""
        last = Static(int(self.source.exit_layers[-1]))
        if self.risk is None or engine.policy == last:
            return
        chosen = self.risk.chosen(len(results))
        texts = {i: results[i].text for i in chosen}  # of those who went to the end, the last exit's own
        again = [i for i in chosen if self.fusion is not None or results[i].exit_layer != last.layer]
        if again:
            if self._auditor is None:
                made = engine.model, engine.vocabulary
                self._auditor = self._deciding(*made, policy=last, fusion=None)
            names = [utt_ids[i] for i in again]
            run = {"utt_ids": names, "batch_seconds": self.batch_seconds}
            at_the_end = self._auditor.run_all([wavs[i] for i in again], **run)
            texts |= {i: one.text for i, one in zip(again, at_the_end, strict=True)}
        raised = self.risk.hear([results[i].text for i in chosen], [texts[i] for i in chosen])
        if raised and self.risk.audit.on_alarm == "full_depth":
            self._go_to_full_depth("risk")

    def _go_to_full_depth(self, why: str) -> None:
        engine = self.engine
        with self._loading:
            self.policy = Static(int(self.source.exit_layers[-1]))
            made = engine.model, engine.vocabulary
            self._engine = self._deciding(*made, policy=self.policy, fusion=self.fusion)
        logger.warning("%s: from here on everything runs to the last exit", why)

    def _decoder(self, model: MultiExit, vocabulary) -> BeamDecoder | AttentionSearch | None:
        if self.decoding is None:
            return None
        if isinstance(self.decoding, AttentionOptions):
            return AttentionSearch(model, options=self.decoding)
        tokens, spellings = vocabulary.tokens, vocabulary.spellings
        return BeamDecoder(tokens, spellings, blank_index=vocabulary.blank_index, options=self.decoding)

    def transcribe(
        self, audio: Audio | Sequence[Audio], *, sample_rate: int | None = None
    ) -> Transcript | list[Transcript]:
        """Transcript of a recording, or those of several.

        Returns: in a list, a recording that cannot be read has `error` set, and the others are done. ValueError,
        FileNotFoundError when a single recording cannot be read.

        Arguments
        ---------
        audio : path, array of shape (samples,) or (samples, channels), or list of these
            Any format, rate and length.
        sample_rate : int or None
            Hz of arrays; None means the model's.
        """
        several = isinstance(audio, list | tuple)
        found = dict(self.stream(audio if several else [audio], sample_rate=sample_rate, strict=not several))
        transcripts = [found[i] for i in range(len(found))]
        return transcripts if several else transcripts[0]

    def stream(
        self,
        audio: Iterable[Audio],
        *,
        utt_ids: Sequence[str] | None = None,
        sample_rate: int | None = None,
        strict: bool = False,
        on_draft: OnDraft | None = None,
    ) -> Iterator[tuple[int, Transcript]]:
        """Transcripts as they become ready, each with its recording's number from 0; memory stays flat.

        Arguments
        ---------
        audio : iterable of paths and arrays
            Read when their turn comes.
        utt_ids : sequence of str or None
            Names, by which the policy `random` decides; None for the paths.
        strict : bool
            Raise at the first recording that cannot be read.
        on_draft : function or None
            Called with a `Draft` for every exit that somebody passes, as soon as that exit is read. Recordings are then
            recognised one at a time, and heads are read that the policy alone would leave out; decisions stay.

        Raises
        ------
        ValueError
            With `on_draft` when survivors are pooled, and what `strict` lets through.
        """
        if on_draft is not None and self.pool_survivors:
            raise ValueError("drafts come one recording at a time, pooled survivors need several: choose one of them")
        batches = ChunkBatches(
            self._recognise, self._transcript, batch_seconds=self.batch_seconds, on_draft=on_draft, strict=strict
        )
        for number, one in enumerate(audio):
            path = str(one) if isinstance(one, str | Path) else None
            name = utt_ids[number] if utt_ids is not None else path or f"array-{number}"
            recording = PendingRecording(number, path)
            for chunk in self._chunks_read(one, recording, sample_rate, strict=strict):
                yield from batches.add(recording, chunk, name)
            yield from batches.ended(recording)
        yield from batches.flush()

    def _chunks_read(
        self, one: Audio, recording: PendingRecording, sample_rate: int | None, *, strict: bool
    ) -> Iterator[Chunk]:
        """Chunks as far as they can be read; whatever goes wrong becomes the recording's error."""
        try:
            yield from self._chunks(one, recording, sample_rate)
        except Exception as err:
            if strict:
                raise
            recording.failed(err)

    def _chunks(self, one: Audio, recording: PendingRecording, sample_rate: int | None) -> Iterator[Chunk]:
        rate = self.engine.sample_rate
        shape = {"sample_rate": rate, "longest_s": self.longest_s, "overlap_s": min(OVERLAP_S, self.longest_s / 7.5)}
        if recording.audio is None:
            wav = as_waveform(one, from_rate=rate if sample_rate is None else sample_rate, sample_rate=rate)
            recording.n_samples = len(wav)
            clipped = clipping(float((wav.abs() >= CLIPPED_FROM).float().mean()))
            if clipped:  # integers' values as floats are loud as well
                recording.warnings = (clipped,)
                logger.warning("the audio array is %s", clipped)
            yield from chunks([wav], **shape)
            return
        reader = AudioReader(one, rate)
        yield from chunks(reader.blocks_of_speech(), **shape)
        recording.n_samples, recording.warnings = reader.n_samples, reader.warnings
        for warning in reader.warnings:
            logger.warning("'%s' is %s", recording.audio, warning)

    def _transcript(self, recording: PendingRecording, policy: str) -> Transcript:
        return assembled(
            recording,
            policy=policy,
            model=self.source.name,
            n_layers=self.source.exit_layers[-1],
            sample_rate=self.engine.sample_rate,
            # it knows greedy words, of one exit
            confidence_map=None if self.decoding is not None or self.fusion is not None else self.source.confidence_map,
            drift=None if self.drift is None else self.drift.alarm,
            risk=None if self.risk is None else self.risk.alarm,
        )
