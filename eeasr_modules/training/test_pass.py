"""The test pass: every exit of every utterance of a set, into an exit table.

One batch is in memory at a time and of it one exit's log-probs and those of the few before that it is compared with or
averaged with; posteriors are not kept, so signals of words, the transcript of averaged posteriors and the beam search's
posterior are made while they live. Per exit: SpeechBrain's word alignment file and sclite's `.trn`.
"""

import io
import logging
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.metric_stats import ErrorRateStats
from tqdm import tqdm

from eeasr_modules.common.batches import length_batches
from eeasr_modules.common.files import write_aside
from eeasr_modules.data.manifest import audio_digest, audio_state, manifest_digest, read_description, recordings
from eeasr_modules.data.pipeline import manifest_items
from eeasr_modules.data.text import split_language
from eeasr_modules.exits.policies.protocol import MOST_LAGS
from eeasr_modules.exits.tables.files import read_table, write_table
from eeasr_modules.exits.tables.table import ExitTable, join_tables
from eeasr_modules.models.decoding.ctc import NBEST_SIGNAL, NBest, average_posteriors, greedy_decode
from eeasr_modules.models.device import computed_in
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.signals import ACOUSTIC_SIGNALS, WORD_SIGNALS, WordFrames, acoustic_signals, word_signals
from eeasr_modules.training.corpora import EvaluationSet
from eeasr_modules.training.test_pass_decoders import OwnReadings

ReadExit = Callable[[int, torch.Tensor, torch.Tensor], None]


class PosteriorReadings:
    """Readings of a whole set, filled batch by batch.

    `average_exits`: average the posteriors of so many last exits; 0 for none. `nbest`: beam of the search whose best
    transcript's posterior is the signal `nbest_posterior`; 0 for none. ValueError when `average_exits` or `nbest` is 1:
    nothing is averaged or compared then.

    Attributes
    ----------
    word_lists : dict of str to np.ndarray of shape (n_utterances, n_exits)
        Of objects: an array per transcript, see `models.signals`.
    averaged_hypotheses : np.ndarray of shape (n_utterances, n_exits) or None
        Transcripts of the averaged posteriors; at the first exits, of as many as there are.
    signals : dict of str to np.ndarray of shape (n_utterances, n_exits)
        `nbest_posterior` where it was asked for.
    """

    def __init__(self, model: MultiExit, vocabulary, n_utterances: int, *, average_exits: int = 0, nbest: int = 0):
        if average_exits == 1:
            raise ValueError("average_exits must be 0 (none) or at least 2, got 1")
        shape = (n_utterances, len(model.exit_layers))
        self.vocabulary, self.blank_index = vocabulary, model.blank_index
        self.average_exits = average_exits
        self.words = WordFrames(vocabulary.spellings, blank_index=model.blank_index)
        self.frame_s = model.frame_s
        self.beam = NBest(vocabulary.tokens, blank_index=model.blank_index, beam_size=nbest) if nbest else None
        self.word_lists = {name: np.empty(shape, dtype=object) for name in WORD_SIGNALS}
        self.averaged_hypotheses = np.empty(shape, dtype=object) if average_exits else None
        self.signals = {NBEST_SIGNAL: np.empty(shape)} if nbest else {}

    def of(self, rows: Sequence[int]) -> ReadExit:
        """The reader of one batch.

        Returns: to be called with `exit_index`, log-probs (batch, frames, tokens) and frame counts (batch,) of every
        exit in turn.
        """
        recent: deque[torch.Tensor] = deque(maxlen=max(1, self.average_exits))

        def read(exit_index: int, log_probs: torch.Tensor, n_frames: torch.Tensor) -> None:
            for name, lists in word_signals(log_probs, n_frames, words=self.words, frame_s=self.frame_s).items():
                for row, values in zip(rows, lists, strict=True):
                    self.word_lists[name][row, exit_index] = values
            if self.averaged_hypotheses is not None:
                recent.append(log_probs)
                tokens = greedy_decode(average_posteriors(recent), n_frames, blank_index=self.blank_index)
                self.averaged_hypotheses[rows, exit_index] = [self.vocabulary.decode(ids) for ids in tokens]
            if self.beam is not None:
                self.signals[NBEST_SIGNAL][rows, exit_index] = self.beam.posterior(log_probs, n_frames).numpy()

        return read


logger = logging.getLogger(__name__)
_DEFAULTS = {"precision": "fp32", "average_exits": 0, "nbest": 0}


