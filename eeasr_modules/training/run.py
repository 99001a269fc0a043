"""One run from the command line to exit tables and calibrated policies: what `train.py` calls, step by step.

First what is looked at before training begins, and what stays of a run that is refused: nothing in its way.
"""

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml
from speechbrain.utils.distributed import ddp_init_group, if_main_process, infer_device, run_on_main

from eeasr_modules.data.audio import AudioReader
from eeasr_modules.data.audio_files import SILENT_S
from eeasr_modules.data.manifest import recordings
from eeasr_modules.data.pipeline import AudioCache
from eeasr_modules.data.text import SENTENCEPIECE_FILE, VOCABULARY_FILE, load_vocabulary
from eeasr_modules.exits.measure.fusion import FusionModel, KeptFusion, fuse, keep_fusion
from eeasr_modules.exits.policies.files import write_policies
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.policies.text import parse_policies, parse_policy
from eeasr_modules.exits.tables.files import read_table
from eeasr_modules.exits.tables.table import ExitTable, speaker_folds
from eeasr_modules.exits.tuning.calibration import Calibrated, choose
from eeasr_modules.exits.tuning.risk import certify
from eeasr_modules.exits.tuning.risk_losses import target_of
from eeasr_modules.exits.tuning.risk_terms import certificate_lines
from eeasr_modules.exits.tuning.watches import drift_reference
from eeasr_modules.models.device import checked_device
from eeasr_modules.models.folder import model_digest
from eeasr_modules.training.config.checks import all_exit_layers
from eeasr_modules.training.config.config import Config, load, parse
from eeasr_modules.training.corpora import Corpora, heard_by, is_trained, prepare_corpora
from eeasr_modules.training.fit import check_run_folder, load_brain_class, make_vocabulary
from eeasr_modules.training.run_folder import hold
from eeasr_modules.training.test_pass import collect_by_share, table_metadata, write_transcripts
from eeasr_modules.training.test_pass_decoders import chosen_decoder, decode_or_reuse

_file_log = logging.getLogger("train")  # into log.txt, not onto the terminal


def check_language_model(config) -> None:
    """FileNotFoundError where beam search is to read a language model that is not there."""
    if config.decoding == "beam" and config.lm_file is not None and not Path(config.lm_file).is_file():
        raise FileNotFoundError(f"lm_file '{config.lm_file}' does not exist: give an ARPA file, or null for none")


