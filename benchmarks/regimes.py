"""Word error rate of every exit under each training regime, after the same number of updates, and what models cost.

    python benchmarks/regimes.py --output runs/regimes                    AN4 whole, 120 epochs each: hours on a CPU
    python benchmarks/regimes.py --output runs/regimes --epochs 30 --train_utterances 400 --only "joint; two_step"
    python benchmarks/regimes.py --output runs/regimes --data_folder FOLDER --corpus LibriSpeech ...
    python benchmarks/regimes.py --output runs/more --init_from runs/regimes/last_only/model --epochs 12
    python benchmarks/regimes.py --output runs/rounded --epochs 40 --set precision=bf16 "valid_splits=[dev]"

What follows `--set` goes to every training: keys of the YAML, SpeechBrain's run options. `--jobs 16` trains sixteen at
once, for a GPU that has room for them; each regime then says how it is doing in NAME.log in --output.

Without --data_folder: AN4 in ../shared/data where it is there, else the synthetic voices of recipes/Spoken. A regime
whose run folder is there already goes on where it stopped, so the table can be made in sittings: it keeps the rows that
--output has. `heads_only` and `teacher` start from, or learn from, the model of `last_only`, which is therefore trained
first, as do the two kinds of `layer removal`: these and `heads_only` have seen twice as many updates in all.
Downsampled models have heads that give back the frames (`upsample`), but for the last, which spells with 64
SentencePiece tokens and is to be compared with `unigram tokens`. Cost: multiply-accumulates of a second of audio up to
the last exit and its head (`cost_macs`, `head_macs` of the exit tables). Writes `regimes.md` and `regimes.json` into
--output.

    python benchmarks/regimes.py --join runs/a runs/b --output results/regimes/NAME.json

trains nothing: several sittings in one table, seeds side by side and their means, and, of sittings whose runs are there
with their `joint` and `last_only`, what is better than joint training and what exits cost against the single-exit model
at 70 % of its operations (or against the last exit of another regime: `--against joint`, where a single exit has learnt
nothing). Writes the file, and its tables into results/regimes/README.md.
"""

import argparse
import json
import logging
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from eeasr_modules.common.files import write_aside  # noqa: E402
from eeasr_modules.compat import ensure_torchaudio  # noqa: E402

ensure_torchaudio()

import torch  # noqa: E402
from regimes_tables import PAGES, SINGLE, as_markdown, folder_name, joined, with_tables  # noqa: E402
from saved import json_lines  # noqa: E402

from eeasr_modules.training.config.config import load_yaml  # noqa: E402
from eeasr_modules.training.fit import fit  # noqa: E402
from eeasr_modules.training.run import collect_all, set_up  # noqa: E402

TEACHER = SINGLE
LOGGERS = (None, "eeasr_modules", "speechbrain.utils.train_logger", "speechbrain.utils.epoch_loop")
# 12.5 or 8.3 frames a second are too few for characters: 6.5 or 33 % of AN4's training utterances could not be aligned
CONVOLUTION = {"downsample": "convolution", "downsample_factor": 2, "upsample": "true"}
UNIGRAM = {"tokens": "unigram", "n_tokens": 64}
REGIMES = {
    TEACHER: {"regime": "last_only", "select_on": "last"},
    "joint": {},
    "joint, increasing": {"exit_weights": "increasing"},
    "two_step": {"regime": "two_step", "first_step_share": 0.7},
    "heads_only": {"regime": "heads_only", "init_from": "{teacher}"},
    "alternating": {"regime": "alternating"},
    "layerdrop": {"layerdrop": 0.1},
    "shared projection": {"share_projection": "true"},
    "self-conditioned": {"self_condition": "true"},
    "self-distillation": {"distill": "self", "distill_alpha": 0.3},
    "best exit teaches": {"distill": "best", "distill_alpha": 0.3},
    "teacher": {"distill": "{teacher}", "distill_alpha": 0.5, "distill_transcript_share": 0.5},
    "confidence-weighted": {"confidence_weighted": "true"},
    "smaller encoder": {"n_layers": "{half}", "exit_layers": "[{half}]"},
    "layer removal": {"init_from": "{teacher}", "keep_layers": "{half}", "exit_layers": "[{half}]"},
    "layer removal, exits": {"init_from": "{teacher}", "keep_layers": "{half}", "exit_layers": "every 1"},
    "downsampled x2": {**CONVOLUTION, "regime": "last_only", "select_on": "last"},
    "downsampled x2, exits": CONVOLUTION,
    "averaged x2, exits": {**CONVOLUTION, "downsample": "average"},
    "resampled x2, exits": {**CONVOLUTION, "downsample": "signal"},
    "downsampled x3, exits": {**CONVOLUTION, "downsample_factor": 3},
    "unigram tokens": UNIGRAM,
    "downsampled x2, unigram tokens": {**CONVOLUTION, **UNIGRAM, "upsample": "false"},
}
ON_TEACHER = [name for name, keys in REGIMES.items() if "{teacher}" in map(str, keys.values())]


