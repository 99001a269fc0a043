"""Per exit: SpeechBrain's word alignment file and sclite's `.trn`, from an exit table."""

import os
from pathlib import Path

from speechbrain.utils.metric_stats import ErrorRateStats

from eeasr_modules.exits.table import ExitTable


def write_transcripts(table: ExitTable, folder: Path) -> None:
    """Write `wer_<layer>.txt` and `exit_<layer>.trn` for every exit, and `reference.trn`.

    Arguments
    ---------
    table : ExitTable
        With references.
    folder : Path
        Made if missing; files are written aside and renamed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    references = [str(text) for text in table.references]
    _write(folder / "reference.trn", _trn(references, table.utt_ids))
    for e, layer in enumerate(table.exit_layers):
        hypotheses = [str(text) for text in table.hypotheses[:, e]]
        _write(folder / f"exit_{layer:02d}.trn", _trn(hypotheses, table.utt_ids))
        stats = ErrorRateStats()
        stats.append(list(table.utt_ids), [h.split() for h in hypotheses], [r.split() for r in references])
        aside = folder / f"wer_{layer:02d}.txt.tmp"
        with aside.open("w", encoding="utf-8") as stream:
            stats.write_stats(stream)
        os.replace(aside, folder / f"wer_{layer:02d}.txt")


def _trn(texts, utt_ids) -> str:
    return "".join(f"{text} ({utt_id})\n" for text, utt_id in zip(texts, utt_ids, strict=True))


def _write(path: Path, text: str) -> None:
    path.with_suffix(".tmp").write_text(text, encoding="utf-8")
    os.replace(path.with_suffix(".tmp"), path)
