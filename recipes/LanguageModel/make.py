"""A word language model for beam search, from free English text and your own.

    python recipes/LanguageModel/make.py -o runs/lm/english.arpa [--text FILE ...] [--leave_out MANIFEST.csv ...]

Text: WordNet's glosses and examples, the Collaborative International Dictionary of English (Webster 1913 and later
additions), the King James Version, all from Debian; any text files, one sentence a line. Vocabulary: the most frequent
English words of the package `wordfreq`. Debian packages: irstlm dict-wn dict-gcide bible-kjv.

`--sources bible` takes the King James Version alone; `-o x.arpa.gz` is gzipped, with two decimals.
Sentences of the manifests given by `--leave_out` (test sets) are kept out of the text; with `--leave_out_run N` so is
every sentence that has N words in a row with one of them.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from eeasr_modules.data.text import normalise_english

DICTIONARIES = Path("/usr/share/dictd")
ESTIMATOR = "/usr/lib/irstlm/bin/tlm"
SOURCES = {"wordnet": "dict-wn", "gcide": "dict-gcide", "bible": "bible-kjv"}  # with Debian's packages
FEWEST_WORDS = 4  # of a sentence


def wordnet_sentences(path: Path) -> Iterator[str]:
    """Definitions and example sentences of Debian's `dict-wn`."""
    text = re.sub(r"\[(?:syn|ant):[^\]]*\]", "", _unpacked(path))
    text = re.sub(r"\s+", " ", re.sub(r"\n(?=\S)", "\f", text).replace("\f", " \x00 "))
    yield from re.findall(r'"([^"\x00]{10,300})"', text)
    for gloss in re.split(r'\x00|; |"|\d+:', text):
        if 15 < len(gloss.strip()) < 300:
            yield gloss


def dictionary_sentences(path: Path) -> Iterator[str]:
    """Definitions and quotations of Debian's `dict-gcide`, without headwords and sources."""
    text = re.sub(r"[{}]", "", re.sub(r"\\[^\\\n]*\\", "", re.sub(r"\[[^\]]{0,60}\]", "", _unpacked(path))))
    for paragraph in re.split(r"\n\s*\n", text):
        prose = re.sub(r"--[A-Z].*$", "", re.sub(r"\s+", " ", paragraph))
        yield from re.split(r"(?<=[.;:?!])\s+", prose)


def _unpacked(path: Path) -> str:
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        return file.read()


def bible_sentences() -> Iterator[str]:
    """Clauses of the King James Version, as Debian's program `bible` prints it."""
    command = ["bible", "-l4000", "gen1:1-rev22:21"]
    printed = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    for verse in re.findall(r"^ +\d+ (.*)$", printed, re.MULTILINE):
        yield from re.split(r"[.:;?!]", verse)


def clean(sentences: Iterable[str], *, left_out: set[str], run: int = 0) -> Iterator[list[str]]:
    """Words of sentences in the spelling of transcripts; short, repeated and left-out ones are dropped.

    Arguments
    ---------
    sentences : iterable of str
        As written.
    left_out : set of str
        Transcripts that must not come in.
    run : int
        Above 0, a sentence with so many words in a row of a left-out one is dropped as well.

    Example
    -------
    >>> list(clean(["It was, then, the 'best' of times.", "Too short"], left_out=set()))
    [['IT', 'WAS', 'THEN', 'THE', 'BEST', 'OF', 'TIMES']]
    """
    seen = set(left_out)
    forbidden = set().union(*(_runs(sentence.split(), run) for sentence in left_out)) if run else set()
    for sentence in sentences:
        spoken = normalise_english(sentence.replace("-", " ")) if sentence.isascii() else None
        if spoken is None or len(spoken.split()) < FEWEST_WORDS or spoken in seen:
            continue
        if forbidden and not forbidden.isdisjoint(_runs(spoken.split(), run)):
            continue
        seen.add(spoken)
        yield spoken.split()


