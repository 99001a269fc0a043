"""Commands on exit tables: `analyze`, `import-transcripts`, `score`, `label`."""

import argparse
import sys
from pathlib import Path

from eeasr_modules.commands.options import Parser, add_command, numbers


def add(commands: argparse._SubParsersAction) -> None:
    """Add `analyze`, `import-transcripts`, `score`, `label` to the parser's commands."""
    _add_analyze(commands)
    _add_import_transcripts(commands)
    _add_score(commands)
    _add_label(commands)


def _add_analyze(commands: argparse._SubParsersAction) -> None:
    parser = add_command(commands, "analyze", _analyze, "make a report from exit tables")
    parser.add_argument("tables", nargs="+", metavar="TABLE", help="exit tables of test sets (.parquet)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for report.html, report.md and the rest")
    parser.add_argument("--dev", metavar="TABLE", help="exit table that thresholds are chosen on")
    parser.add_argument(
        "--fitted",
        metavar="MODEL",
        help="a model folder: its policies, fitted and swept on dev as its policy.json holds them; with a fusion.json "
        "the words of the chosen one fused, too",
    )
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
        metavar="EPS,DELTA[,CLIP] | changed=EPS,delta=DELTA",
        help="certify, with probability 1 - DELTA: at most EPS WER points above the last exit over speakers that lose "
        "at most CLIP points, and how many lose more (default CLIP: 4 EPS; 100: all speakers, and takes many). "
        "changed=2,delta=0.1: at most 2 %% of the last exit's words change by leaving early; reads no label; "
        "excess=EPS,delta=DELTA,per_exit=true: of those who leave at each exit, or the exit is closed",
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
    from eeasr_modules.exits.tuning.risk_losses import parse_risk
    from eeasr_modules.report import DEFAULT_POLICIES, closing_lines, write_report

    curves, fusion = _fitted(options) if options.fitted else ({}, None)
    policies = parse_policies(options.policies or ", ".join(curves) or DEFAULT_POLICIES)
    policy = parse_policy(options.policy) if options.policy else None
    budgets = numbers("--budgets", options.budgets) if options.budgets else []
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
        curves=curves,
        risk=parse_risk(options.risk) if options.risk else None,
        fusion=fusion,
        n_examples=options.examples,
        command=options.command_line,
    )
    print("\n".join(closing_lines(summary)))


def _fitted(options: argparse.Namespace) -> tuple:
    """Curves of the model folder's policies by their open text, and its fusion, None where it has none."""
    from eeasr_modules.exits import read_policies, read_table
    from eeasr_modules.exits.measure.fusion import FUSION_FILE, read_fusion

    if not options.dev:
        raise ValueError("--fitted needs the table that the policies were fitted on, got no --dev")
    if options.cost != "depth":
        raise ValueError(f"--fitted holds costs in layers, got --cost {options.cost}; leave one of them out")
    digest = read_table(options.dev).metadata.get("model_digest")
    found = read_policies(Path(options.fitted) / "policy.json", model_digest=digest)
    fused = (Path(options.fitted) / FUSION_FILE).is_file()
    fusion = read_fusion(options.fitted, model_digest=digest) if fused else None
    return {str(one.open_policy): one.grid for one in found if one.cost == "cost_layers"}, fusion


def _add_import_transcripts(commands: argparse._SubParsersAction) -> None:
    about = "make an exit table from recorded transcripts of each exit"
    parser = add_command(commands, "import-transcripts", _import_transcripts, about)
    parser.add_argument("source", metavar="FILE", help="rows id, exit, hypothesis (plain), or a folder (exit-traces)")
    parser.add_argument("--format", required=True, help="how they are laid out: plain, exit-traces")
    parser.add_argument("-o", "--output", required=True, metavar="TABLE", help="the table to write (.parquet)")
    parser.add_argument(
        "--drop-incomplete", action="store_true", help="leave out utterances without all exits or a reference"
    )
    _add_plain_options(parser)
    parser.add_argument("--split", help="exit-traces: which part, clean or other")
    parser.add_argument("--model", help="exit-traces: which model's subfolder (default: ee40)")


def _add_plain_options(parser: Parser) -> None:
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
    parser = add_command(commands, "score", _score, about)
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
    from eeasr_modules.exits.measure.exitbench import BUDGETS, read_choices, score_markdown, score_table, write_score

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
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(score_markdown(score), end="")
    if options.out:
        print("Written: " + ", ".join(str(path) for path in write_score(score, options.out)))


def _scored_table(options: argparse.Namespace):
    from eeasr_modules.exits import read_table
    from eeasr_modules.exits.tables.plain_transcripts import read_plain

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


def _add_label(commands: argparse._SubParsersAction) -> None:
    about = "certify a threshold for new recordings from few labels, and say which to label next"
    parser = add_command(commands, "label", _label, about)
    parser.add_argument(
        "table", metavar="TABLE", help="exit table of the recordings (.parquet); references are not read"
    )
    parser.add_argument(
        "labels", metavar="LABELS", help="rows id, reference; made, and filled up with whom to label next"
    )
    parser.add_argument("--policy", required=True, metavar="TEXT", help='threshold open, such as "between(entropy)"')
    parser.add_argument("--risk", default="1,0.1", metavar="EPS,DELTA", help="WER points, and doubt (default: 1,0.1)")
    parser.add_argument("--budget", type=int, default=50, metavar="N", help="most labels (default: 50)")
    parser.add_argument("--per-round", type=int, default=10, metavar="N", help="asked for at once (default: 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws; never tried out (default: 0)")
    parser.add_argument("--dev", metavar="TABLE", help="labelled speech that gain or lexical is fitted on")
    parser.add_argument("-o", "--output", metavar="FILE", help="policy.json to write when it is certified")


def _label(options: argparse.Namespace) -> None:
    from eeasr_modules.exits import parse_policy, read_table, write_policies
    from eeasr_modules.exits.tuning.few_labels import LabelTarget, few_labels, read_labels, write_labels

    given = numbers("--risk", options.risk)
    if len(given) != 2:
        raise ValueError(f"--risk must be eps in WER points and delta, such as 1,0.1, got {options.risk!r}")
    target = LabelTarget(*given, budget=options.budget, per_round=options.per_round, seed=options.seed)
    references = read_labels(options.labels)
    found = few_labels(
        read_table(options.table),
        parse_policy(options.policy),
        target=target,
        references=references,
        source_table=read_table(options.dev) if options.dev else None,
    )
    write_labels(options.labels, found.order, references)
    if found.certified:
        print(f"{found.policy}: {found.statement}")
        if options.output:
            write_policies(options.output, [found.calibrated()])
    else:
        print(found.statement)
    if found.to_label:
        print(
            f"{options.labels}: {len(found.to_label)} to label next; write what is said (- for nothing), run this again"
        )
