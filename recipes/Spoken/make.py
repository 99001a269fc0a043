"""Makes the embedded corpus: sentences of an old book, spoken by free speech synthesizers, as Opus.

    python recipes/Spoken/make.py recipes/Spoken/corpus
    python recipes/Spoken/make.py FOLDER --text-only
    python recipes/Spoken/make.py FOLDER --more 4000

Two stages. The text stage (`read_verses`, `choose_sentences`, `write_table`) needs only Debian's `bible` and gives
the same `utterances.tsv` bit by bit: sentences, splits, voices, rates and pitches all follow from hashes, not from a
random generator. The audio stage speaks that table; another version of a synthesizer sounds a little different.
With `--more N` the folder gets N further training sentences of the same voices and no other split: they share no five
words in a row with the held-out sentences. hparams/small.yaml was trained on some, which are too large to embed.
Debian packages: bible-kjv espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k sox opus-tools.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from eeasr_modules.common.files import write_aside
from eeasr_modules.data.text import normalise_english

TABLE = "utterances.tsv"
SEED = "spoken-1"
VERSES_SHA256 = "26b9aa01235f35949ed880a62250516940faa4e66930aa9440ec195d5ad0a80c"
N_WORDS = range(5, 15)
COMMON = 2  # a sentence is taken only when each of its words occurs so often in the book
RUN = 5  # words in a row that no two splits share: the book repeats itself
NEW_WORDS = 8  # that a training sentence brings, as long as there are such, so that an hour holds enough words
N_TRAIN, N_HELD_OUT = 690, {"dev": 72, "test": 95, "test_unseen_voices": 115}
# Names are dropped (each synthesizer reads them its own way): words never written in lower case, but for these.
NOT_NAMES = {"I", "O"}
UNFIT = re.compile(  # not for a demonstration
    r"\b(adulter|bastard|circumcis|concubin|copulat|dung|foreskin|fornicat|harlot|lewd|lust|menstru|piss|ravish|teat|whor)",
    re.IGNORECASE,
)
FLITE = ("flite_awb", "flite_rms", "flite_slt")
ESPEAK = (
    *("espeak_en-us", "espeak_en-us+f2", "espeak_en-us+m3", "espeak_en-us+f5", "espeak_en-us+m7"),
    *("espeak_en-gb", "espeak_en-gb+f3", "espeak_en-gb+m4", "espeak_en-gb-x-rp", "espeak_en-gb-x-rp+f2"),
    *("espeak_en-gb-scotland", "espeak_en-gb-scotland+m2"),
)
# Half of the training speech from recorded voices (flite), half from rules (espeak-ng). kal also exists in flite: not
# used there, for its donor is held out.
TRAINING_VOICES = tuple(voice for pair in zip(FLITE * 4, ESPEAK) for voice in pair)
UNSEEN_VOICES = ("festival_kal", "festival_ked")
RATES = tuple(percent / 100 for percent in range(75, 106, 5))  # the voices are fast: 19 characters a second at 1
PITCHES = tuple(half / 2 for half in range(-4, 5))  # semitones
KBIT_S = 14
PROGRAMS = {
    "espeak-ng": "espeak-ng",
    "flite": "flite",
    "text2wave": "festival",
    "sox": "sox",
    "opusenc": "opus-tools",
}


@dataclass(frozen=True)
class Sentence:
    """A row of `utterances.tsv`.

    Arguments
    ---------
    utt_id, split, voice : str
        The voice begins with its synthesizer: `flite_awb`.
    rate : float
        Of speech, 1 as the voice has it, above 1 faster.
    pitch : float
        Semitones above the voice's own.
    text : str
        As spoken, punctuation included; the reference is its normal form.
    """

    utt_id: str
    split: str
    voice: str
    rate: float
    pitch: float
    text: str


def read_verses() -> list[str]:
    """The verses of the King James Version, as Debian's program `bible` prints them.

    Raises
    ------
    FileNotFoundError
        Without the program.
    ValueError
        Its text is not the one that the corpus was made from.
    """
    _require({"bible": "bible-kjv"})
    command = ["bible", "-l4000", "gen1:1-rev22:21"]
    printed = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    # "  1 In the beginning God created the heaven and the earth."
    verses = re.findall(r"^ +\d+ (.*)$", printed, re.MULTILINE)
    digest = hashlib.sha256("\n".join(verses).encode()).hexdigest()
    if digest != VERSES_SHA256:
        raise ValueError(
            f"expected the text of Debian's bible-kjv-text 4.38 (SHA-256 {VERSES_SHA256[:12]}...), got {len(verses)} "
            f"verses of {digest[:12]}...: install that version"
        )
    return verses


def choose_sentences(verses: Sequence[str]) -> list[Sentence]:
    """All utterances of the corpus, split by split.

    Held-out sentences are a plain sample; training sentences each bring new words. No sentence, nor any five words in
    a row, is in two splits.

    Arguments
    ---------
    verses : sequence of str
        Of the whole book.
    """
    candidates = sorted(_clauses(verses), key=lambda text: _hash("order", text))
    spelled = {text: normalise_english(text).split() for text in candidates}
    chosen: dict[str, list[str]] = {}
    taken_runs: set[tuple[str, ...]] = set()
    for split, n_sentences in {**N_HELD_OUT, "train": N_TRAIN}.items():
        texts, runs, words = [], set(), set()
        for new_words in range(NEW_WORDS, -1, -1) if split == "train" else [0]:
            for text in candidates:
                if len(texts) == n_sentences:
                    break
                new = len({*spelled[text]} - words) >= new_words and text not in texts
                if new and not _runs(spelled[text]) & taken_runs:
                    texts.append(text)
                    runs |= _runs(spelled[text])
                    words |= {*spelled[text]}
        if len(texts) < n_sentences:
            raise ValueError(f"split {split} needs {n_sentences} sentences, the text gave {len(texts)}")
        taken_runs |= runs
        chosen[split] = texts
    return [
        _sentence(split, number, text)
        for split in ("train", *N_HELD_OUT)
        for number, text in enumerate(chosen[split], start=1)
    ]


def more_sentences(verses: Sequence[str], n_sentences: int) -> list[Sentence]:
    """Training sentences that the corpus does not hold, disjoint from its held-out ones as its own are.

    Arguments
    ---------
    verses : sequence of str
        Of the whole book.
    n_sentences : int
        How many; ValueError when the book has fewer.
    """
    corpus = choose_sentences(verses)
    held_out = {run for one in corpus if one.split != "train" for run in _runs(normalise_english(one.text).split())}
    embedded = {normalise_english(one.text) for one in corpus}
    found = []
    for text in sorted(_clauses(verses), key=lambda text: _hash("order", text)):
        spelled = normalise_english(text)
        if spelled not in embedded and not _runs(spelled.split()) & held_out:
            found.append(text)
        if len(found) == n_sentences:
            return [_sentence("train", number, one) for number, one in enumerate(found, start=N_TRAIN + 1)]
    raise ValueError(f"expected {n_sentences} further sentences, the text has {len(found)}")


def _clauses(verses: Sequence[str]) -> list[str]:
    """Pieces of verses that can be spoken alone, each sentence once: no names, no rare words."""
    counts = Counter(word for verse in verses for word in re.findall(r"[A-Za-z']+", verse))
    names = {word for word in counts if word[0].isupper() and word.lower() not in counts} - NOT_NAMES
    folded = Counter()
    for word, count in counts.items():
        folded[word.lower()] += count
    found: dict[str, str] = {}
    for verse in verses:
        for piece in re.split(r"[.:;?!()]", verse.replace("LORD", "Lord")):
            for part in [piece] if len(piece.split()) in range(N_WORDS.stop) else piece.split(","):
                text = " ".join(part.strip(" ,").split())
                words = re.findall(r"[A-Za-z']+", text)
                common = all(folded[word.lower()] >= COMMON and word not in names for word in words)
                if common and len(words) in N_WORDS and not UNFIT.search(text):
                    found.setdefault(normalise_english(text), text)
    return list(found.values())


def _sentence(split: str, number: int, text: str) -> Sentence:
    voices = UNSEEN_VOICES if split == "test_unseen_voices" else TRAINING_VOICES
    rate = RATES[int(_hash("rate", text), 16) % len(RATES)]
    pitch = PITCHES[int(_hash("pitch", text), 16) % len(PITCHES)]
    return Sentence(f"{split}_{number:04d}", split, voices[(number - 1) % len(voices)], rate, pitch, f"{text}.")


def _runs(words: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1)}


def _hash(purpose: str, text: str) -> str:
    return hashlib.sha256(f"{SEED} {purpose} {text}".encode()).hexdigest()


def write_table(path: Path, sentences: Iterable[Sentence]) -> Path:
    """`sentences` as a tab-separated table with a head line."""
    text = io.StringIO()
    writer = csv.writer(text, dialect="excel-tab", lineterminator="\n")
    writer.writerow(field.name for field in fields(Sentence))
    writer.writerows(astuple(sentence) for sentence in sentences)
    return write_aside(path, text.getvalue())


def read_table(path: Path) -> list[Sentence]:
    """Sentences of a table that `write_table` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Sentence(**{**row, "rate": float(row["rate"]), "pitch": float(row["pitch"])})
            for row in csv.DictReader(file, dialect="excel-tab")
        ]


