"""Text of references and hypotheses: normalisers, vocabularies.

Plain Python (SentencePiece is imported where it is used), so that the runtime can read a vocabulary without
torch or SpeechBrain. Every vocabulary has the same interface: `encode`, `decode`, `save`, `len`,
`blank_index`; token 0 is the CTC blank unless a checkpoint says otherwise.
"""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from eeasr_modules.common.files import write_aside
from eeasr_modules.common.normalise import APOSTROPHES, normalise_whisper, say_numbers, separated, upper_case

BLANK = "<blank>"
ENGLISH_CHARACTERS = (BLANK, " ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "'")
VOCABULARY_FILE = "vocab.json"
SENTENCEPIECE_FILE = "spm.model"
WORD_START = "\u2581"  # how SentencePiece marks the first piece of a word

_NO_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_LANGUAGE_TAG = re.compile(r"(<[a-z][a-z0-9_-]*>) ")
# Words that English really begins with an apostrophe; elsewhere a leading one is a quotation mark.
_CLIPPED = {"'TIS", "'TWAS", "'EM", "'CAUSE", "'BOUT", "'TIL", "'N", "'ROUND"}


def normalise_english(text: str, *, unreadable: str = "drop") -> str | None:
    """Upper-case letters, apostrophes and single spaces, as in LibriSpeech.

    Accents fall off Latin letters, hyphens and dashes become spaces, quotation marks and other punctuation
    go, curly apostrophes become straight. Digits, symbols that are read aloud (`%`, `&`, ...) and other
    scripts have no spelling here.

    Returns str or None: possibly empty (nothing but punctuation); None when dropped. `unreadable`: what to do with text
    that has no spelling here: "drop" gives None, "remove" puts spaces in place of those characters, "raise" is a
    ValueError that names the character.

    Example
    -------
    >>> normalise_english("The “black-veiled” café isn’t Elsa's, 'tis said.")
    "THE BLACK VEILED CAFE ISN'T ELSA'S 'TIS SAID"
    >>> normalise_english("Room 12") is None
    True
    >>> normalise_english("Room 12", unreadable="remove")
    'ROOM'
    """
    text = unicodedata.normalize("NFKD", separated(text.translate(APOSTROPHES)))
    kept = _readable(text.upper(), unreadable, text, language="English ", is_letter=lambda one, _: "A" <= one <= "Z")
    return None if kept is None else " ".join(filter(None, map(_true_apostrophes, kept.split())))


def _readable(
    text: str, unreadable: str, said: str, *, language: str, is_letter: Callable[[str, str], bool]
) -> str | None:
    """Letters (by character and Unicode category), apostrophes and spaces of a text; see `normalise_english`."""
    if unreadable not in ("drop", "remove", "raise"):
        raise ValueError(f"unreadable must be drop, remove or raise, got {unreadable!r}")
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if is_letter(character, category) or character == "'":
            kept.append(character)
        elif category[0] == "Z" or character.isspace():
            kept.append(" ")
        elif category[0] in "LNS" or character in "%&@#*":
            if unreadable == "raise":
                raise ValueError(f"no {language}spelling for {character!r} in {said!r}: write it out or drop it")
            if unreadable == "drop":
                return None
            kept.append(" ")
    return "".join(kept)


def plain_words(text: str) -> str:
    """What a recogniser that writes case, punctuation and digits says, in the form of `normalise_english`.

    Numbers are spelled out (`say_numbers`); other symbols have no spelling and are left out.

    Example
    -------
    >>> plain_words("Well, it's 5 o'clock.")
    "WELL IT'S FIVE O'CLOCK"
    """
    return normalise_english(say_numbers(text), unreadable="remove")


def _true_apostrophes(word: str) -> str:
    """The word without apostrophes that are quotation marks."""
    if word in _CLIPPED:
        return word
    quoted = word.startswith("'")
    word = word.lstrip("'")
    possessive = word.endswith(("S'", "N'")) and not quoted  # the dogs', nothin'
    return word.rstrip("'") + ("'" if possessive else "")


def normalise_an4(line: str) -> str:
    """Sentence of a line of an AN4 `.transcription` file, upper-case, without `<s>`, `</s>` and `(utt-id)`.

    Example
    -------
    >>> normalise_an4("<s> RUBOUT G M E F </s> (an406-fcaw-b)")
    'RUBOUT G M E F'
    """
    line = re.sub(r"\([^()]*\)\s*$", "", line)
    return normalise_english(re.sub(r"</?s>", " ", line, flags=re.IGNORECASE), unreadable="raise")


def normalise_letters(text: str, *, unreadable: str = "drop") -> str | None:
    """Upper-case letters of any script, apostrophes and single spaces: the rule for languages other than English.

    `unreadable` and what comes back are as in `normalise_english`.

    As `normalise_english`, but accents and other scripts stay (composed, NFC) with the marks that belong to them;
    upper case is Unicode's (see `upper_case`), which writes ß as SS and Turkish ı as I. Digits and symbols have no
    spelling here.

    Example
    -------
    >>> normalise_letters("„Où est l’été?“")
    "OÙ EST L'ÉTÉ"
    >>> normalise_letters("Zimmer 12") is None
    True
    """
    letters = upper_case(separated(text.translate(APOSTROPHES)))
    kept = _readable(letters, unreadable, text, language="", is_letter=lambda _, category: category[0] in "LM")
    return None if kept is None else " ".join(filter(None, (word.strip("'") for word in kept.split())))


def normalise_ml_superb(text: str) -> str:
    """ML-SUPERB's own rule, composed: upper case, without ASCII punctuation; digits and all scripts stay.

    Example
    -------
    >>> normalise_ml_superb("Ja, das ist 1 Straße!")
    'JA DAS IST 1 STRASSE'
    """
    return " ".join(upper_case(text.translate(_NO_ASCII_PUNCTUATION)).split())


def split_language(text: str) -> tuple[str, str]:
    """A language tag that a text begins with, and the text; the tag is "" where there is none.

    Example
    -------
    >>> split_language("<eng> HELLO"), split_language("HELLO")
    (('<eng>', 'HELLO'), ('', 'HELLO'))
    """
    found = _LANGUAGE_TAG.match(text)
    return (found[1], text[found.end() :]) if found else ("", text)


NORMALISERS: dict[str, Callable[[str], str | None]] = {
    "english": normalise_english,
    "letters": normalise_letters,
    "an4": normalise_an4,
    "ml_superb": normalise_ml_superb,
    "whisper": normalise_whisper,
}


class CharVocabulary:
    """Tokens of one character each, plus specials written `<...>`.

    `tokens`: in the order of their ids. The blank is `<blank>`, or `<pad>` in a `...ForCTC` checkpoint's vocabulary;
    the space between words is " ", or "|" in such a checkpoint. Where tokens begin with `▁` they are phones or other
    units that texts write apart (`m e iː`).

    Example
    -------
    >>> vocabulary = CharVocabulary()
    >>> vocabulary.encode("YES"), vocabulary.decode([26, 6, 20]), len(vocabulary)
    ([26, 6, 20], 'YES', 29)
    """

    def __init__(self, tokens: Sequence[str] = ENGLISH_CHARACTERS) -> None:
        self.tokens = tuple(tokens)
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            twice = sorted({token for token in self.tokens if self.tokens.count(token) > 1})
            raise ValueError(f"the tokens of a vocabulary must be unique, got {', '.join(twice[:10])} twice")
        blank = next((token for token in (BLANK, "<pad>") if token in self._ids), None)
        if blank is None:
            raise ValueError(f"a CTC vocabulary needs a token {BLANK} or <pad>, got {list(self.tokens)[:10]}")
        self.blank_index = self._ids[blank]
        self._space = "|" if "|" in self._ids else " "
        self._apart = any(token.startswith(WORD_START) for token in self.tokens)
        self._shown = self.spellings

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Ids of the characters of `text`; ValueError names a character that the vocabulary lacks.

        A language tag that the text begins with (`<eng> `) is one token, where the vocabulary has it.
        """
        tag, rest = split_language(text)
        if tag in self._ids:
            return [self._ids[tag], *self.encode(rest)]
        try:
            return [self._ids[unit] for unit in self._units(text)]
        except KeyError as error:
            kind = "unit" if self._apart else "character"
            raise ValueError(
                f"the vocabulary has no {kind} {error.args[0].lstrip(WORD_START)!r}, which is in {text!r}: "
                "normalise it first"
            ) from error

    def lacking(self, text: str) -> set[str]:
        """Characters (or phones) of a text without language tag that `encode` has no id for."""
        return {unit.lstrip(WORD_START) if self._apart else unit for unit in self._units(text) if unit not in self._ids}

    def _units(self, text: str) -> list[str]:
        if self._apart:
            return [f"{WORD_START}{unit}" for unit in text.split()]
        return [self._space if character == " " else character for character in text]

    @property
    def spellings(self) -> tuple[str, ...]:
        """What each token adds to a transcript: its character, " " for the space, "" for specials."""
        shown = ("" if _is_special(token) else token for token in self.tokens)
        return tuple(" " if token == self._space else token.replace(WORD_START, " ") for token in shown)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of collapsed ids (repeats merged, blanks removed): specials left out, words apart by one space."""
        text = "".join(self._shown[index] for index in ids)
        return " ".join(text.split())

    def save(self, folder: Path | str) -> Path:
        """Write `vocab.json` ({token: id}, as Hugging Face has it) into `folder`."""
        path = Path(folder) / VOCABULARY_FILE
        write_aside(path, json.dumps(self._ids, ensure_ascii=False, indent=1).encode("utf-8"))
        return path


class SentencePieceVocabulary:
    """Subwords of a SentencePiece model whose piece 0 (unknown) serves as the CTC blank.

    `model`: what `train_sentencepiece` gave, the content of `spm.model`.
    """

    blank_index = 0

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self._model = model
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.tokens = tuple(self._pieces.id_to_piece(index) for index in range(len(self)))
        if self._pieces.unk_id() != self.blank_index:
            raise ValueError(f"the unknown piece must have id 0 (the CTC blank), got {self._pieces.unk_id()}")

    def __len__(self) -> int:
        return self._pieces.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """Ids of the pieces of `text`; ValueError names a stretch that the pieces cannot spell."""
        ids = self._pieces.encode(text)
        if self.blank_index in ids:
            unknown = self._pieces.encode(text, out_type=str)[ids.index(self.blank_index)]
            raise ValueError(f"the vocabulary cannot spell {unknown!r}, needed by {text!r}: normalise the text first")
        return ids

    @property
    def spellings(self) -> tuple[str, ...]:
        """What each piece adds to a transcript, with a space where it begins a word; "" for the blank."""
        shown = (piece.replace(WORD_START, " ") for piece in self.tokens)
        return tuple("" if index == self.blank_index else text for index, text in enumerate(shown))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of collapsed ids (repeats merged, blanks removed), blanks left out."""
        kept = [int(index) for index in ids if index != self.blank_index]
        return " ".join(self._pieces.decode(kept).split())

    def save(self, folder: Path | str) -> Path:
        """Write `spm.model` into `folder`."""
        path = Path(folder) / SENTENCEPIECE_FILE
        write_aside(path, self._model)
        return path


def train_sentencepiece(
    texts: Iterable[str], folder: Path | str, *, size: int, model_type: str = "unigram"
) -> SentencePieceVocabulary:
    """Subword vocabulary trained on sentences (of the training set only), saved as `spm.model` in `folder`.

    ValueError when the texts cannot give `size` tokens. `folder`: where the model goes; made when absent.
    """
    import io

    import sentencepiece

    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=written,
            vocab_size=size,
            model_type=model_type,
            character_coverage=1.0,
            normalization_rule_name="identity",
            unk_id=0,
            unk_piece=BLANK,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"SentencePiece cannot make {size} {model_type} tokens of these texts: {reason}") from error
    vocabulary = SentencePieceVocabulary(written.getvalue())
    vocabulary.save(folder)
    return vocabulary


def load_vocabulary(folder: Path | str) -> CharVocabulary | SentencePieceVocabulary:
    """Vocabulary of a model folder: `spm.model` if there, else `vocab.json`; FileNotFoundError without."""
    folder = Path(folder)
    if (folder / SENTENCEPIECE_FILE).is_file():
        return SentencePieceVocabulary((folder / SENTENCEPIECE_FILE).read_bytes())
    if not (folder / VOCABULARY_FILE).is_file():
        raise FileNotFoundError(f"expected {VOCABULARY_FILE} or {SENTENCEPIECE_FILE} in {folder}, found neither")
    ids = json.loads((folder / VOCABULARY_FILE).read_text(encoding="utf-8"))
    if not isinstance(ids, dict) or sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(f"{folder / VOCABULARY_FILE} must map each token to an id from 0 without gaps")
    return CharVocabulary(sorted(ids, key=ids.get))


def _is_special(token: str) -> bool:
    return len(token) > 1 and token.startswith("<") and token.endswith(">")