def check_recordings(evaluation_sets: Sequence, *, sample_rate: int) -> None:
    """Read every recording of the sets to its end, so that training is not done before one turns out to be broken.

    ValueError: how many cannot be read, which is the first, and why.
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

    `new`: what may go; None: what is not there now.
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
    _file_log.error("stopped by an error", exc_info=error)
    return _last_line(error)


def _last_line(error: BaseException) -> str:
    """What an error says on one line; of one that comes from a DataLoader's process, what was raised there."""
    said = str(error).strip()
    if "Original Traceback" in said:
        said = said.splitlines()[-1].partition(": ")[2] or said.splitlines()[-1]
    return " ".join(said.split())


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run that has passed all its checks."""

    config: Config
    run_opts: object
    folder: Path
    corpora: Corpora  # manifests and labelled test sets
    new: tuple[Path, ...] = ()  # what this sitting made that a run which is refused leaves not behind

    @property
    def is_main(self) -> bool:
        """Whether this process, of perhaps several that train, tests and writes the report."""
        return if_main_process()


def set_up(argv: list[str], *, recipes: Path) -> Run:
    """Read the command line and YAML, check everything, prepare the corpora. No model is built here.

    ValueError or FileNotFoundError with one sentence on the first thing that is wrong.
    """
    yaml_path, run_opts, replaced = parse(argv)
    config = load(yaml_path, replaced, recipes=recipes)
    folder = Path(config.output_folder)
    load_brain_class(config.brain)
    if run_opts.test_only and not (folder / "model" / "config.json").is_file():
        raise FileNotFoundError(f"--test_only needs a trained model in '{folder}/model', there is none: train first")
    single_exit_tables(config)
    _check_device(run_opts)
    check_language_model(config)
    ddp_init_group(run_opts)
    if if_main_process():
        hold(folder)
    with leaves_nothing(folder) as new:
        run = _prepared(argv, config, run_opts, recipes=recipes, may_download="data_folder" not in replaced)
    return replace(run, new=new)


def _prepared(argv: list[str], config: Config, run_opts, *, recipes: Path, may_download: bool) -> Run:
    """The run, its corpora listed and its vocabulary made."""
    folder = Path(config.output_folder)
    goes_on = config.n_epochs and not run_opts.test_only and not is_trained(folder, config.n_epochs)
    options = {"recipes": recipes, "may_download": may_download, "save_folder": folder / "manifests"}
    options |= {"heard": heard_by(folder), "goes_on": bool(goes_on)}
    if if_main_process():
        log_to(folder)
    if torch.distributed.is_initialized():  # the run option of that name stays False under torchrun
        run_on_main(prepare_corpora, args=[config], kwargs=options)  # the others then find it made
    corpora = prepare_corpora(config, **options)
    check_run_folder(config, folder)
    if goes_on:
        run_on_main(check_recordings, args=[[corpora.dev, *corpora.tests]], kwargs={"sample_rate": config.sample_rate})
    run_on_main(make_vocabulary, args=[config, corpora, folder / "model"])  # SentencePiece may refuse `n_tokens`
    if if_main_process():
        (folder / "hyperparams.yaml").write_text(_resolved(config), encoding="utf-8")
        (folder / "command.txt").write_text(shlex.join(["python", "train.py", *argv]) + "\n", encoding="utf-8")
    return Run(config, run_opts, folder, corpora)


def _check_device(run_opts) -> None:
    device = run_opts.device or infer_device()
    if "LOCAL_RANK" not in os.environ:  # torchrun's processes must not all begin on the first GPU
        checked_device(device)
    if device.startswith("cpu") and "fp16" in (run_opts.precision, run_opts.eval_precision):
        raise ValueError("fp16 needs a GPU, the device is cpu: choose --precision and --eval_precision bf16 or fp32")


def _resolved(config: Config) -> str:
    others = {key: value for other in config.other_sets for key, value in other.keys.items()}
    return yaml.safe_dump({**config.values, **others}, sort_keys=False)


def log_to(folder: Path) -> None:
    """Everything into `log.txt`, the project's own words on the terminal too."""
    logging.raiseExceptions = False  # a full disk must not bury the one sentence about it under the log's tracebacks
    folder.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    file = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    root.addHandler(file)
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    for name in ("eeasr_modules", "speechbrain.utils.train_logger", "speechbrain.utils.epoch_loop"):
        logging.getLogger(name).addHandler(terminal)


def collect_all(run: Run, model) -> tuple[ExitTable, list[ExitTable]]:
    """Exit tables of dev and of every test set, under `tables/`; alignments and `.trn` under `transcripts/`.

    Returns
    -------
    dev : ExitTable
        Where policies are calibrated.
    tests : list of ExitTable
        In the order of the corpora.
    """
    config, folder = run.config, run.folder
    vocabulary = load_vocabulary(folder / "model")
    digest = model_digest(folder / "model")
    read = AudioCache(config.cache_audio_mb, sample_rate=config.sample_rate)
    decoder = chosen_decoder(config, model, vocabulary)
    how = {"read": read, "batch_seconds": config.test_batch_seconds, "limit": config.test_utterances}
    how |= {"precision": run.run_opts.eval_precision, "progress": not run.run_opts.noprogressbar}
    tables = []
    for one in (run.corpora.dev, *run.corpora.tests):
        metadata = table_metadata(one, model, model_digest=digest, seed=config.seed, limit=config.test_utterances)
        path = folder / "tables" / f"{one.name}.parquet"
        averaged = {"average_exits": config.average_exits, "nbest": config.nbest}
        table = collect_by_share(model, vocabulary, one, path, metadata=metadata, **averaged, **how)
        run_on_main(write_transcripts, args=[table, folder / "transcripts" / one.name])
        tables.append(table)
        if decoder is not None and if_main_process():
            path = folder / "tables" / config.decoding / f"{one.name}.parquet"
            again = decode_or_reuse(model, table, one, path, decoder=decoder, vocabulary=vocabulary, **how)
            write_transcripts(again, folder / "transcripts" / config.decoding / one.name)
    return tables[0], tables[1:]