def audio_of(folder: Path, sentence: Sentence) -> Path:
    """Where the sentence's audio lies in the corpus `folder`."""
    return folder / "audio" / sentence.split / f"{sentence.utt_id}.opus"


def speak(sentence: Sentence, path: Path) -> None:
    """The sentence as Opus, mono, 16 kHz.

    Arguments
    ---------
    sentence : Sentence
        What to say and how.
    path : Path
        `.opus` file to write.
    """
    synthesizer, voice = sentence.voice.split("_", 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        raw, wav, opus = (str(Path(folder, name)) for name in ("raw.wav", "16k.wav", "out.opus"))
        # flite's and festival's pitch is raised by playing faster, after stretching by as much
        speed = 1.0 if synthesizer == "espeak" else 2 ** (sentence.pitch / 12)
        stretch = speed / sentence.rate
        if synthesizer == "espeak":
            wpm, pitch = str(round(165 * sentence.rate)), str(round(50 + 8 * sentence.pitch))
            _run(["espeak-ng", "-v", voice, "-s", wpm, "-p", pitch, "-w", raw, sentence.text])
        elif synthesizer == "flite":
            command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.4f}"]
            _run([*command, "-t", sentence.text, "-o", raw])
        else:
            scheme = f"(begin (voice_{voice}_diphone) (Parameter.set 'Duration_Stretch {stretch:.4f}))"
            _run(["text2wave", "-eval", scheme, "-o", raw], said=sentence.text)
        _run(["sox", "-D", raw, "-c", "1", "-b", "16", wav, "speed", f"{speed:.5f}", "rate", "16k", "gain", "-n", "-3"])
        encode = ["opusenc", "--quiet", "--bitrate", str(KBIT_S), "--speech", "--padding", "0", "--serial", "1"]
        _run([*encode, wav, opus])
        write_aside(path, Path(opus).read_bytes())


