"""What is looked at before training begins, and what stays of a run that is refused: nothing in its way."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from eeasr_modules.data.audio import AudioReader
from eeasr_modules.data.audio_files import SILENT_S
from eeasr_modules.data.manifest import recordings
from eeasr_modules.data.text import SENTENCEPIECE_FILE, VOCABULARY_FILE

logger = logging.getLogger("train")  # into log.txt, not onto the terminal


def check_language_model(config) -> None:
    """FileNotFoundError where beam search is to read a language model that is not there."""
    if config.decoding == "beam" and config.lm_file is not None and not Path(config.lm_file).is_file():
        raise FileNotFoundError(f"lm_file '{config.lm_file}' does not exist: give an ARPA file, or null for none")


def check_recordings(evaluation_sets: Sequence, *, sample_rate: int) -> None:
    """Read every recording of the sets to its end, so that training is not done before one turns out to be broken.

    Arguments
    ---------
    evaluation_sets : sequence of EvaluationSet
        Validation and test sets.
    sample_rate : int
        Hz.

    Raises
    ------
    ValueError
        How many cannot be read, which is the first, and why.
    """
    from tqdm import tqdm

    files = recordings([manifest for one in evaluation_sets for manifest in one.manifests])
    broken = []
    for file in tqdm(files, desc="test recordings", unit="file", dynamic_ncols=True, delay=SILENT_S):
        try:
            for _ in AudioReader(file, sample_rate).blocks():
                pass
        except Exception as err:  # whatever a decoder raises, it is this file's
            broken.append(err)
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(files)} validation and test recordings cannot be read, the first: "
            f"{_last_line(broken[0])}: copy them again, or take them out of the listing"
        )


@contextlib.contextmanager
def leaves_nothing(folder: Path, *, new: tuple[Path, ...] | None = None) -> Iterator[tuple[Path, ...]]:
    """Within it, an error before the first checkpoint removes the run's note and vocabulary, if they are new.

    Otherwise the folder would keep the shape of a run that was refused, and refuse the mended one.

    Arguments
    ---------
    folder : Path
        The run folder.
    new : tuple of Path or None
        What may go; None: what is not there now.

    Yields
    ------
    tuple of Path
        What may go.
    """
    if new is None:
        files = (folder / "run.json", *(folder / "model" / name for name in (VOCABULARY_FILE, SENTENCEPIECE_FILE)))
        new = tuple(file for file in files if not file.exists())
    try:
        yield new
    except (ValueError, OSError, ImportError):
        if not any((folder / "save").glob("CKPT*")) and not (folder / "model" / "config.json").is_file():
            for file in new:
                file.unlink(missing_ok=True)
        raise


def why_refused(error: BaseException) -> str | None:
    """The sentence of an error that input or settings caused; None of others. The traceback goes into `log.txt`."""
    if not isinstance(error, (ValueError, OSError, ImportError)):
        return None
    logger.error("stopped by an error", exc_info=error)
    return _last_line(error)


def _last_line(error: BaseException) -> str:
    """What an error says on one line; of one that comes from a DataLoader's process, what was raised there."""
    said = str(error).strip()
    if "Original Traceback" in said:
        said = said.splitlines()[-1].partition(": ")[2] or said.splitlines()[-1]
    return " ".join(said.split())
