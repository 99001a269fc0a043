"""The command `eeasr`: exit tables in, reports out. What a command needs is imported inside it."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage lines."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Arguments
    ---------
    argv : sequence of str, or None
        Without the program's name; None takes those of the process.

    Returns
    -------
    int
        0; 1 when some recordings could not be transcribed; 2 after one sentence on standard error; 130 when
        interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        parser, commands = _parser()
        if argv and not argv[0].startswith("-") and argv[0] not in commands:
            raise ValueError(f"unknown command {argv[0]!r}; known: {', '.join(commands)}")
        options = parser.parse_args(argv)
        options.command_line = shlex.join(["eeasr", *argv])
        return options.run(options) or 0
    except KeyboardInterrupt:
        print("eeasr: stopped", file=sys.stderr)
        return 130
    except (ValueError, KeyError, OSError) as err:
        message = err.args[0] if isinstance(err, KeyError) and err.args else err
        print(f"eeasr: error: {message}", file=sys.stderr)
        return 2


def _parser() -> tuple[_Parser, list[str]]:
    """The parser and the names of its commands."""
    from eeasr_modules import __version__

    parser = _Parser(prog="eeasr", description="Early exit for speech recognition.")
    parser.add_argument("--version", action="version", version=f"eeasr {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_analyze(commands)
    _add_import_transcripts(commands)
    _add_score(commands)
    _add_transcribe(commands)
    _add_try(commands)
    _add_demo(commands)
    _add_benchmark(commands)
    _add_export(commands)
    _add_report(commands)
    _add_push(commands)
    _add_completion(commands)
    return parser, list(commands.choices)


def _add_report(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "report", _report, "a page on a training that is under way")
    parser.add_argument("folder", metavar="RUN", help="run folder of train.py")
    parser.add_argument("--live", action="store_true", help="draw it again until interrupted")
    parser.add_argument("--every", type=int, default=15, metavar="S", help="seconds between drawings (default: 15)")


def _report(options: argparse.Namespace) -> None:
    import time

    from eeasr_modules.report.live import write_live_page

    if options.every < 1:
        raise ValueError(f"--every must be at least 1, got {options.every}")
    print(f"eeasr: open {write_live_page(options.folder, refresh_s=options.every)}")
    while options.live:
        time.sleep(options.every)
        write_live_page(options.folder, refresh_s=options.every)


def _add_push(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "push", _push, "send a model folder to the Hugging Face hub")
    parser.add_argument("model", metavar="MODEL", help="folder that train.py left")
    parser.add_argument("repo_id", metavar="USER/NAME", help="where to; made if it is not there")
    parser.add_argument("--private", action="store_true", help="where it is made: for nobody else to see")
    parser.add_argument("--dry-run", action="store_true", help="look at files and card, send nothing")


def _push(options: argparse.Namespace) -> None:
    from eeasr_modules.training.pushing import push

    print("\n".join(push(options.model, options.repo_id, private=options.private, dry_run=options.dry_run).lines()))


def _add_completion(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "completion", _completion, "print a script that completes commands on Tab")
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def _completion(options: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError as err:
        raise ValueError("completion needs the package shtab: pip install shtab") from err
    print(shtab.complete(_parser()[0], shell=options.shell))


def _add_analyze(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "analyze", _analyze, "make a report from exit tables")
    parser.add_argument("tables", nargs="+", metavar="TABLE", help="exit tables of test sets (.parquet)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for report.html, report.md and the rest")
    parser.add_argument("--dev", metavar="TABLE", help="exit table that thresholds are chosen on")
    parser.add_argument("--policies", metavar="TEXT", help='policies to compare, such as "between(entropy)"')
    parser.add_argument("--policy", metavar="TEXT", help="the one to stress (default: the best on dev)")
    parser.add_argument(
        "--budget",
        type=float,
        metavar="B",
        help="mean cost allowed: a share of full cost up to 1, layers above 1 (default: first of --budgets, or 0.75)",
    )
    parser.add_argument("--budgets", metavar="B,B,...", help="several of them, such as 7,8,9,10")
    parser.add_argument(
        "--cost",
        default="depth",
        choices=("depth", "macs", "time"),
        help="what budgets count: layers, MACs (heads that are read included), measured time (default: depth)",
    )
    parser.add_argument(
        "--single-exit", nargs="+", default=[], metavar="TABLE", help="same sets, model trained with one exit"
    )
    parser.add_argument(
        "--cross-fit", action="store_true", help="without --dev: 10 folds of speakers in place of 2 halves"
    )
    parser.add_argument(
        "--risk",
        metavar="EPS,DELTA",
        help="certify: at most EPS WER points above the last exit, with probability 1 - DELTA",
    )
    parser.add_argument(
        "--examples",
        type=int,
        default=3000,
        metavar="N",
        help="utterances of each set whose transcripts the page holds (default: 3000; 0 for none)",
    )


def _analyze(options: argparse.Namespace) -> None:
    from eeasr_modules.exits import parse_policies, parse_policy, read_table
    from eeasr_modules.exits.risk_losses import parse_risk
    from eeasr_modules.report import DEFAULT_POLICIES, closing_lines, write_report

    policies = parse_policies(options.policies or DEFAULT_POLICIES)
    policy = parse_policy(options.policy) if options.policy else None
    budgets = _numbers("--budgets", options.budgets) if options.budgets else []
    budget = options.budget if options.budget is not None else (budgets or [0.75])[0]
    if options.cross_fit and options.dev:
        raise ValueError("--cross-fit is for reports without a dev table; leave it or --dev out")
    summary = write_report(
        [read_table(path) for path in options.tables],
        options.out,
        dev=read_table(options.dev) if options.dev else None,
        policies=[str(one) for one in policies],
        policy=None if policy is None else str(policy),
        budget=budget,
        other_budgets=[one for one in budgets if one != budget],
        cost=options.cost,
        n_folds=10 if options.cross_fit else 2,
        single_exit=[read_table(path) for path in options.single_exit],
        risk=parse_risk(options.risk) if options.risk else None,
        n_examples=options.examples,
        command=options.command_line,
    )
    print("\n".join(closing_lines(summary)))


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as err:
        raise ValueError(f"{option} must be numbers with commas between them, such as 7,8,9, got {text!r}") from err


def _add_import_transcripts(commands: argparse._SubParsersAction) -> None:
    about = "make an exit table from recorded transcripts of each exit"
    parser = _command(commands, "import-transcripts", _import_transcripts, about)
    parser.add_argument("source", metavar="FILE", help="rows id, exit, hypothesis (plain), or a folder (exit-traces)")
    parser.add_argument("--format", required=True, help="how they are laid out: plain, exit-traces")
    parser.add_argument("-o", "--output", required=True, metavar="TABLE", help="the table to write (.parquet)")
    parser.add_argument(
        "--drop-incomplete", action="store_true", help="leave out utterances without all exits or a reference"
    )
    _add_plain_options(parser)
    parser.add_argument("--split", help="exit-traces: which part, clean or other")
    parser.add_argument("--model", help="exit-traces: which model's subfolder (default: ee40)")


def _add_plain_options(parser: _Parser) -> None:
    """How a plain file of transcripts is read."""
    parser.add_argument("--references", metavar="FILE", help="plain: rows id, reference, where FILE lacks them")
    parser.add_argument(
        "--normaliser",
        default="none",
        metavar="NAME",
        help="plain: none, upper (case), words (case and punctuation); for references and transcripts alike",
    )
    parser.add_argument("--set-name", metavar="NAME", help="plain: name of the set (default: the file's)")


def _import_transcripts(options: argparse.Namespace) -> None:
    from eeasr_modules.exits import import_transcripts, write_table

    table = import_transcripts(
        options.source,
        options.split,
        model=options.model,
        format=options.format,
        references=options.references,
        drop_incomplete=options.drop_incomplete,
        normaliser=options.normaliser,
        set_name=options.set_name,
    )
    write_table(table, options.output)
    layers = ", ".join(map(str, table.exit_layers))
    dropped = table.metadata["n_dropped"]
    left_out = f"; {dropped} incomplete left out" if dropped else ""
    print(f"{options.output}: {table.n_utterances} utterances, exits after layers {layers}{left_out}")


def _add_score(commands: argparse._SubParsersAction) -> None:
    about = "score transcripts of every exit, policies and choices (ExitBench)"
    parser = _command(commands, "score", _score, about)
    parser.add_argument("source", metavar="TABLE", help="exit table (.parquet), or a plain file of transcripts")
    parser.add_argument("--choices", nargs="+", default=[], metavar="FILE", help="rows id, exit_layer[, hypothesis]")
    parser.add_argument("--policy", metavar="TEXT", help='policies; open ones are cross-fitted: "entropy, gain"')
    parser.add_argument(
        "--budgets", metavar="B,B", help="mean depths, layers or shares (default: 7, 8, 9, 10 twelfths)"
    )
    parser.add_argument("--out", metavar="DIR", help="folder for score.json and score.md")
    parser.add_argument("--drop-incomplete", action="store_true", help="plain: leave out utterances that are not whole")
    _add_plain_options(parser)


def _score(options: argparse.Namespace) -> None:
    from eeasr_modules.exits import parse_policies
    from eeasr_modules.exits.score import BUDGETS, score_table
    from eeasr_modules.exits.score_choices import read_choices
    from eeasr_modules.exits.score_text import score_markdown, write_score

    table = _scored_table(options)
    try:
        budgets = [float(part) for part in options.budgets.split(",")] if options.budgets else BUDGETS
    except ValueError as err:
        raise ValueError(f"--budgets must be numbers separated by commas, got {options.budgets!r}") from err
    score = score_table(
        table,
        policies=parse_policies(options.policy) if options.policy else (),
        choices=[read_choices(path, table) for path in options.choices],
        budgets=budgets,
    )
    print(score_markdown(score), end="")
    if options.out:
        print("Written: " + ", ".join(str(path) for path in write_score(score, options.out)))


def _scored_table(options: argparse.Namespace):
    from eeasr_modules.exits import read_table
    from eeasr_modules.exits.plain_transcripts import read_plain

    if not options.source.endswith(".parquet"):
        return read_plain(
            options.source,
            options.references,
            drop_incomplete=options.drop_incomplete,
            normaliser=options.normaliser,
            set_name=options.set_name,
        )
    if options.references or options.set_name or options.drop_incomplete or options.normaliser != "none":
        raise ValueError("--references, --normaliser, --set-name and --drop-incomplete are for plain files, not tables")
    return read_table(options.source)


def _add_transcribe(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "transcribe", _transcribe, "transcribe recordings, each as deep as its policy says")
    parser.add_argument("model", metavar="MODEL", help="folder of a model or CTC checkpoint, or an id on the hub")
    parser.add_argument(
        "inputs", nargs="+", metavar="AUDIO", help="files, folders, .txt lists, .csv manifests, - for a list on stdin"
    )
    _add_choice(parser)
    parser.add_argument("-o", "--output", metavar="PATH", help="a .jsonl, .csv, .txt or .srt (default: print)")
    parser.add_argument("--format", choices=("jsonl", "csv", "txt", "srt"), help="where the name does not say it")
    parser.add_argument(
        "--batch-seconds", type=float, default=60.0, metavar="S", help="padded audio in a batch (default: 60)"
    )
    _add_decoding(parser)
    parser.add_argument(
        "--pool-survivors", "--pool_survivors", action="store_true", help="keep deep layers' batches full (GPU)"
    )
    parser.add_argument(
        "--on-drift",
        choices=("off", "warn", "full_depth"),
        default="off",
        help="when speech is no longer like that of calibration (default: off, nobody watches)",
    )
    parser.add_argument(
        "--progressive", action="store_true", help="say on standard error what every exit hears, as it is heard"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_decoding(parser: _Parser) -> None:
    parser.add_argument("--decoding", choices=("greedy", "beam"), help="beam: search at the exit that is taken")
    parser.add_argument("--lm", metavar="FILE", help="n-gram model of words for the beam: ARPA or KenLM binary")
    parser.add_argument("--beam-size", type=int, default=60, metavar="N", help="transcripts kept (default: 60)")
    parser.add_argument("--lm-weight", type=float, default=0.8, metavar="W", help="of the model (default: 0.8)")
    parser.add_argument("--word-score", type=float, default=1.5, metavar="S", help="for every word (default: 1.5)")


def _decoding(options: argparse.Namespace):
    from eeasr_modules.models.beam import BeamOptions

    if options.lm is not None and options.decoding == "greedy":
        raise ValueError("--lm needs a beam: leave out --decoding greedy")
    if options.lm is None and options.decoding != "beam":
        return None
    return BeamOptions(options.beam_size, options.lm, lm_weight=options.lm_weight, word_score=options.word_score)


def _add_choice(parser: _Parser) -> None:
    parser.add_argument("--policy", metavar="TEXT", help="such as entropy(0.12), or a calibrated one's name")
    parser.add_argument(
        "--budget", type=float, metavar="B", help="mean cost allowed: a share of full depth up to 1, layers above 1"
    )
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument(
        "--precision", default="float32", metavar="NAME", help="float32, bfloat16, float16 (GPU) or int8 (CPU)"
    )
    parser.add_argument(
        "--front-end", "--front_end", default="fast", metavar="NAME", help="fast (on CPUs, same output) or stock"
    )


def _transcribe(options: argparse.Namespace) -> int:
    from eeasr_modules.runtime import EarlyExitASR
    from eeasr_modules.runtime.sharding import Ranks
    from eeasr_modules.runtime.transcribing import local_device, transcribe_files

    ranks = Ranks.from_environment()
    asr = EarlyExitASR.from_pretrained(
        options.model,
        policy=options.policy,
        budget=options.budget,
        device=local_device(options.device, ranks),
        batch_seconds=options.batch_seconds,
        pool_survivors=options.pool_survivors,
        front_end=options.front_end,
        precision=options.precision,
        decoding=_decoding(options),
        on_drift=options.on_drift,
    )
    tally = transcribe_files(
        asr,
        options.inputs,
        output=options.output,
        format=options.format,
        standard_input=sys.stdin,
        progress=False if options.quiet else None,
        progressive=options.progressive,
        ranks=ranks,
    )
    if ranks.is_first:
        print(f"eeasr: {asr.policy}: {tally}", file=sys.stderr)
    return 1 if tally.n_failed + tally.n_failed_before else 0


def _add_try(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "try", _try, "hear a model on your own voice, exit by exit")
    parser.add_argument("arguments", nargs="*", metavar="[MODEL] [AUDIO ...]", help="none: record by the microphone")
    parser.add_argument("--sentences", metavar="FILE", help="what is said, one sentence a line")
    _add_choice(parser)


def _try(options: argparse.Namespace) -> None:
    from eeasr_modules.runtime import EarlyExitASR
    from eeasr_modules.runtime.trying import hear, model_and_files, read_sentences, run_trials, trial_lines

    model, files = model_and_files(options.arguments)
    sentences = read_sentences(options.sentences)
    asr = EarlyExitASR.from_pretrained(
        model,
        policy=options.policy,
        budget=options.budget,
        device=options.device,
        front_end=options.front_end,
        precision=options.precision,
    )
    wavs = hear(files, sentences, sample_rate=asr.source.config.get("sample_rate", 16000))
    trials = run_trials(asr, wavs, sentences)
    print("\n".join(trial_lines(trials, exit_layers=asr.source.exit_layers, policy=str(asr.policy))))


def _add_demo(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "demo", _demo, "a page on this machine: speak, and see every exit and policy at work")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="folder or hub id (default: the shipped model)")
    parser.add_argument("--port", type=int, metavar="N", help="of 127.0.0.1 (default: a free one from 7860 up)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    _add_choice(parser)


def _demo(options: argparse.Namespace) -> None:
    from eeasr_modules.demo.app import serve
    from eeasr_modules.runtime import EarlyExitASR
    from eeasr_modules.runtime.trying import default_model

    asr = EarlyExitASR.from_pretrained(
        options.model or default_model(),
        policy=options.policy,
        budget=options.budget,
        device=options.device,
        front_end=options.front_end,
        precision=options.precision,
    )
    serve(asr, port=options.port, open_browser=not options.no_browser)


def _add_benchmark(commands: argparse._SubParsersAction) -> None:
    about = "time ways of transcribing side by side: full depth, cut off, all exits then pick, whole batch, ours"
    parser = _command(commands, "benchmark", _benchmark, about)
    parser.add_argument("model", metavar="MODEL", help="folder of a model or CTC checkpoint, or an id on the hub")
    parser.add_argument("inputs", nargs="*", metavar="AUDIO", help="as for transcribe; a .csv may have references")
    parser.add_argument(
        "--policies", metavar="TEXT", help='such as "entropy, patience(2, 0.1)" (default: the model\'s)'
    )
    parser.add_argument("--budget", type=float, metavar="B", help="mean cost allowed, for policies without numbers")
    parser.add_argument("--batch", default="1,8,32", metavar="N,N,...", help="utterances in a batch (default: 1,8,32)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed runs of each way (default: 5)")
    parser.add_argument("--limit", type=int, metavar="N", help="recordings at most")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="noise without AUDIO (default: 10)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="on a CPU (default: 1)")
    parser.add_argument(
        "--normaliser", default="upper", metavar="NAME", help="for references and transcripts: none, upper, words"
    )
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument(
        "--front-end", "--front_end", default="stock", metavar="NAME", help="of every way: stock (default) or fast"
    )
    parser.add_argument("--out", metavar="DIR", help="folder for benchmark.md and benchmark.csv")


def _benchmark(options: argparse.Namespace) -> None:
    from eeasr_modules.runtime import EarlyExitASR
    from eeasr_modules.runtime.bench import bench_policies, run_benchmark
    from eeasr_modules.runtime.bench_material import noise, read_material
    from eeasr_modules.runtime.bench_text import benchmark_csv, benchmark_markdown, write_benchmark

    batches = [_whole_number("--batch", part) for part in options.batch.split(",")]
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {options.limit}")
    if not 0.1 <= options.seconds <= 30:
        raise ValueError(f"--seconds must be from 0.1 to 30, got {options.seconds:g}")
    # the stock front end, so that the ways differ in when they stop and in nothing else
    asr = EarlyExitASR.from_pretrained(options.model, device=options.device, front_end=options.front_end)
    policies = bench_policies(asr, options.policies, budget=options.budget)
    rate = asr.engine.sample_rate
    if options.inputs:
        material = read_material(options.inputs, sample_rate=rate, limit=options.limit)
    else:
        material = noise(max(batches), sample_rate=rate, seconds=options.seconds)
    results = run_benchmark(
        asr,
        material,
        policies,
        batches=batches,
        repeats=options.repeats,
        threads=options.threads,
        normaliser=options.normaliser,
        progress=lambda line: print(f"eeasr: {line}", file=sys.stderr),
    )
    shown = {"device": asr.engine.device}
    markdown = benchmark_markdown(
        results, material, model=options.model, threads=options.threads, command=options.command_line, **shown
    )
    print(markdown, end="")
    if options.out:
        written = write_benchmark(options.out, markdown, benchmark_csv(results, **shown))
        print("Written: " + ", ".join(str(path) for path in written))


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "export", _export, "write a model as ONNX graphs that stop at its exits")
    parser.add_argument("model", metavar="MODEL", help="folder of a model or CTC checkpoint, or an id on the hub")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="to write; new or empty")
    parser.add_argument("--format", default="onnx", help="onnx (default)")
    parser.add_argument("--int8", action="store_true", help="also with matrix products in 8 bits")
    parser.add_argument("--policy", metavar="TEXT", help="that the manifest names (default: the model's)")
    parser.add_argument("--budget", type=float, metavar="B", help="mean cost allowed, as for transcribe")
    parser.add_argument("--check", nargs="+", default=[], metavar="AUDIO", help="compare with the model on these")


def _export(options: argparse.Namespace) -> None:
    from eeasr_modules.runtime.export import check_export, export_model

    chosen = {"policy": options.policy, "budget": options.budget}
    written = export_model(options.model, options.output, format=options.format, int8=options.int8, **chosen)
    print(f"Written: {written}")
    if options.check:
        found = check_export(options.model, options.output, options.check)
        print(", ".join(f"{name}: {value}" for name, value in found.items()))


def _whole_number(option: str, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(
            f"{option} must be whole numbers from 1 with commas between them, such as 1,8,32, got {text!r}"
        )
    return number


def _command(
    commands: argparse._SubParsersAction, name: str, run: Callable[[argparse.Namespace], int | None], about: str
) -> _Parser:
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.set_defaults(run=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
