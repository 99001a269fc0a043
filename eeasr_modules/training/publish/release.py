"""Pass a trained model on: as a folder with its exit tables, or to the Hugging Face hub.

    python -m eeasr_modules.training.publish.release RUN FOLDER [--exit_excess 0.5] [--first "between(7, 8, entropy)"]

copies `RUN/model` to FOLDER and the tables of `RUN/tables`, without references (texts of recordings may be others'),
to `FOLDER/tables`. `--exit_excess` makes the first policy that which is the cheapest on dev at most so many WER points
above the last exit: of the run's first policy, or of `--first`, which is put before it. To the hub goes a model folder
with its card: metadata and measured numbers.
"""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from rapidfuzz.distance import Levenshtein

from eeasr_modules.common.files import write_aside
from eeasr_modules.data.text import SENTENCEPIECE_FILE, VOCABULARY_FILE, load_vocabulary
from eeasr_modules.exits.measure.bootstrap import MIN_SPEAKERS
from eeasr_modules.exits.policies.files import read_policies, write_policies
from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tables.files import read_table, write_table
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.calibration import Calibrated, choose, within_wer
from eeasr_modules.exits.tuning.replay import replay
from eeasr_modules.exits.tuning.watches import drift_reference
from eeasr_modules.models.folder import weight_files, write_transformers_files
from eeasr_modules.training.config.config import Config