def compared_policies(config: Config) -> list[Policy]:
    """The chosen policy first, then those it is compared with; none for a model with a single exit."""
    if len(all_exit_layers(config)) == 1:
        return []
    chosen = parse_policy(config.exit_policy)
    others = [policy for policy in parse_policies(config.compare_policies) if str(policy) != str(chosen)]
    return [chosen, *others]


def calibrate(run: Run, dev: ExitTable, tests: Sequence[ExitTable] = ()) -> tuple[list[Calibrated], FusionModel | None]:
    """Thresholds chosen on dev to the budget, saved in the model folder's `policy.json`; the chosen policy first.

    Under `words: fused` what fuses words is fitted and kept there too, if it wins on speakers of dev that its trees
    never saw; `exit_risk` then fits all on one half of the speakers, and promises of the other half's fused words.

    `tests`: of whose corpora there is no dev speech is said.
    """
    excess = run.config.exit_excess
    rule = {"budget": run.config.exit_budget} if excess is None else {"excess": excess}
    calibrated = [choose(dev, policy, **rule) for policy in compared_policies(run.config)]
    risk = run.config.exit_risk if calibrated else None
    parts = [dev]
    if risk is not None and run.config.words == "fused":
        half = speaker_folds(dev, 2)
        parts = [dev.select(half == 0), dev.select(half == 1)]
    kept = _kept_fusion(run, parts[0], tests) if calibrated and run.config.words == "fused" else None
    if risk is not None:
        target, policy = target_of(risk), parse_policy(run.config.exit_policy)
        if kept is None:
            calibrated[0] = certify(dev, policy, target=target)
        else:
            source = parts[0].with_emitted(kept.fused[0].hypotheses)
            heard = parts[1].with_emitted(fuse(parts[1], kept.model))
            found = certify(heard, policy, target=target, source_table=source)
            calibrated[0] = replace(found, promise={**found.promise, "words": "fused", "fusion": kept.digest})
        logger.info("%s: %s", target.rule, "\n".join(certificate_lines(calibrated[0].promise, delta=target.delta)))
    calibrated = [replace(one, drift=drift_reference(dev, one.policy)) for one in calibrated]
    if calibrated:
        write_policies(run.folder / "model" / "policy.json", calibrated)
    for one in calibrated:
        logger.info("%s: dev WER %.2f %% at %.2f layers", one.policy, one.dev_wer, one.dev_cost)
    return calibrated, None if kept is None else kept.model


def _kept_fusion(run: Run, dev: ExitTable, tests: Sequence[ExitTable]) -> KeptFusion | None:
    """What fuses words, in the model folder; None where it wins nothing or exits never disagree, which is said."""
    folder = run.folder / "model"
    try:
        kept = keep_fusion(folder, [dev], model_digest=model_digest(folder), others=tests)
    except ValueError as err:
        logger.warning("words: fused: %s; words stay those of the exit taken", err)
        return None
    for line in kept.lines:
        logger.info("words: fused: %s", line)
    return kept if kept.digest else None


def single_exit_tables(config: Config) -> list[ExitTable]:
    """Test tables of the single-exit model's run folder (the exit tax), none where the YAML names none."""
    if config.single_exit_folder is None:
        return []
    paths = sorted((Path(config.single_exit_folder) / "tables").glob("*.parquet"))
    if not paths:
        raise FileNotFoundError(
            f"single_exit_folder '{config.single_exit_folder}' must be a run folder with tables/*.parquet, it has none"
        )
    return [read_table(path) for path in paths]