def _runs(words: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def frequent_words(n_words: int) -> set[str]:
    """The most frequent English words, spelled with letters and apostrophes only, in upper case."""
    from wordfreq import top_n_list

    words = (word for word in top_n_list("en", 3 * n_words) if word.isascii() and word.replace("'", "").isalpha())
    return {word.upper() for word, _ in zip(words, range(n_words), strict=False)}


def estimate(
    sentences: Iterable[list[str]], path: Path, *, vocabulary: set[str], order: int, cut_offs: str | None = None
) -> int:
    """Write an ARPA file by IRSTLM's modified shift-beta (Kneser-Ney) smoothing.

    Arguments
    ---------
    sentences : iterable of list of str
        Words.
    path : Path
        To write; gzipped, with two decimals, if it ends in `.gz`.
    vocabulary : set of str
        Other words become `<unk>`.
    order : int
        Words in the longest n-gram.
    cut_offs : str or None
        For each order how often an n-gram occurs and is left out all the same: "0,1,2".

    Returns
    -------
    int
        Words of text.
    """
    n_words = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        text, arpa = Path(folder) / "text", Path(folder) / "model.arpa"
        with text.open("w", encoding="utf-8") as file:
            for words in sentences:
                n_words += len(words)
                known = (word if word in vocabulary else "<unk>" for word in words)
                file.write(f"<s> {' '.join(known)} </s>\n")
        command = [ESTIMATOR, f"-tr={text}", f"-n={order}", "-lm=msb", "-bo=yes", f"-oarpa={arpa}"]
        command += [f"-pft={cut_offs}"] if cut_offs else []
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not arpa.is_file():
            raise ValueError(f"{ESTIMATOR} wrote no model of {n_words} words: {done.stderr.strip()[-300:]}")
        if path.suffix == ".gz":
            arpa = _gzipped(arpa)
        os.replace(arpa, path)
    return n_words


def _gzipped(arpa: Path) -> Path:
    """The file with two decimals, gzipped: the same bytes from the same text."""
    path = arpa.with_name(arpa.name + ".gz")
    text = re.sub(r"(-?\d+\.\d\d)\d+", r"\1", arpa.read_text(encoding="utf-8"))
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    return path


def _references(manifests: Iterable[str]) -> set[str]:
    found = set()
    for manifest in manifests:
        with open(manifest, newline="", encoding="utf-8") as file:
            found |= {row["wrd"] for row in csv.DictReader(file)}
    return found


def _free_text(sources: Iterable[str]) -> Iterator[str]:
    if "wordnet" in sources:
        yield from wordnet_sentences(DICTIONARIES / "wn.dict.dz")
    if "gcide" in sources:
        yield from dictionary_sentences(DICTIONARIES / "gcide.dict.dz")
    if "bible" in sources:
        yield from bible_sentences()


def _missing(sources: Iterable[str]) -> list[str]:
    """Debian packages that are not there."""
    there = {
        "wordnet": (DICTIONARIES / "wn.dict.dz").is_file(),
        "gcide": (DICTIONARIES / "gcide.dict.dz").is_file(),
        "bible": shutil.which("bible") is not None,
    }
    missing = [SOURCES[source] for source in sources if not there[source]]
    return missing if Path(ESTIMATOR).is_file() else ["irstlm", *missing]


def _own_text(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        with open(path, encoding="utf-8") as file:
            yield from file


def main() -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", required=True, metavar="ARPA", type=Path)
    parser.add_argument("--text", nargs="*", default=[], metavar="FILE", help="further text, one sentence a line")
    parser.add_argument("--leave_out", nargs="*", default=[], metavar="MANIFEST", help="whose sentences are not used")
    parser.add_argument(
        "--leave_out_run", type=int, default=0, metavar="N", help="nor those that share N words in a row"
    )
    parser.add_argument(
        "--words",
        type=int,
        default=60000,
        metavar="N",
        help="vocabulary, 0 for every word of the text (default: 60000)",
    )
    parser.add_argument("--order", type=int, default=3, metavar="N", help="of the n-grams (default: 3)")
    parser.add_argument(
        "--sources", default=",".join(SOURCES), metavar="LIST", help=f"of {','.join(SOURCES)} (default: all)"
    )
    parser.add_argument(
        "--cut_offs", metavar="N,N,N", help="per order: n-grams seen at most so often are left out (default: IRSTLM's)"
    )
    options = parser.parse_args()
    sources = options.sources.split(",")
    if unknown := sorted(set(sources) - set(SOURCES)):
        parser.error(f"--sources are {', '.join(SOURCES)}, got '{unknown[0]}'")
    if missing := _missing(sources):
        parser.exit(2, f"make.py: Debian packages needed: apt-get install {' '.join(missing)}\n")
    sentences = clean(
        (line for source in (_own_text(options.text), _free_text(sources)) for line in source),
        left_out=_references(options.leave_out),
        run=options.leave_out_run,
    )
    if not options.words:
        sentences = list(sentences)
    vocabulary = frequent_words(options.words) if options.words else {word for words in sentences for word in words}
    n_words = estimate(sentences, options.output, vocabulary=vocabulary, order=options.order, cut_offs=options.cut_offs)
    print(f"{options.output}: {options.order}-grams of {n_words} words, vocabulary of at most {len(vocabulary)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