def wrong_words(hypothesis: str, reference: str) -> np.ndarray:
    """1 for every word of the hypothesis that is inserted or stands for another one, else 0; shape (n_words,).

    Example
    -------
    >>> wrong_words("A BAT SAT DOWN", "A CAT SAT").tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    words = hypothesis.split()
    flags = np.zeros(len(words), dtype=np.float32)
    for step in Levenshtein.editops(reference.split(), words):
        if step.tag != "delete":
            flags[step.dest_pos] = 1.0
    return flags


def shippable(table: ExitTable) -> ExitTable:
    """The table without references, with the word list `word_wrong` in their place."""
    if table.references is None:
        return table
    flags = np.empty(table.hypotheses.shape, dtype=object)
    for row, reference in enumerate(table.references):
        for e, hypothesis in enumerate(table.hypotheses[row]):
            flags[row, e] = wrong_words(hypothesis, reference)
    return replace(table, word_lists={**table.word_lists, "word_wrong": flags}).without_references()


def at_excess(calibrated: Calibrated, dev: ExitTable, excess: float) -> Calibrated:
    """Of the policies that calibration tried the cheapest at most so many WER points above the last exit on dev.

    ValueError when the policy has a certificate, which would not hold for another threshold, or dev is another set.
    """
    name = dev.metadata.get("set_name")
    if calibrated.promise is not None or name != calibrated.calibrated_on["set_name"]:
        what = "has a certificate" if calibrated.promise is not None else f"was not calibrated on {name}"
        raise ValueError(f"{calibrated.policy} {what}: give exit_excess in the YAML and calibrate again")
    best = within_wer(calibrated.grid, dev.wer_per_exit[-1] + excess, calibrated.open_policy)
    policy = calibrated.grid.policies[best]
    return replace(
        calibrated,
        policy=policy,
        rule=f"exit_excess {excess:g}",
        dev_cost=float(calibrated.grid.cost[best]),
        dev_wer=float(calibrated.grid.wer[best]),
        drift=drift_reference(dev, policy),
    )


def with_first(policies: Sequence[Calibrated], dev: ExitTable, *, excess: float, text: str | None) -> list[Calibrated]:
    """The policies, the first at most so many WER points above the last exit on dev; `text`: another before them.

    ValueError as `at_excess`, or when the text is no policy or cannot be calibrated.
    """
    if text is None:
        return [at_excess(policies[0], dev, excess), *policies[1:]]
    first = choose(dev, parse_policy(text), excess=excess)
    others = [one for one in policies if one.open_policy != first.open_policy]
    return [replace(first, drift=drift_reference(dev, first.policy)), *others]


def on_card(card: str, first: Calibrated, tables: Sequence[ExitTable]) -> str:
    """The model card with a column of what its first policy reaches on the tables, and a sentence before its limits."""
    found = {"set": "first policy", "---": "---:"}
    for table in tables:
        taken, at = replay(first.policy, table), np.arange(table.n_utterances)
        wer = 100 * table.errors[at, taken].sum() / table.n_ref_words.sum()
        depth = np.average(table.exit_layers[taken], weights=table.duration_s)
        found[table.metadata["set_name"]] = f"{wer:.2f} @ {depth:.2f}"
    lines = []
    for line in card.split("\n"):
        cell = line.split("|")[1].strip() if line.startswith("|") else None
        lines.append(line if cell is None else f"{line} {found.get(cell, '')} |".replace("| ---: |", "|---:|"))
    rule, dev = first.rule.replace("_", " "), first.calibrated_on["set_name"]
    said = f"The first policy of `policy.json` is `{first.policy}` ({rule} on {dev})."
    return "\n".join(lines).replace("\n## Limits\n", f"\n{said}\n\n## Limits\n")


def ship(run: str | Path, folder: str | Path, *, excess: float | None = None, first: str | None = None) -> list[Path]:
    """Copy the model folder of a run and its tables, references taken out; `first`: another first policy, by `excess`.

    FileNotFoundError if the run has no model or no tables. ValueError as `with_first`, or for `first` without `excess`.
    """
    if first is not None and excess is None:
        raise ValueError(f"a first policy is calibrated to an excess: give --exit_excess beside {first}")
    run, folder = Path(run), Path(folder)
    tables = sorted((run / "tables").glob("*.parquet"))
    if not (run / "model" / "config.json").is_file() or not tables:
        raise FileNotFoundError(f"expected a finished run with model/ and tables/*.parquet in '{run}', found none")
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(run / "model", aside)
    if excess is not None:
        policies = read_policies(aside / "policy.json")
        dev = read_table(run / "tables" / f"{policies[0].calibrated_on['set_name']}.parquet")
        policies = with_first(policies, dev, excess=excess, text=first)
        write_policies(aside / "policy.json", policies)
        tests = [one for one in map(read_table, tables) if one.metadata["set_name"] != dev.metadata["set_name"]]
        if (card := aside / "README.md").is_file():
            card.write_text(on_card(card.read_text(encoding="utf-8"), policies[0], tests), encoding="utf-8")
    for path in tables:
        write_table(shippable(read_table(path)), aside / "tables" / path.name)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 0, or 2 after one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m eeasr_modules.training.publish.release", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run", help="a finished run's folder")
    parser.add_argument("folder", help="where to; what it held before is replaced")
    parser.add_argument("--exit_excess", type=float, metavar="POINTS", help="of the first policy above the last exit")
    parser.add_argument("--first", metavar="POLICY", help="calibrated so and put before the run's first")
    options = parser.parse_args(argv)
    try:
        for path in ship(options.run, options.folder, excess=options.exit_excess, first=options.first):
            print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
    except (FileNotFoundError, ValueError) as err:
        print(f"ship: error: {err}", file=sys.stderr)
        return 2
    return 0


LIBRARY = "eeasr"
LANGUAGES = {"LibriSpeech", "AN4", "LJSpeech", "Digits", "TEDLIUM", "Spoken"}  # corpora that are English, all of them
DOMAINS = {"in_domain": "in domain", "shifted": "shifted", "ood": "out of domain"}


def write_card(folder: Path, config: Config, summary: dict) -> None:
    """Write the model card from the configuration and the report's summary."""
    content = f"---\n{_metadata(folder, config, summary).to_yaml()}\n---\n\n{_text(config, summary)}"
    write_aside(folder / "README.md", content)


def check_card(folder: Path) -> ModelCardData:
    """The metadata of a model folder's card.

    FileNotFoundError without a README.md. ValueError when its metadata are missing or not what the hub takes.
    """
    path = folder / "README.md"
    if not path.is_file():
        raise FileNotFoundError(f"expected a model card at '{path}', found none: train.py writes it")
    try:
        card = ModelCard.load(path)
    except ValueError as err:
        raise ValueError(f"the metadata of '{path}' are not those of a model card: {err}") from err
    if not card.data.license or not card.data.library_name:
        raise ValueError(
            f"'{path}' must begin with a model card's metadata (license, library_name), it has "
            f"{', '.join(card.data.to_dict()) or 'none'}: evaluate the model again with train.py --test_only"
        )
    return card.data