@torch.no_grad()
def read_exits(
    model: MultiExit,
    wavs: torch.Tensor,
    n_samples: torch.Tensor,
    *,
    on_exit: ReadExit | None = None,
    on_end: Callable[[torch.Tensor], None] | None = None,
) -> tuple[list[list[list[int]]], dict[str, np.ndarray], np.ndarray]:
    """Tokens and acoustic signals of every exit for a batch.

    `wavs` (batch, samples): zero-padded. `n_samples` (batch,): valid ones. `on_exit`: called at every exit with its
    `exit_index`, log-probs and frame counts, while they live. `on_end`: called
    with the states (batch, frames, dim) behind the last layer.

    Returns
    -------
    tokens : list of list of list of int
        Per exit and utterance.
    signals : dict of str to np.ndarray of shape (batch, n_exits)
        See `models.signals`.
    n_frames : np.ndarray of shape (batch,)
        Valid frames.
    """
    walk = model.walk(wavs, n_samples)
    previous_hidden, before = walk.view, deque(maxlen=MOST_LAGS)  # log-probs of exits before, the latest first
    tokens, columns = [], {name: [] for name in ACOUSTIC_SIGNALS}
    views: deque[torch.Tensor] = deque(maxlen=model.reach + 1)
    for exit_index, layer in enumerate(model.exit_layers):
        hidden = walk.advance(layer)
        views.appendleft(hidden)
        log_probs = model.read(exit_index, views, walk.n_frames)
        if on_exit is not None:
            on_exit(exit_index, log_probs, walk.n_frames)
        tokens.append(greedy_decode(log_probs, walk.n_frames, blank_index=model.blank_index))
        signals = acoustic_signals(
            log_probs,
            hidden,
            walk.n_frames,
            previous_log_probs=before[0] if before else None,
            previous_hidden=previous_hidden,
            blank_index=model.blank_index,
            earlier_log_probs=[*before][1:],
        )
        for name, values in signals.items():
            columns[name].append(values.cpu().numpy())
        previous_hidden = hidden
        before.appendleft(log_probs)
    if on_end is not None:
        on_end(previous_hidden)
    return tokens, {name: np.stack(values, axis=1) for name, values in columns.items()}, walk.n_frames.cpu().numpy()


def collect(
    model: MultiExit,
    vocabulary,
    evaluation_set: EvaluationSet,
    *,
    read: Callable[[str], torch.Tensor],
    batch_seconds: float,
    metadata: dict,
    limit: int | None = None,
    precision: str = "fp32",
    average_exits: int = 0,
    nbest: int = 0,
    share: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> ExitTable:
    """The exit table of one set, with every acoustic signal and the lists of words' signals.

    Arguments
    ---------
    batch_seconds : float
        Longest padded batch; results do not depend on it.
    limit : int or None
        An evenly spaced slice of each manifest.
    precision : str
        fp32, or bf16 and fp16 by autocast.
    average_exits : int
        Also transcribe the mean posterior of so many last exits; 0 for none.
    nbest : int
        Beam of the search for the signal `nbest_posterior`, which is slow; 0 for none.
    share : (int, int)
        Of several processes, which one this is (from 0) and how many there are: every so many-th utterance by length.
    """
    items = _share_of(manifest_items(evaluation_set.manifests, limit=limit), *share)
    utt_ids = list(items)
    device = next(model.parameters()).device
    sample_rate = model.config["sample_rate"]
    heard_by = {"seed": metadata["seed"], "sample_rate": sample_rate}
    n, n_exits = len(utt_ids), len(model.exit_layers)
    hypotheses = np.empty((n, n_exits), dtype=object)
    signals = {name: np.empty((n, n_exits)) for name in ACOUSTIC_SIGNALS}
    readings = PosteriorReadings(model, vocabulary, n, average_exits=average_exits, nbest=nbest)
    own = OwnReadings(model, n) if model.config.get("own_decoder") is not None else None
    n_frames, n_samples = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)

    batches = length_batches([items[utt_id]["duration"] for utt_id in utt_ids], batch_seconds)
    with tqdm(total=n, desc=evaluation_set.name, unit="utt", disable=not progress) as bar:
        for batch in batches:
            names = [utt_ids[i] for i in batch]
            wavs = [evaluation_set.waveform(name, items[name], read, **heard_by) for name in names]
            lengths = torch.tensor([len(wav) for wav in wavs])
            padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
            padded, ends = padded.to(device), []
            with computed_in(precision, device):
                tokens, batch_signals, frames = read_exits(
                    model, padded, lengths.to(device), on_exit=readings.of(batch), on_end=ends.append
                )
            n_frames[batch], n_samples[batch] = frames, lengths.numpy()
            for name, values in batch_signals.items():
                signals[name][batch] = values
            for e, exit_tokens in enumerate(tokens):
                hypotheses[batch, e] = [vocabulary.decode(ids) for ids in exit_tokens]
            if own is not None:
                with computed_in(precision, device):
                    own.read(batch, ends[0], frames, padded, lengths, drafts=hypotheses[batch, -1])
            bar.update(len(batch))

    macs = [model.macs(int(samples)) for samples in n_samples]
    columns = {
        "hypotheses": hypotheses,
        "signals": {**signals, **readings.signals},
        "word_lists": readings.word_lists,
        "averaged_hypotheses": readings.averaged_hypotheses,
        "cost_macs": np.array([layers for layers, _ in macs]),
        "head_macs": np.array([heads for _, heads in macs]),
    }
    if own is not None:
        columns = own.beside(columns, duration_s=n_samples / sample_rate)
    references = [split_language(items[utt_id]["words"])[1] for utt_id in utt_ids]
    if not any(references):  # recordings alone: what the last exit says stands for what was said
        references = columns["hypotheses"][:, -1].tolist()
    table = ExitTable.from_hypotheses(
        columns.pop("hypotheses"),
        references,
        utt_ids=utt_ids,
        speakers=[items[utt_id]["speaker"] for utt_id in utt_ids],
        exit_layers=model.all_exit_layers,
        duration_s=n_samples / sample_rate,
        n_frames=n_frames,
        metadata=metadata,
        **columns,
    )
    return table if own is None else replace(table, decoder_macs=own.decoder_macs)


