"""Transcribe recordings that have no transcripts with another recogniser, and keep those it is sure of, to train on.

    python recipes/Custom/label.py openai/whisper-base RECORDINGS LABELLED [--surest -0.2] [--without TEST.csv ...]

RECORDINGS is a folder of audio (or a text file, a path a line); LABELLED gets `train.csv` for `also_custom_folder` (or
`data_folder` with `corpus: Custom`), `labels.jsonl` with every transcript, and `left_out.txt`, which says why what was
left out was. Any checkpoint of transformers with an encoder and a decoder does: greedy, and as sure as the mean
log-prob of its tokens; which bound is right differs from one to the next (transcribe speech whose words you know).
A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from eeasr_modules.common.files import write_aside
from eeasr_modules.compat import ensure_torchaudio, wait_passively

wait_passively()  # before torch is loaded

from eeasr_modules.data.audio import read_audio  # noqa: E402
from eeasr_modules.data.manifest import read_manifest  # noqa: E402
from eeasr_modules.data.text import normalise_english  # noqa: E402

ensure_torchaudio()

ENDINGS = (".wav", ".flac", ".opus", ".ogg", ".mp3")
RATE = 16000  # Hz
CHARACTERS_PER_S = (3.0, 25.0)  # of speech; outside, something was repeated or not heard
LONGEST_S = 30.0
PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")  # of Whisper


def why_left_out(text: str, *, seconds: float, sure: float, surest: float, without: set[str]) -> str | None:
    """Why a transcript is not trained on; None where it is.

    Arguments
    ---------
    text : str
        As the recogniser wrote it.
    seconds : float
        Of the recording.
    sure : float
        Mean log-prob of its tokens, nats.
    surest : float
        Least `sure`.
    without : set of str
        Normalised texts (of test sets) that may not be trained on.

    Example
    -------
    >>> why_left_out("Hello there.", seconds=1.0, sure=-0.1, surest=-0.2, without=set())
    >>> why_left_out("Hello there.", seconds=9.0, sure=-0.1, surest=-0.2, without=set())
    'too few or too many characters a second'
    >>> why_left_out("It was, it was, it was, so.", seconds=2.0, sure=-0.1, surest=-0.2, without=set())
    'words repeated'
    """
    if sure < surest:
        return "not sure"
    normalised = normalise_english(text)
    if not normalised:
        return "digits, other scripts or nothing"
    if normalised in without:
        return "text of a test set"
    if not CHARACTERS_PER_S[0] <= len(normalised) / seconds <= CHARACTERS_PER_S[1]:
        return "too few or too many characters a second"
    words = normalised.split()
    for n in (2, 3, 4):
        if any(words[i : i + n] == words[i + n : i + 2 * n] for i in range(len(words) - 2 * n + 1)):
            return "words repeated"
    return None


def recordings(where: Path) -> list[str]:
    """Paths of a folder's audio, or of a text file's lines; ValueError if there are none."""
    if where.is_dir():
        found = sorted(str(path) for path in where.rglob("*") if path.suffix.lower() in ENDINGS)
    else:
        found = [line.strip() for line in where.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not found:
        raise ValueError(f"expected recordings ({', '.join(ENDINGS)}) in '{where}', found none")
    return found


class Recogniser:
    """A checkpoint with encoder and decoder, decoding greedily.

    Arguments
    ---------
    checkpoint : str
        Hub id or local folder.
    """

    def __init__(self, checkpoint: str):
        from transformers import AutoFeatureExtractor, AutoModelForSpeechSeq2Seq, AutoTokenizer

        self.model = AutoModelForSpeechSeq2Seq.from_pretrained(checkpoint).eval()
        self.extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.is_whisper = self.model.config.model_type == "whisper"  # its encoder takes 30 s, silence included
        self.prompt = []
        if self.is_whisper:
            known = self.tokenizer.get_vocab()
            self.prompt = [known[token] for token in PROMPT if token in known]

    def __call__(self, wavs: Sequence) -> list[tuple[str, float]]:
        """Transcript and mean log-prob of its tokens, for each waveform (samples,)."""
        import torch

        padding = "max_length" if self.is_whisper else True
        inputs = self.extractor([wav.numpy() for wav in wavs], sampling_rate=RATE, return_tensors="pt", padding=padding)
        if self.prompt:
            inputs["decoder_input_ids"] = torch.tensor([self.prompt] * len(wavs))
        most = 8 + int(8 * max(len(wav) for wav in wavs) / RATE)  # tokens
        with torch.no_grad():
            made = self.model.generate(**inputs, max_new_tokens=most, return_dict_in_generate=True, output_scores=True)
        scores = self.model.compute_transition_scores(made.sequences, made.scores, normalize_logits=True)
        tokens = made.sequences[:, -scores.shape[1] :]
        real = (tokens != self.model.generation_config.pad_token_id) | (
            (tokens == self.model.generation_config.eos_token_id).cumsum(dim=1) == 1
        )
        real &= torch.isfinite(scores)
        means = (scores.where(real, 0.0).sum(dim=1) / real.sum(dim=1).clamp(min=1)).tolist()
        return list(zip(self.tokenizer.batch_decode(made.sequences, skip_special_tokens=True), means, strict=True))


def labels(paths: list[str], recogniser: Recogniser, notes: Path, *, batch: int) -> Iterator[dict]:
    """What is in `notes` already, then what is transcribed now, which is added to it."""
    import torch
    from tqdm import tqdm

    done = {}
    if notes.is_file():
        done = {one["wav"]: one for one in map(json.loads, notes.read_text(encoding="utf-8").splitlines())}
    yield from done.values()
    waiting = [path for path in paths if path not in done]
    waiting.sort(key=os.path.getsize)  # similar lengths together
    with open(notes, "a", encoding="utf-8") as file, tqdm(total=len(waiting), desc="labelling", disable=None) as bar:
        for start in range(0, len(waiting), batch):
            chosen = []
            for path in waiting[start : start + batch]:
                try:
                    chosen.append((path, read_audio(path, sample_rate=RATE)))
                except (OSError, ValueError) as err:
                    print(f"left out: {path}: {err}", file=sys.stderr)
            chosen = [(path, wav) for path, wav in chosen if 0 < len(wav) <= LONGEST_S * RATE]
            torch.manual_seed(0)
            for (path, wav), (text, sure) in zip(chosen, recogniser([w for _, w in chosen]) if chosen else []):
                one = {"wav": path, "text": text.strip(), "sure": round(sure, 4), "seconds": len(wav) / RATE}
                file.write(json.dumps(one) + "\n")
                yield one
            file.flush()
            bar.update(batch)


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 2 after one sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="hub id or folder of a model with encoder and decoder")
    parser.add_argument("recordings", type=Path, help="folder of audio, or a text file with a path a line")
    parser.add_argument("folder", type=Path, help="where train.csv goes")
    parser.add_argument("--surest", type=float, default=-0.2, help="least mean log-prob of the tokens, nats")
    parser.add_argument(
        "--without", type=Path, nargs="*", default=[], help="manifests whose texts may not be trained on"
    )
    parser.add_argument("--batch", type=int, default=16, help="recordings transcribed together")
    options = parser.parse_args(argv)
    try:
        paths = recordings(options.recordings)
        without = {row.text for manifest in options.without for row in read_manifest(manifest)}
        options.folder.mkdir(parents=True, exist_ok=True)
        found = list(
            labels(paths, Recogniser(options.checkpoint), options.folder / "labels.jsonl", batch=options.batch)
        )
    except (OSError, ValueError) as err:
        print(f"label.py: error: {err}", file=sys.stderr)
        return 2
    kept, reasons = [], []
    for one in found:
        arguments = {"seconds": one["seconds"], "sure": one["sure"], "surest": options.surest, "without": without}
        reason = why_left_out(one["text"], **arguments)
        (kept if reason is None else reasons).append(one if reason is None else (reason, one["wav"]))
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["id", "wav", "wrd"])
    rows.writerows([re.sub(r"\W+", "_", one["wav"]), os.path.abspath(one["wav"]), one["text"]] for one in kept)
    write_aside(options.folder / "train.csv", text.getvalue())
    lines = "".join(f"{reason}\t{wav}\n" for reason, wav in sorted(reasons))
    (options.folder / "left_out.txt").write_text(lines, encoding="utf-8")
    hours = sum(one["seconds"] for one in kept) / 3600
    print(f"{options.folder / 'train.csv'}: {len(kept)} of {len(found)} recordings, {hours:.2f} hours")
    for reason, count in Counter(reason for reason, _ in reasons).most_common():
        print(f"  left out: {count}, {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