def _metadata(folder: Path, config: Config, summary: dict) -> ModelCardData:
    results = [
        EvalResult(
            task_type="automatic-speech-recognition",
            task_name="Speech recognition",
            dataset_type=one["corpus"].lower(),
            dataset_name=name,
            dataset_config=name,  # sets of one corpus are apart by this
            metric_type="wer",
            metric_name=f"WER at the last exit (layer {one['exit_layers'][-1]})",
            metric_value=round(one["wer_per_exit"][-1], 2),
        )
        for name, one in summary["sets"].items()
        if one["label"] != "shifted"  # no data sets of the hub
    ]
    english = config.normaliser in ("english", "an4") or set(config.trained_corpora) <= LANGUAGES
    return ModelCardData(
        license="apache-2.0",
        library_name=LIBRARY,
        language="en" if english else None,
        pipeline_tag="automatic-speech-recognition",
        tags=["early-exit", "ctc", "speech-recognition", config.encoder],
        metrics=["wer"],
        model_name=folder.resolve().parent.name if folder.name == "model" else folder.name,
        eval_results=results or None,
    )


def _text(config: Config, summary: dict) -> str:
    also = [(one.train_splits, one.name) for one in config.other_sets if one.role == "also"]
    trained_on = [f"{', '.join(splits)} of {name}" for splits, name in [(config.train_splits, config.corpus), *also]]
    exits = ", ".join(map(str, config.exit_layers))
    how_long = f"for {config.n_epochs} epochs" if config.n_epochs else "before, by the run that gave its weights"
    lines = [
        f"# {', '.join(config.trained_corpora)}: {config.encoder} with exits after layers {exits}",
        "",
        f"{config.n_layers} layers of width {config.dim}, CTC on {config.tokens}, {config.sample_rate} Hz mono, "
        f"trained on {'; '.join(trained_on)} {how_long} "
        f"(seed {config.seed}, exit weights {config.exit_weights}).",
        "",
        "```python",
        "from eeasr_modules.runtime import EarlyExitASR",
        "",
        'asr = EarlyExitASR.from_pretrained("this/folder/or/hub-id")  # stops where policy.json\'s first policy says',
        'print(asr.transcribe("talk.wav").text)',
        "```",
        "",
        "## Word error rate",
        "",
        *_rates(summary, excess=config.exit_excess),
    ]
    lines += [
        "",
        "## Limits",
        "",
        "Numbers are of the sets named above and no others; thresholds were chosen on validation speakers of the "
        "training corpora, and what they promise does not carry over to speech unlike it. Sets marked out of domain "
        "show how much worse it gets. Do not use it where a wrong word does harm.",
        "",
        "## Licence",
        "",
        "The weights: Apache-2.0. The corpora have licences of their own.",
    ]
    return "\n".join(lines) + "\n"


def _rates(summary: dict, *, excess: float | None) -> list[str]:
    """A row per set: its exits and, where a policy was chosen, what leaving by it reaches."""
    chosen, rows, early = summary["chosen_policy"], [], False
    for name, one in summary["sets"].items():
        wer = one["wer_per_exit"]
        inner = min(range(len(wer) - 1), key=wer.__getitem__, default=None)
        cells = [name, DOMAINS.get(one["label"], one["label"]), f"{one['n_utterances']} ({one['n_speakers']})"]
        cells += [f"{wer[0]:.2f}", "" if inner is None else f"{wer[inner]:.2f} at {one['exit_layers'][inner]}"]
        cells.append(f"{wer[-1]:.2f} {_interval(one['wer_interval_per_exit'][-1], one)}")
        policy = one["policies"].get(chosen) if chosen else None
        early |= policy is not None
        cells.append("" if policy is None else f"{policy['at_budget']['wer']:.2f} @ {policy['at_budget']['depth']:.2f}")
        rows.append(f"| {' | '.join(cells)} |")
    goal = f"a budget of {summary['budget']:g}" if excess is None else f"{excess:g} WER points above the last exit"
    on = (summary["dev"] or {}).get("set_name", "the test sets")
    leaving = (
        f" *Early*: WER @ mean depth by `{chosen}`, calibrated on {on} to {goal}; `policy.json` holds it and others."
    )
    return [
        f"Percent, greedy, 95 % intervals over speakers (none for fewer than {MIN_SPEAKERS}); measured "
        f"{summary['date']}, torch {torch.__version__.split('+')[0]}, {_machine()}.{leaving if early else ''}",
        "",
        "| set | kind | utterances (speakers) | first exit | best inner exit | last exit [95 %] | early |",
        "|---|---|---:|---:|---:|---:|---:|",
        *rows,
    ]


