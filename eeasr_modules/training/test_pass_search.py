"""The test pass by beam search or attention decoder, and by several processes.

Exits, utterances and signals are the same, transcripts others. Each process tests its share of a set, and the first
joins their tables.
"""

import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from tqdm import tqdm

from eeasr_modules.common.batches import length_batches
from eeasr_modules.data.pipeline import manifest_items
from eeasr_modules.exits.policies.protocol import DECODER_SIGNALS
from eeasr_modules.exits.tables.files import read_table, write_table
from eeasr_modules.exits.tables.table import ExitTable, join_tables
from eeasr_modules.models.decoding.attention import AttentionOptions, AttentionSearch
from eeasr_modules.models.decoding.ctc import BeamDecoder, BeamOptions
from eeasr_modules.models.device import computed_in
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.config.config import Config
from eeasr_modules.training.corpora import EvaluationSet
from eeasr_modules.training.test_pass import collect_or_reuse, hear, stored

logger = logging.getLogger(__name__)


def chosen_decoder(config: Config, model: MultiExit, vocabulary) -> BeamDecoder | AttentionSearch | None:
    """The search that the YAML asks for; None where it says `decoding: greedy`.

    FileNotFoundError or ImportError when `lm_file` is missing, or what reads it. ValueError when the model lacks an
    attention decoder.
    """
    if config.decoding == "greedy":
        return None
    if config.decoding == "attention":
        options = AttentionOptions(config.attention_beam_size, config.attention_ctc_weight)
        return AttentionSearch(model, options=options)
    options = BeamOptions(
        beam_size=config.beam_size, lm_file=config.lm_file, lm_weight=config.lm_weight, word_score=config.word_score
    )
    return BeamDecoder(vocabulary.tokens, vocabulary.spellings, blank_index=vocabulary.blank_index, options=options)


@torch.no_grad()
def decode(
    model: MultiExit,
    table: ExitTable,
    evaluation_set: EvaluationSet,
    *,
    decoder: BeamDecoder | AttentionSearch,
    vocabulary,
    read,
    batch_seconds: float,
    limit: int | None = None,
    precision: str = "fp32",
    progress: bool = True,
) -> ExitTable:
    """The table, which `collect` made with references, with the transcripts of a search at every exit.

    Model, vocabulary, set and the rest are as `collect` took them.

    Signals stay those of the greedy pass: a policy decides on them, and what it emits is searched for at its exit. The
    attention decoder adds its own (`DECODER_SIGNALS`) and what it cost (`decoder_macs`).
    """
    items = manifest_items(evaluation_set.manifests, limit=limit)
    utt_ids = list(items)
    if utt_ids != list(table.utt_ids):
        raise ValueError(f"the table of {evaluation_set.name} must hold the set's {len(utt_ids)} utterances in order")
    device, sample_rate = next(model.parameters()).device, model.config["sample_rate"]
    shape = (len(utt_ids), len(model.exit_layers))
    hypotheses = np.empty(shape, dtype=object)
    spells = isinstance(decoder, AttentionSearch)
    signals = {name: np.empty(shape) for name in sorted(DECODER_SIGNALS)} if spells else {}
    macs = np.empty(shape) if spells else None
    batches = length_batches([items[utt_id]["duration"] for utt_id in utt_ids], batch_seconds)
    with tqdm(total=len(utt_ids), desc=f"{evaluation_set.name}, search", unit="utt", disable=not progress) as bar:
        for batch in batches:
            seed = table.metadata["seed"]
            wavs = [hear(utt_ids[i], items, read, evaluation_set.shift, seed, sample_rate) for i in batch]
            lengths = torch.tensor([len(wav) for wav in wavs])
            padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
            with computed_in(precision, device):
                outputs = list(model.exits(padded.to(device), lengths.to(device)))
            for e, output in enumerate(outputs):
                for row, (i, n) in enumerate(zip(batch, output.n_frames.tolist(), strict=True)):
                    log_probs = output.log_probs[row, :n]
                    if not spells:
                        hypotheses[i, e] = decoder.text(log_probs)
                        continue
                    spelled = decoder.decode(e, output.hidden[row, :n], log_probs)
                    hypotheses[i, e], macs[i, e] = vocabulary.decode(spelled.tokens), spelled.macs
                    for name, value in spelled.signals.items():
                        signals[name][i, e] = value
            bar.update(len(batch))
    made = replace(table.with_hypotheses(hypotheses), metadata={**table.metadata, "decoding": asdict(decoder.options)})
    return replace(made, signals={**made.signals, **signals}, decoder_macs=macs)


def decode_or_reuse(model: MultiExit, table: ExitTable, evaluation_set: EvaluationSet, path: Path, **how) -> ExitTable:
    """The decoded table at `path` if model, data and search are the same; else a new one, written there.

    Its words are logged beside the greedy ones. Arguments as of `decode`.
    """
    made = _stored(path, {**table.metadata, "decoding": asdict(how["decoder"].options)})
    if made is None:
        made = decode(model, table, evaluation_set, **how)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(made, path)
    logger.info(
        "%s: last exit %.2f %% WER greedy, %.2f %% by %s; every exit by it %s",
        evaluation_set.name,
        table.wer_per_exit[-1],
        made.wer_per_exit[-1],
        "attention decoder" if isinstance(how["decoder"], AttentionSearch) else "beam search",
        " ".join(f"{wer:.2f}" for wer in made.wer_per_exit),
    )
    return made


def _stored(path: Path, metadata: dict) -> ExitTable | None:
    if not path.is_file():
        return None
    try:
        table = read_table(path)
    except (ValueError, OSError) as err:
        logger.warning("'%s' cannot be read (%s): decoded again", path, err)
        return None
    same = ("model_digest", "manifest_digest", "audio_digest", "shift", "seed", "precision", "decoding")
    return table if all(table.metadata.get(name) == metadata.get(name) for name in same) else None


def processes() -> tuple[int, int]:
    """Which process this is, from 0, and how many there are."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def collect_by_share(
    model, vocabulary, evaluation_set: EvaluationSet, path: Path, *, metadata: dict, **options
) -> ExitTable:
    """As `collect.collect_or_reuse`, by all processes of the run together; every one gets the whole table.

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


_DEFAULTS = {"precision": "fp32", "average_exits": 0, "nbest": 0}