def _share_of(items: dict[str, dict], rank: int, n_ranks: int) -> dict[str, dict]:
    """Utterances of one process, about as long in all as those of the others."""
    by_length = sorted(items, key=lambda utt_id: items[utt_id]["duration"])
    mine = set(by_length[rank::n_ranks])
    return {utt_id: item for utt_id, item in items.items() if utt_id in mine}


def table_metadata(
    evaluation_set: EvaluationSet, model: MultiExit, *, model_digest: str, seed: int, limit: int | None
) -> dict:
    """File metadata of the table that `collect` will make; two equal ones mean the same table."""
    descriptions = [read_description(manifest) for manifest in evaluation_set.manifests]
    digests = [manifest_digest(manifest) for manifest in evaluation_set.manifests]
    return {
        "set_name": evaluation_set.name,
        "set_label": evaluation_set.label,
        "corpus": evaluation_set.corpus,
        "shift": evaluation_set.shift,
        "n_seen_speakers": evaluation_set.n_seen_speakers,
        "model_digest": model_digest,
        "manifest_digest": "+".join(digests) if limit is None else f"{'+'.join(digests)}/{limit}",
        "audio_state": audio_state(recordings(evaluation_set.manifests)),
        "normaliser": descriptions[0]["normaliser"],
        "commit": current_commit(),
        "seed": seed,
        "n_layers": max(model.encoder.n_layers, model.all_exit_layers[-1]),
        "duration_is_approximate": False,
    }


def collect_or_reuse(
    model: MultiExit,
    vocabulary,
    evaluation_set: EvaluationSet,
    path: Path,
    *,
    metadata: dict,
    precision: str = "fp32",
    average_exits: int = 0,
    nbest: int = 0,
    **collect_options,
) -> ExitTable:
    """The table at `path` if it is what would be collected; else a new one, written there.

    It is when model, manifest, recordings, shift, seed, precision, averaging and beam are the same and no signal is
    missing. Recordings are the same when their sizes and times of change are, else when their content is. A table of an
    earlier version does not say what it heard, and is collected again.
    """
    options = {"precision": precision, "average_exits": average_exits, "nbest": nbest}
    metadata = {**metadata, **options}
    table = stored(path, metadata, evaluation_set)
    if table is not None:
        logger.info("%s: model, data and seed are the same, table reused", path)
        return table
    metadata["audio_digest"] = audio_digest(recordings(evaluation_set.manifests))
    table = collect(model, vocabulary, evaluation_set, metadata=metadata, **options, **collect_options)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(table, path)
    return table