def _interval(ends: list[float], one: dict) -> str:
    """None for speakers that are too few for one that says anything about others."""
    known = one["n_speakers"]
    return f"none ({known} speakers)" if 0 < known < MIN_SPEAKERS else f"[{ends[0]:.2f}, {ends[1]:.2f}]"


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPUs ({platform.machine()})"


PUSHED = (
    "README.md",
    "config.json",
    "model*.safetensors",
    "policy.json",
    "vocab.json",
    "spm.model",
    "hyperparams.yaml",
    "*.json",
    "*.npz",
    "modeling_eeasr.py",
)


@dataclass(frozen=True)
class Push:
    """What is sent, or was."""

    repo_id: str  # user and name
    files: dict[str, int]  # bytes of each file
    url: str | None  # where it is now; None for a dry run

    def lines(self) -> list[str]:
        """What a user reads."""
        total = sum(self.files.values()) / 1e6
        rows = [f"{size / 1e6:10.3f} MB  {name}" for name, size in self.files.items()]
        end = f"{total:10.3f} MB  in all, " + (f"at {self.url}" if self.url else f"would go to {self.repo_id}")
        return [*rows, end]


def push(folder: str | Path, repo_id: str, *, private: bool = False, dry_run: bool = False) -> Push:
    """Send a model folder, after a look at its files and its card; what lets transformers load it is written before.

    FileNotFoundError when the folder is not a model's, or lacks its card. ValueError when the card's metadata or the id
    are wrong, or the hub refuses (no token, no right).

    Arguments
    ---------
    repo_id : str
        User or organisation, and name, as in `me/small-exits`; made where it is not there.
    private : bool
        A repository that others cannot see, where it is made.
    dry_run : bool
        Send nothing; no network is needed.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    folder = Path(folder)
    for name in ("config.json", "README.md"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"expected a model folder with {name} in it, found none in '{folder}'")
    weight_files(folder)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as err:
        raise ValueError(f"'{repo_id}' is no id of the hub: {err}") from err
    if repo_id.count("/") != 1:
        raise ValueError(f"an id of the hub is user/name, as in me/small-exits, got '{repo_id}'")
    check_card(folder)
    if any((folder / name).is_file() for name in (VOCABULARY_FILE, SENTENCEPIECE_FILE)):
        write_transformers_files(folder, load_vocabulary(folder))
    names = sorted({path.name for pattern in PUSHED for path in folder.glob(pattern) if path.is_file()})
    files = {name: (folder / name).stat().st_size for name in names}
    return Push(repo_id, files, None if dry_run else _send(folder, repo_id, names, private=private))


def _send(folder: Path, repo_id: str, names: list[str], *, private: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(library_name="eeasr")
    try:
        where = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, allow_patterns=names, commit_message="Model with early exits"
        )
    except LocalTokenNotFoundError as err:
        raise ValueError("the hub asks who you are: log in once by `hf auth login`, or set HF_TOKEN") from err
    except HfHubHTTPError as err:
        if err.response is not None and err.response.status_code in (401, 403):
            raise ValueError(
                f"the hub does not let you write to {repo_id}: log in by `hf auth login` with a token that may"
            ) from err
        raise ValueError(f"the hub refused {repo_id}: {err}") from err
    except Exception as err:  # errors of whichever HTTP library the hub's client has
        if not type(err).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        raise ValueError(f"the hub cannot be reached ({err}): try again with a network") from err
    return str(where)


if __name__ == "__main__":
    sys.exit(main())