def corpus_arguments(arguments: argparse.Namespace) -> dict[str, object]:
    """Keys of the corpus, from the command line or what is on this disk."""
    if arguments.data_folder is not None:
        return {"corpus": arguments.corpus, "data_folder": arguments.data_folder}
    an4 = ROOT.parent / "shared" / "data" / "an4"
    if an4.is_dir():
        return {"corpus": "AN4", "data_folder": an4}
    return {"corpus": "Spoken", "data_folder": ROOT / "recipes" / "Spoken" / "corpus"}


def trained(name: str, arguments: argparse.Namespace) -> dict:
    """Train one regime and test every exit; WER per exit of each test set, and how long training took."""
    folder = arguments.output / folder_name(name)
    keys = {**corpus_arguments(arguments), "test_splits": "[test]", "shifts": "[]", "output_folder": folder}
    keys |= {"n_epochs": arguments.epochs, "seed": arguments.seed, "train_utterances": arguments.train_utterances}
    keys |= {"test_utterances": arguments.test_utterances, "init_from": arguments.init_from, **REGIMES[name]}
    teacher = arguments.output / TEACHER / "model"
    known = {"teacher": teacher, "half": load_yaml(arguments.yaml)["n_layers"] // 2}
    keys |= arguments.more
    given = [f"--{key}={str(value).format(**known)}" for key, value in keys.items() if value is not None]
    run = set_up([str(arguments.yaml), "--noprogressbar", *given], recipes=ROOT / "recipes")
    started = time.process_time()
    model = fit(run.config, run.corpora, folder=run.folder, run_opts=run.run_opts)
    cpu_s = time.process_time() - started
    _, tests = collect_all(run, model)
    for logger in LOGGERS:  # each run has a log of its own
        logging.getLogger(logger).handlers.clear()
    return {
        "seed": arguments.seed,
        "exit_layers": list(model.exit_layers),
        "wer_per_exit": {
            one.name: [float(wer) for wer in table.wer_per_exit]
            for one, table in zip(run.corpora.tests, tests, strict=True)
        },
        "gmacs_per_s": {one.name: gmacs_per_second(table) for one, table in zip(run.corpora.tests, tests, strict=True)},
        "cpu_s": cpu_s,
    }


def one_by_one(arguments: argparse.Namespace) -> Iterator[tuple[str, dict | str]]:
    """Regimes and what `trained` gives; the sentence of an error ends it."""
    for name in arguments.names:
        try:
            found = trained(name, arguments)
        except (ValueError, FileNotFoundError) as err:
            yield name, str(err)
            return
        yield name, found


def side_by_side(arguments: argparse.Namespace) -> Iterator[tuple[str, dict | str]]:
    """Likewise, each in a process of its own and as it is done, those that need the single-exit model after the others.

    What a process says lies beside its run folder. Its one error loses nothing of the others.
    """
    later = [name for name in arguments.names if name in ON_TEACHER]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for names in ([name for name in arguments.names if name not in later], later):
            waiting = {pool.submit(in_process, name, arguments): name for name in names}
            for done in as_completed(waiting):
                print(f"{waiting[done]} is done", file=sys.stderr)
                yield waiting[done], done.result()


def in_process(name: str, arguments: argparse.Namespace) -> dict | str:
    """What a fresh process of this script gives for one regime; the last line that it said where it failed."""
    folder = arguments.output / folder_name(name)
    record, log = folder.with_suffix(".json"), folder.with_suffix(".log")
    command = [sys.executable, __file__, *sys.argv[1:], "--jobs", "1", "--only", name, "--record", str(record)]
    with log.open("w") as said:
        code = subprocess.run(command, stdout=said, stderr=subprocess.STDOUT).returncode
    if code:
        return log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
    return json.loads(record.read_text(encoding="utf-8"))


def gmacs_per_second(table) -> list[float]:
    """Billions of multiply-accumulates that a second of audio takes up to each exit, its head included."""
    macs = (table.cost_macs + table.head_macs).sum(axis=0)
    return (macs / table.duration_s.sum() / 1e9).tolist()


def about(arguments: argparse.Namespace) -> str:
    """How the table was made, in a line."""
    return (
        f"`python benchmarks/regimes.py {' '.join(sys.argv[1:])}`: {corpus_arguments(arguments)['corpus']}, "
        f"{arguments.epochs} epochs each, seed {arguments.seed}, {platform.machine()}, torch {torch.__version__}, "
        f"{time.strftime('%Y-%m-%d')}."
    )


def parse(argv: list[str]) -> argparse.Namespace:
    """Options; `more` holds what goes to every training, `names` the regimes asked for and those that they need."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the runs and the table; with --join a file"
    )
    parser.add_argument("--join", type=Path, nargs="+", metavar="FOLDER", help="outputs of other sittings")
    parser.add_argument("--against", default=SINGLE, choices=list(REGIMES), help="with --join: whose last exit")
    parser.add_argument("--yaml", type=Path, default=ROOT / "hparams" / "an4.yaml", help="what the regimes change")
    parser.add_argument("--data_folder", type=Path, help="the corpus on disk")
    parser.add_argument("--corpus", default="AN4", help="folder of recipes/ that prepares --data_folder")
    parser.add_argument("--only", default=";".join(REGIMES), help=f"some of these, between semicolons: {list(REGIMES)}")
    parser.add_argument("--init_from", help="model folder that all without one of their own start from")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--train_utterances", type=int, help="an evenly spaced slice")
    parser.add_argument("--test_utterances", type=int, help="an evenly spaced slice")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, each in a process of its own")
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for every training")
    arguments = parser.parse_args(argv)
    unread = [pair for pair in arguments.set if not re.fullmatch(r"\w+=.*", pair)]
    if unread:
        parser.error(f"cannot read {unread[0]!r} after --set: it takes KEY=VALUE")
    for folder in arguments.join or []:
        if not (folder / "regimes.json").is_file():
            parser.error(f"--join expected regimes.json, as a sitting leaves it, in '{folder}', and found none")
    if arguments.join and arguments.output.suffix != ".json":
        parser.error(f"with --join, --output is a file NAME.json, got '{arguments.output}'")
    arguments.more = dict(pair.split("=", 1) for pair in arguments.set)
    arguments.names = [name.strip() for name in arguments.only.split(";")]
    unknown = [name for name in arguments.names if name not in REGIMES]
    if unknown:
        parser.error(f"no such regime {unknown[0]!r}; there are {'; '.join(REGIMES)}")
    if arguments.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {arguments.jobs}")
    if {*ON_TEACHER} & {*arguments.names} and TEACHER not in arguments.names and not arguments.record:
        arguments.names.append(TEACHER)
    arguments.names.sort(key=list(REGIMES).index)
    return arguments


def main() -> int:
    """Train, test and write the table after every regime."""
    arguments = parse(sys.argv[1:])
    if arguments.join:
        found = joined(arguments.join, order=list(REGIMES), against=arguments.against, usual="joint")
        write_aside(arguments.output, json_lines(found))
        for page in PAGES:
            write_aside(page, with_tables(page.read_text(encoding="utf-8")))
        return 0
    if arguments.record:
        for _, found in one_by_one(arguments):
            if isinstance(found, str):
                print(found, file=sys.stderr)
                return 2
            write_aside(arguments.record, json.dumps(found))
        return 0
    arguments.output.mkdir(parents=True, exist_ok=True)
    before = arguments.output / "regimes.json"
    results = json.loads(before.read_text(encoding="utf-8")) if before.is_file() else {}
    failed = False
    for name, found in one_by_one(arguments) if arguments.jobs == 1 else side_by_side(arguments):
        if isinstance(found, str):
            print(f"regimes.py: error: {name}: {found}", file=sys.stderr)
            failed = True
            continue
        results[name] = found
        results = {regime: results[regime] for regime in REGIMES if regime in results}
        missing = [regime for regime in REGIMES if regime not in results]
        write_aside(arguments.output / "regimes.json", json.dumps(results, indent=2) + "\n")
        write_aside(arguments.output / "regimes.md", as_markdown(results, about(arguments), missing=missing))
    if results:
        print((arguments.output / "regimes.md").read_text())
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
