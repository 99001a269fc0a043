"""The checkpoint's own decoder behind the exits, against Whisper as people run it: words and processor seconds.

    python benchmarks/own_decoder.py RUN/model MANIFEST.csv... --whisper openai/whisper-base --faster_whisper FOLDER \
        [--dev_table RUN/tables/mixed_dev.parquet] [--first eeasr_modules/shipped/base] [--dev MANIFEST.csv]
    python benchmarks/own_decoder.py RUN/model MANIFEST.csv... --draft_floors 0.3 0.7    draft and verify alone
    python benchmarks/own_decoder.py --write                     the page again, from what was saved

Every utterance goes through all ways, one after another, the order turned by one from utterance to utterance; one
thread; files are decoded before. Ways: the model at its last exit (true length, exits off), with each policy, at its
last CTC exit; Whisper in transformers, padded to 30 s; faster-whisper (FOLDER: the same weights converted by
`ct2-transformers-converter`) in float32 and int8; all greedy, in English, without timestamps. `--dev_table` adds the
policy of `RULES` that leaves earliest on dev with a WER of at most 0.3 points above the last exit's. `--first` adds a
cascade of two models: that one's words where the mean confidence of its words is above a threshold, else the last
exit's; the threshold is the lowest that costs at most 0.3 points of WER on the `--dev` utterances. `--draft_floors`
times the decoder with the last CTC exit's transcript as its draft against the decoder alone, and adds that to what is
saved.
Saves `results/own_decoder/own_decoder.json` and writes its README.md.
"""

# ruff: noqa: E402 (threads are told how to wait before torch is loaded)

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eeasr_modules.compat import ensure_torchaudio, wait_passively

wait_passively()
ensure_torchaudio()

import numpy as np
import torch
from tqdm import tqdm

from eeasr_modules.common.files import write_aside
from eeasr_modules.common.normalise import normalise_whisper
from eeasr_modules.data.pipeline import AudioCache, manifest_items
from eeasr_modules.data.text import plain_words
from eeasr_modules.exits import choose, parse_policy, read_table, replay
from eeasr_modules.exits.measure.bootstrap import bootstrap_difference
from eeasr_modules.exits.measure.edits import count_edits
from eeasr_modules.models.encoders.own_decoder import WHISPER_BEGINS
from eeasr_modules.report.render.markdown import markdown_table
from eeasr_modules.runtime.recogniser import EarlyExitASR

FOLDER = ROOT / "results" / "own_decoder"
RATE = 16000  # Hz
NORMALISERS = {"plain": plain_words, "whisper": normalise_whisper}
EXITS_OFF, CASCADE = "own decoder, exits off", "cascade"
FIRST = "first model"
WHISPER, FASTER = "Whisper, transformers", "faster-whisper float32"
RULES = ("margin", "confidence", "entropy", "max_entropy", "patience(1)", "between(margin)", "between(confidence)")
NEAR = 0.3  # WER points that a threshold may cost on dev
Way = Callable[[torch.Tensor], tuple[str, float]]  # from a waveform to words and how sure it is


def early_exit(asr: EarlyExitASR) -> Way:
    """A model with a policy; sure is the mean confidence of its words."""

    def way(wav: torch.Tensor) -> tuple[str, float]:
        found = asr.transcribe(wav.numpy())
        return found.text, float(np.mean([word.confidence for word in found.words] or [0.0]))

    return way


def drafted(model: str, layer: int, floor: float, counts: list[int]) -> Way:
    """The decoder that checks the last CTC exit's transcript; adds tokens drafted and accepted to `counts`."""
    asr = EarlyExitASR.from_pretrained(model, policy=f"static({layer})")
    own = asr.engine.own
    own.draft, own.floor, decode = True, floor, own.decode

    def counted(*arguments, **named):
        said = decode(*arguments, **named)
        counts[0] += said.n_drafted
        counts[1] += said.n_accepted
        return said

    own.decode = counted
    return early_exit(asr)


