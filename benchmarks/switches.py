"""What the switches of the runtime cost and save: front end and precision, at the same policy.

    python benchmarks/switches.py [MODEL] [--audio MANIFEST] [--repeats 5] [--utterances 20] [--out results/switches]

MODEL (default: the shipped one) transcribes the manifest (default: the embedded corpus' test split), one recording at a
time, one thread; processor time, medians of interleaved repeats. Then a base-shaped wav2vec 2.0 of random weights, all
layers, for time alone.
"""

# ruff: noqa: E402 (torchaudio is mended before it is imported)
import argparse
import statistics
import tempfile
import time
from pathlib import Path

from eeasr_modules.compat import ensure_torchaudio

ensure_torchaudio()

import torch

from eeasr_modules.data.audio import read_audio
from eeasr_modules.data.manifest import audio_path, read_description, read_manifest
from eeasr_modules.exits.measure.edits import count_edits
from eeasr_modules.runtime import EarlyExitASR

WAYS = [("stock", "float32"), ("fast", "float32"), ("fast", "bfloat16"), ("fast", "int8")]


def measure(model: str, wavs: list, references: list[str] | None, *, repeats: int, utterances: int) -> list[str]:
    """Rows of the table for one model."""
    recognisers = [EarlyExitASR.from_pretrained(model, front_end=f, precision=p, device="cpu") for f, p in WAYS]
    texts = [[one.text for one in asr.transcribe(wavs)] for asr in recognisers]
    seconds = [[] for _ in WAYS]
    for _ in range(repeats):
        for way, asr in enumerate(recognisers):
            start = time.process_time()
            for wav in wavs[:utterances]:
                asr.transcribe(wav)
            seconds[way].append(time.process_time() - start)
    medians = [statistics.median(each) for each in seconds]
    rows = []
    for way, (front_end, precision) in enumerate(WAYS):
        unlike = sum(a != b for a, b in zip(texts[0], texts[way], strict=True))
        wer = ""
        if references is not None:
            errors = sum(sum(count_edits(r, h)) for r, h in zip(references, texts[way], strict=True))
            wer = f"{100 * errors / sum(len(r.split()) for r in references):.2f}"
        spread = f"{medians[0] / max(seconds[way]):.2f} to {medians[0] / min(seconds[way]):.2f}"
        ratio = f"{medians[0] / medians[way]:.2f}"
        rows.append(f"| {front_end} | {precision} | {wer} | {unlike} of {len(wavs)} | {ratio} | {spread} |")
    return rows


def base_shaped(folder: Path) -> str:
    """A wav2vec 2.0 CTC checkpoint of the base shape with random weights, in `folder`."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC

    torch.manual_seed(0)
    Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=32)).save_pretrained(folder)
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
    vocabulary = folder / "vocab.json"
    vocabulary.write_text("{" + ", ".join(f'"{letter}": {i}' for i, letter in enumerate(letters)) + "}")
    Wav2Vec2CTCTokenizer(str(vocabulary)).save_pretrained(folder)
    return str(folder)


def main() -> None:
    """Measure and write `README.md` into the output folder."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(root / "eeasr_modules/shipped/base"))
    parser.add_argument("--audio", help="manifest with texts (default: the embedded corpus)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--utterances", type=int, default=20, help="timed ones")
    parser.add_argument("--out", type=Path, default=root / "results" / "switches")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        manifest = options.audio
        if manifest is None:
            from recipes.Spoken.prepare import prepare

            manifest = prepare(root / "recipes/Spoken/corpus", folder, splits=["test"])["test"]
        data = read_description(manifest)["data_folder"]
        rows = read_manifest(manifest)
        wavs = [read_audio(audio_path(row.wav, data)).numpy() for row in rows]
        head = "| front end | precision | WER (%) | transcripts unlike the first row's | times as fast | spread |"
        head += "\n|---|---|---:|---:|---:|---:|"
        measured = measure(
            options.model, wavs, [r.text for r in rows], repeats=options.repeats, utterances=options.utterances
        )
        base = measure(base_shaped(Path(folder) / "base"), wavs[:4], None, repeats=options.repeats, utterances=4)
    text = "\n".join(
        [
            "# Switches of the runtime\n",
            f"{Path(options.model).name} at its policy, {len(wavs)} recordings of {Path(manifest).stem}:\n",
            head,
            *measured,
            "\nwav2vec 2.0 of the base shape, random weights, all layers, 4 recordings (its transcripts are noise,"
            " which changes at a touch):\n",
            head,
            *base,
            "\nOne thread, one recording at a time, processor time, medians of interleaved repeats. Made by\n",
            "    python benchmarks/switches.py\n",
        ]
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