def stored(path: Path, metadata: dict, evaluation_set: EvaluationSet) -> ExitTable | None:
    """The table at `path` if it is what would be collected; None if it is not, or is not there."""
    if not path.is_file():
        return None
    try:
        table = read_table(path)
    except (ValueError, OSError) as err:
        logger.warning("'%s' cannot be read (%s): collected again", path, err)
        return None
    if not _is_what_would_be_collected(table, metadata):
        return None
    return table if _heard_the_same(table, metadata, evaluation_set, path) else None


def _heard_the_same(table: ExitTable, metadata: dict, evaluation_set: EvaluationSet, path: Path) -> bool:
    """Whether the set's recordings are those that the table was made from."""
    if table.metadata.get("audio_state") == metadata.get("audio_state"):
        return True
    if "audio_digest" not in table.metadata:
        logger.info("%s does not say which recordings it heard: collected again", path)
        return False
    if table.metadata["audio_digest"] == audio_digest(recordings(evaluation_set.manifests)):
        return True
    logger.warning("%s: recordings of %s have changed, collected again", path, evaluation_set.name)
    return False


def _is_what_would_be_collected(table: ExitTable, metadata: dict) -> bool:
    asked = ("model_digest", "manifest_digest", "shift", "seed", "set_label", "precision", "average_exits", "nbest")
    absent = {"average_exits": 0, "nbest": 0, "share": None}  # of tables older than these, and of whole ones
    same = all(table.metadata.get(name, absent.get(name)) == metadata.get(name) for name in (*asked, "share"))
    return same and set(ACOUSTIC_SIGNALS) <= set(table.signals) and set(WORD_SIGNALS) <= set(table.word_lists)


def processes() -> tuple[int, int]:
    """Which process this is, from 0, and how many there are."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def collect_by_share(
    model, vocabulary, evaluation_set: EvaluationSet, path: Path, *, metadata: dict, **options
) -> ExitTable:
    """As `collect_or_reuse`, by all processes of the run together; every one gets the whole table.

    Each writes its share beside `path` (`<name>.part-<rank>-of-<n>.parquet`), which a run that is started again with as
    many processes finds there. Which process an utterance falls to changes nothing but rounding in the last digits.
    """
    rank, n_ranks = processes()
    if n_ranks == 1:
        return collect_or_reuse(model, vocabulary, evaluation_set, path, metadata=metadata, **options)
    asked = {name: options.get(name, default) for name, default in _DEFAULTS.items()}
    whole = stored(path, {**metadata, **asked}, evaluation_set)
    ddp_barrier()  # nobody writes while others still look
    if whole is not None:
        return whole
    parts = [path.with_name(f"{path.stem}.part-{one}-of-{n_ranks}.parquet") for one in range(n_ranks)]
    mine = {**metadata, "share": f"{rank} of {n_ranks}"}
    options["progress"] = options.get("progress", True) and rank == 0
    collect_or_reuse(model, vocabulary, evaluation_set, parts[rank], metadata=mine, share=(rank, n_ranks), **options)
    ddp_barrier()
    if if_main_process():
        order = list(manifest_items(evaluation_set.manifests, limit=options.get("limit")))
        shares = [read_table(part) for part in parts]
        heard = {"audio_digest": shares[0].metadata["audio_digest"]}
        joined = join_tables(shares, order, metadata={**metadata, **asked, **heard})
        write_table(joined, path)
        for part in parts:
            part.unlink()
    ddp_barrier()
    return read_table(path)


def current_commit() -> str | None:
    """Short commit of the code, None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def write_transcripts(table: ExitTable, folder: Path) -> None:
    """Write `wer_<layer>.txt` and `exit_<layer>.trn` for every exit, and `reference.trn`."""
    references = [str(text) for text in table.references]
    write_aside(folder / "reference.trn", _trn(references, table.utt_ids))
    for e, layer in enumerate(table.exit_layers):
        hypotheses = [str(text) for text in table.hypotheses[:, e]]
        write_aside(folder / f"exit_{layer:02d}.trn", _trn(hypotheses, table.utt_ids))
        stats = ErrorRateStats()
        stats.append(list(table.utt_ids), [h.split() for h in hypotheses], [r.split() for r in references])
        alignments = io.StringIO()
        stats.write_stats(alignments)
        write_aside(folder / f"wer_{layer:02d}.txt", alignments.getvalue())


def _trn(texts, utt_ids) -> str:
    return "".join(f"{text} ({utt_id})\n" for text, utt_id in zip(texts, utt_ids, strict=True))