def measured_drafts(options: argparse.Namespace) -> dict:
    """What drafts win and cost on each manifest: WER (plain), seconds over the decoder's alone, share accepted."""
    last = json.loads((Path(options.model) / "config.json").read_text(encoding="utf-8"))["own_decoder"]["exit_layer"]
    counts = {floor: [0, 0] for floor in options.draft_floors}
    ways = {EXITS_OFF: early_exit(EarlyExitASR.from_pretrained(options.model, policy=f"static({last})"))}
    ways |= {f"draft, floor {floor}": drafted(options.model, last, floor, counts[floor]) for floor in counts}
    found = {"command": command(), "date": date.today().isoformat(), "sets": {}}
    for manifest in options.manifests:
        rows = measure(ways, manifest_items([manifest], limit=options.limit), title=manifest.stem)
        made, alone = summary(rows), sum(row["ways"][EXITS_OFF]["s"] for row in rows)
        found["sets"][manifest.stem] = {"n": len(rows), "ways": {}}
        for way, one in made.items():
            found["sets"][manifest.stem]["ways"][way] = {"wer_plain": one["wer_plain"], "ratio": one["s"] / alone}
        for floor, (n_drafted, n_accepted) in counts.items():
            one = found["sets"][manifest.stem]["ways"][f"draft, floor {floor}"]
            one["accepted"] = n_accepted / max(1, n_drafted)
            counts[floor][:] = 0, 0
    return found


def transformers_whisper(checkpoint: str) -> Way:
    """Whisper as transformers runs it: 30 s whatever the length."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

    model = WhisperForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    tokenizer = WhisperTokenizerFast.from_pretrained(checkpoint)
    prompt = torch.tensor([tokenizer.convert_tokens_to_ids([*WHISPER_BEGINS])])
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")  # a checkpoint saved by hand may number it otherwise
    most = model.config.max_target_positions
    model.generation_config.update(
        eos_token_id=end, pad_token_id=end, begin_suppress_tokens=[220, end], max_length=most
    )

    @torch.inference_mode()
    def way(wav: torch.Tensor) -> tuple[str, float]:
        features = extractor(wav.numpy(), sampling_rate=RATE, return_tensors="pt").input_features
        tokens = model.generate(features, decoder_input_ids=prompt, num_beams=1, do_sample=False)
        return tokenizer.decode(tokens[0], skip_special_tokens=True), 0.0

    return way


def faster_whisper(folder: str, compute_type: str) -> Way:
    """CTranslate2's Whisper, one thread."""
    from faster_whisper import WhisperModel

    model = WhisperModel(folder, device="cpu", compute_type=compute_type, cpu_threads=1, num_workers=1)
    options = {"language": "en", "task": "transcribe", "beam_size": 1, "temperature": 0.0}
    options |= {"without_timestamps": True, "condition_on_previous_text": False}

    def way(wav: torch.Tensor) -> tuple[str, float]:
        segments, _ = model.transcribe(wav.numpy(), **options)
        return " ".join(segment.text.strip() for segment in segments), 0.0

    return way


def ways_of(options: argparse.Namespace) -> dict[str, Way]:
    """All that is timed, by name."""
    config = json.loads((Path(options.model) / "config.json").read_text(encoding="utf-8"))
    if config.get("own_decoder") is None:
        raise SystemExit(f"expected a model with decoder: own, '{options.model}' has none")
    last_ctc, last = config["exit_layers"][-1], config["own_decoder"]["exit_layer"]
    policies = {EXITS_OFF: f"static({last})", "last CTC exit": f"static({last_ctc})"}
    ways = {}
    for name, text in (policies | {f"`{text}`": text for text in options.policies}).items():
        ways[name] = early_exit(EarlyExitASR.from_pretrained(options.model, policy=text))
    if options.whisper:
        ways[WHISPER] = transformers_whisper(options.whisper)
    if options.faster_whisper:
        ways[FASTER] = faster_whisper(options.faster_whisper, "float32")
        ways["faster-whisper int8"] = faster_whisper(options.faster_whisper, "int8")
    if options.first:
        layer = json.loads((Path(options.first) / "config.json").read_text(encoding="utf-8"))["exit_layers"][-1]
        ways[FIRST] = early_exit(EarlyExitASR.from_pretrained(options.first, policy=f"static({layer})"))
    return ways


def nearly_last(path: Path) -> str:
    """The policy of `RULES` that leaves earliest on a dev table at a WER of at most `NEAR` above the last exit's."""
    table = read_table(path)
    rows, found = np.arange(table.n_utterances), []
    for rule in RULES:
        for budget in np.arange(0.5, 1.0, 0.01):
            try:
                policy = choose(table, parse_policy(rule), budget=float(budget)).policy
            except ValueError:  # below what the first exit costs
                continue
            exits = replay(policy, table)
            wer = 100 * table.errors[rows, exits].sum() / table.n_ref_words.sum()
            if wer <= table.wer_per_exit[-1] + NEAR:
                found.append((float(np.average(table.exit_layers[exits], weights=table.duration_s)), str(policy)))
    return min(found)[1] if found else f"static({table.exit_layers[-1]})"