def _run(command: list[str], *, said: str | None = None) -> None:
    done = subprocess.run(command, input=said or "", capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise ValueError(f"{command[0]} failed: {done.stderr.strip()[-300:]} ({' '.join(command)})")


def _require(programs: dict[str, str]) -> None:
    missing = sorted(package for program, package in programs.items() if shutil.which(program) is None)
    if missing:
        raise FileNotFoundError(f"expected programs that are not installed: apt install {' '.join(missing)}")


def main() -> None:
    """Command line: the table, then the audio."""
    parser = argparse.ArgumentParser(description="Make the embedded corpus.")
    parser.add_argument("output", type=Path, help="folder of the corpus")
    parser.add_argument("--text-only", action="store_true", help=f"only {TABLE}, without synthesizers")
    parser.add_argument("--more", type=int, metavar="N", help="N further training sentences, nothing else")
    arguments = parser.parse_args()
    verses = read_verses()
    sentences = more_sentences(verses, arguments.more) if arguments.more else choose_sentences(verses)
    if not arguments.text_only:
        _require(PROGRAMS)
    print(write_table(arguments.output / TABLE, sentences))
    if arguments.text_only:
        return
    from tqdm import tqdm

    for sentence in tqdm(sentences, desc="speaking", unit="utt", dynamic_ncols=True):
        audio = audio_of(arguments.output, sentence)
        if not (arguments.more and audio.exists()):  # hours of speech go on where they were stopped
            speak(sentence, audio)


if __name__ == "__main__":
    try:
        main()
    except (FileNotFoundError, ValueError) as err:
        sys.exit(f"make.py: error: {err}")