def measure(ways: dict[str, Way], items: dict[str, dict], *, title: str) -> list[dict]:
    """A row per utterance: words, seconds and errors of each way."""
    read, names, rows = AudioCache(2000, sample_rate=RATE), list(ways), []
    wavs = [read(item["wav"]) for item in items.values()]
    for way in ways.values():
        way(wavs[0])  # warm
    for number, (item, wav) in enumerate(tqdm(list(zip(items.values(), wavs, strict=True)), desc=title)):
        row = {"speaker": item["speaker"], "audio_s": item["duration"], "ways": {}}
        references = {"plain": item["words"], "whisper": normalise_whisper(item["words"])}
        row |= {f"n_{kind}": len(reference.split()) for kind, reference in references.items()}
        for at in range(len(names)):
            name = names[(number + at) % len(names)]
            start = time.process_time()
            text, sure = ways[name](wav)
            found = {"s": time.process_time() - start, "sure": round(sure, 4)}
            for kind, reference in references.items():
                found[kind] = int(sum(count_edits(reference, NORMALISERS[kind](text))))
            row["ways"][name] = found
        rows.append(row)
    return rows


def with_cascade(rows: list[dict], threshold: float) -> list[dict]:
    """Rows with one more way: the first model's words where it is sure, else the last exit's; both are charged."""
    for row in rows:
        first, second = row["ways"][FIRST], row["ways"][EXITS_OFF]
        sure = first["sure"] >= threshold
        taken = first if sure else second
        row["ways"][CASCADE] = {**taken, "s": first["s"] + (0.0 if sure else second["s"])}
    return rows


def cascade_threshold(rows: list[dict]) -> float:
    """The lowest that costs at most `NEAR` points of WER (plain words) on these."""
    n_words, most = sum(row["n_plain"] for row in rows), sum(row["ways"][EXITS_OFF]["plain"] for row in rows)
    for threshold in sorted({row["ways"][FIRST]["sure"] for row in rows}) + [1.01]:
        taken = with_cascade(rows, threshold)
        errors = sum(row["ways"][CASCADE]["plain"] for row in taken)
        if 100 * (errors - most) / n_words <= NEAR:
            return threshold
    return 1.01


def summary(rows: list[dict]) -> dict:
    """WER, seconds, ratios and differences of each way on one set."""
    rng, made = np.random.default_rng(0), {}
    speakers = np.array([row["speaker"] for row in rows])

    def column(name: str, key: str) -> np.ndarray:
        return np.array([row["ways"][name][key] for row in rows])

    for name in rows[0]["ways"]:
        seconds = column(name, "s")
        one = {"s": float(seconds.sum()), "rtf": float(seconds.sum() / sum(row["audio_s"] for row in rows))}
        for kind in NORMALISERS:
            errors, n_words = column(name, kind), np.array([row[f"n_{kind}"] for row in rows])
            one[f"wer_{kind}"] = 100 * float(errors.sum() / n_words.sum())
            if FASTER in rows[0]["ways"]:
                theirs = column(FASTER, kind)
                gap = bootstrap_difference(errors, theirs, n_ref_words=n_words, speakers=speakers, rng=rng)
                one[f"minus_faster_{kind}"] = [gap.estimate, gap.low, gap.high]
        if FASTER in rows[0]["ways"]:
            theirs = column(FASTER, "s")
            one["ratio"] = [one["s"] / float(theirs.sum()), *map(float, np.percentile(seconds / theirs, [25, 75]))]
        made[name] = one
    return made


LEFT_OUT = ("first model", "cascade")  # of the page


def page(saved: dict) -> str:
    """The README of the results."""
    lines = [
        "# The checkpoint's own decoder behind the exits, against Whisper as people run it",
        "",
        "Does a decoder as the deepest exit pay? Moonshine's makes no more errors than Whisper base in less than half",
        "of faster-whisper's seconds; leaving before it by entropy saves nothing: the heads are far worse, few leave.",
        "",
        f"{saved['about']} All ways greedy, float32 where not said, one thread, {saved['isa']}, processor seconds;",
        "every utterance through all ways in turn. *Ratio*: seconds over faster-whisper float32's [quartiles over",
        "utterances]. *WER*: both sides through Whisper's normaliser (in plain words: the JSON); *minus",
        "faster-whisper*: minus that of faster-whisper float32 [95 % over speakers].",
        "",
    ]
    header = ("way", "WER", "minus faster-whisper", "seconds", "ratio")
    for name, found in saved["sets"].items():
        rows = [_row(way, one) for way, one in found["ways"].items() if way not in LEFT_OUT]
        lines += [f"## {name}: {found['n']} utterances, {found['audio_s']:.0f} s", "", markdown_table(header, rows), ""]
    command = saved["command"].split(" --about ")[0]
    lines += [
        f"    {command}",
        "",
        f"{saved['date']}, torch {saved['torch']}; a cascade behind another model is in the JSON.",
    ]
    if drafts := saved.get("drafts"):
        rows = [
            (name, way, f"{one['wer_plain']:.2f}", f"{one['ratio']:.2f}", f"{100 * one.get('accepted', 0):.0f} %")
            for name, found in drafts["sets"].items()
            for way, one in found["ways"].items()
            if way.endswith(("off", "0.1"))
        ]
        lines += [
            "",
            "## Draft and verify",
            "",
            "The draft is the last CTC exit's transcript (`decoder_draft: true`); seconds over the decoder's alone.",
            "",
            markdown_table(("set", "way", "WER plain", "ratio", "tokens accepted"), rows),
            "",
            f"    {drafts['command']}",
        ]
    return "\n".join(lines) + "\n"


def _row(way: str, one: dict) -> tuple[str, ...]:
    ratio, gap = one.get("ratio"), one.get("minus_faster_whisper")
    return (
        way,
        f"{one['wer_whisper']:.2f}",
        "-" if gap is None else f"{gap[0]:+.2f} [{gap[1]:+.2f}, {gap[2]:+.2f}]",
        f"{one['s']:.1f}",
        "-" if ratio is None else f"{ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}]",
    )


def main() -> None:
    """Measure, save, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="model folder with decoder: own")
    parser.add_argument("manifests", nargs="*", type=Path, help="of test sets")
    parser.add_argument("--dev", nargs="*", type=Path, default=[], help="manifests for the cascade's threshold")
    parser.add_argument("--dev_table", type=Path, help="exit table to choose a policy by")
    parser.add_argument("--whisper", help="checkpoint for transformers")
    parser.add_argument("--faster_whisper", help="folder of the converted checkpoint")
    parser.add_argument("--first", help="model folder of the cascade's first model")
    parser.add_argument("--policies", nargs="*", default=[], help="policy texts")
    parser.add_argument("--limit", type=int, default=150, help="utterances of a set, evenly spaced")
    parser.add_argument("--draft_floors", nargs="*", type=float, default=[], help="measure drafts alone, at these")
    parser.add_argument("--about", default="", help="a sentence on the model, for the page")
    parser.add_argument("--write", action="store_true", help="only the page, from what was saved")
    options = parser.parse_args()
    path = FOLDER / "own_decoder.json"
    torch.set_num_threads(1)
    if options.draft_floors:
        saved = json.loads(path.read_text(encoding="utf-8")) | {"drafts": measured_drafts(options)}
        write_aside(path, json.dumps(saved, indent=1) + "\n")
    elif not options.write:
        if options.dev_table:
            options.policies.append(nearly_last(options.dev_table))
        ways, threshold = ways_of(options), None
        if options.first:
            items = {}
            for manifest in options.dev:
                items |= manifest_items([manifest], limit=max(1, options.limit // (2 * len(options.dev))))
            pair = {name: ways[name] for name in (FIRST, EXITS_OFF)}
            threshold = cascade_threshold(measure(pair, items, title="dev"))
        saved = {
            "date": date.today().isoformat(),
            "about": options.about,
            "isa": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "threshold": threshold,
            "command": command(),
            "sets": {},
        }
        for manifest in options.manifests:
            rows = measure(ways, manifest_items([manifest], limit=options.limit), title=manifest.stem)
            rows = rows if threshold is None else with_cascade(rows, threshold)
            saved["sets"][manifest.stem] = {
                "n": len(rows),
                "audio_s": sum(row["audio_s"] for row in rows),
                "ways": summary(rows),
            }
            FOLDER.mkdir(parents=True, exist_ok=True)
            write_aside(path, json.dumps(saved, indent=1) + "\n")
    saved = json.loads(path.read_text(encoding="utf-8"))
    (FOLDER / "README.md").write_text(page(saved), encoding="utf-8")
    print(page(saved))


def command() -> str:
    """The command line, folders outside the repository by their names."""
    words = (Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])
    quoted = (f'"{word}"' if " " in word or "(" in word else word for word in words)
    return " ".join(["python", "benchmarks/own_decoder.py", *quoted])


if __name__ == "__main__":
    main()
