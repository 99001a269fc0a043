"""Commands on models: `benchmark`, `confidence`, `fusion`, `export`, `push`, `probe`, `accelerate`."""

import argparse
import json
import sys
from pathlib import Path

from eeasr_modules.commands.options import add_command, add_words, whole_number


def add(commands: argparse._SubParsersAction) -> None:
    """Add `benchmark`, `confidence`, `fusion`, `export`, `push`, `probe`, `accelerate` to the parser's commands."""
    _add_benchmark(commands)
    _add_confidence(commands)
    _add_fusion(commands)
    _add_export(commands)
    _add_push(commands)
    _add_probe(commands)
    _add_accelerate(commands)


def _add_benchmark(commands: argparse._SubParsersAction) -> None:
    about = "time ways of transcribing side by side: full depth, cut off, all exits then pick, whole batch, ours"
    parser = add_command(commands, "benchmark", _benchmark, about)
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
        "--normaliser", default="upper", metavar="NAME", help="of texts: none, upper, words, whisper (default: upper)"
    )
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument(
        "--front-end", "--front_end", default="stock", metavar="NAME", help="of every way: stock (default) or fast"
    )
    parser.add_argument("--precision", default="float32", metavar="NAME", help="of ours and stock (default: float32)")
    parser.add_argument("--out", metavar="DIR", help="folder for benchmark.md and benchmark.csv")


def _benchmark(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from eeasr_modules.runtime import EarlyExitASR
    from eeasr_modules.runtime.benchmark.bench import (
        bench_policies,
        benchmark_csv,
        benchmark_markdown,
        run_benchmark,
        write_benchmark,
    )
    from eeasr_modules.runtime.benchmark.ways import peers_beside
    from eeasr_modules.runtime.files.inputs import noise, read_material

    batches = [whole_number("--batch", part) for part in options.batch.split(",")]
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {options.limit}")
    if not 0.1 <= options.seconds <= 30:
        raise ValueError(f"--seconds must be from 0.1 to 30, got {options.seconds:g}")
    # the stock front end, so that the ways differ in when they stop and in nothing else
    made = {"device": options.device, "front_end": options.front_end, "precision": options.precision}
    asr = EarlyExitASR.from_pretrained(options.model, **made)
    policies = bench_policies(asr, options.policies, budget=options.budget)
    rate = asr.engine.sample_rate
    if options.inputs:
        material = read_material(options.inputs, sample_rate=rate, limit=options.limit)
    else:
        material = noise(max(batches), sample_rate=rate, seconds=options.seconds)
    beside, notes = peers_beside(asr.engine, material, batches=batches, threads=options.threads)
    material = replace(material, notes=(*material.notes, *notes))
    results = run_benchmark(
        asr,
        material,
        policies,
        beside=beside,
        batches=batches,
        repeats=options.repeats,
        threads=options.threads,
        normaliser=options.normaliser,
        progress=lambda line: print(f"eeasr: {line}", file=sys.stderr),
    )
    shown = {"device": asr.engine.device}
    about = {"model": options.model, "threads": options.threads, "command": options.command_line}
    markdown = benchmark_markdown(results, material, precision=options.precision, **about, **shown)
    print(markdown, end="")
    if options.out:
        written = write_benchmark(options.out, markdown, benchmark_csv(results, **shown))
        print("Written: " + ", ".join(str(path) for path in written))


def _add_confidence(commands: argparse._SubParsersAction) -> None:
    about = "make a model's word confidences probabilities, by recordings with references"
    parser = add_command(commands, "confidence", _confidence, about)
    parser.add_argument("model", metavar="MODEL", help="folder that train.py left; gets a confidence.json")
    parser.add_argument("inputs", nargs="+", metavar="MANIFEST", help=".csv with references, not of training or test")
    parser.add_argument(
        "--normaliser", default="upper", metavar="NAME", help="of texts: none, upper, words, whisper (default: upper)"
    )
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")


def _confidence(options: argparse.Namespace) -> None:
    from eeasr_modules.runtime.confidence import fit_confidence

    path, found = fit_confidence(
        options.model,
        options.inputs,
        normaliser=options.normaliser,
        device=options.device,
        progress=lambda line: print(f"eeasr: {line}", file=sys.stderr),
    )
    print(f"Written: {path} ({found.n_words} words of {found.n_utterances} utterances and all exits)")


def _add_fusion(commands: argparse._SubParsersAction) -> None:
    about = "fit what fuses the words of several exits, on exit tables of dev, for --words fused"
    parser = add_command(commands, "fusion", _fusion, about)
    parser.add_argument("model", metavar="MODEL", help="folder that train.py left; gets a fusion.json")
    parser.add_argument(
        "tables", nargs="+", metavar="TABLE", help="exit tables (.parquet) with references, not of test"
    )
    parser.add_argument(
        "--for",
        nargs="+",
        default=[],
        metavar="TABLE",
        dest="others",
        help="of speech to serve: says what lacks dev speech",
    )
    parser.add_argument("--anyway", action="store_true", help="write it also where it wins nothing for sure")


def _fusion(options: argparse.Namespace) -> None:
    from eeasr_modules.exits import read_table
    from eeasr_modules.exits.measure.fusion import keep_fusion
    from eeasr_modules.models.folder import model_digest
    from eeasr_modules.runtime.sources import find_source

    find_source(options.model).refuse_own_decoder("eeasr fusion")
    tables, others = ([read_table(path) for path in paths] for paths in (options.tables, options.others))
    how = {"model_digest": model_digest(options.model), "others": others, "anyway": options.anyway}
    print("\n".join(keep_fusion(options.model, tables, **how).lines))


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = add_command(commands, "export", _export, "write a model as ONNX graphs that stop at its exits")
    parser.add_argument("model", metavar="MODEL", help="folder of a model or CTC checkpoint, or an id on the hub")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="to write; new or empty")
    parser.add_argument("--format", default="onnx", help="onnx (default)")
    parser.add_argument("--int8", action="store_true", help="also with matrix products in 8 bits")
    parser.add_argument("--policy", metavar="TEXT", help="that the manifest names (default: the model's)")
    parser.add_argument("--budget", type=float, metavar="B", help="mean cost allowed, as for transcribe")
    add_words(parser)
    parser.add_argument("--check", nargs="+", default=[], metavar="AUDIO", help="compare with the model on these")


def _export(options: argparse.Namespace) -> None:
    from eeasr_modules.runtime.onnx.export import check_export, export_model

    if options.words == "fused":
        raise ValueError("an exported model says the words of the exit it takes: leave out --words fused")
    chosen = {"policy": options.policy, "budget": options.budget}
    written = export_model(options.model, options.output, format=options.format, int8=options.int8, **chosen)
    print(f"Written: {written}")
    if options.check:
        found = check_export(options.model, options.output, options.check)
        print(", ".join(f"{name}: {value}" for name, value in found.items()))


def _add_push(commands: argparse._SubParsersAction) -> None:
    parser = add_command(commands, "push", _push, "send a model folder to the Hugging Face hub")
    parser.add_argument("model", metavar="MODEL", help="folder that train.py left")
    parser.add_argument("repo_id", metavar="USER/NAME", help="where to; made if it is not there")
    parser.add_argument("--private", action="store_true", help="where it is made: for nobody else to see")
    parser.add_argument("--dry-run", action="store_true", help="look at files and card, send nothing")


def _push(options: argparse.Namespace) -> None:
    from eeasr_modules.training.publish.release import push

    print("\n".join(push(options.model, options.repo_id, private=options.private, dry_run=options.dry_run).lines()))


def _add_probe(commands: argparse._SubParsersAction) -> None:
    parser = add_command(commands, "probe", _probe, "does a checkpoint overthink: every layer read, trained, tested")
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="hub id, folder as transformers saves it, SpeechBrain CTC run"
    )
    parser.add_argument("--encoder", metavar="FOLDER", help="of a SpeechBrain run, offline: its wav2vec2_hub")
    parser.add_argument("--data", required=True, metavar="[CORPUS:]FOLDER", help="to learn from and test on")
    parser.add_argument("--ood", nargs="+", default=[], metavar="[CORPUS:]FOLDER", help="other corpora to test on")
    parser.add_argument(
        "--splits", default="train/dev/test", metavar="A/B/C", help="of --data (default: train/dev/test)"
    )
    parser.add_argument(
        "--ood-splits", default="test", metavar="A[/B]", help="of every --ood, or each its own (default: test)"
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="heads trained so often; 0: the lens alone")
    parser.add_argument("--no-lens", action="store_true", help="heads alone; a decoder's lens is slow")
    parser.add_argument("--epochs", type=int, metavar="N", help="of heads (default: 10)")
    parser.add_argument("--limit", type=int, metavar="N", help="utterances of each split at most")
    parser.add_argument("--train-limit", type=int, metavar="N", help="of those to learn from (default: --limit)")
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="folder for everything")


def _probe(options: argparse.Namespace) -> None:
    from eeasr_modules.compat import ensure_torchaudio

    ensure_torchaudio()
    import eeasr_modules
    from eeasr_modules.report import write_report
    from eeasr_modules.report.render.probe import paired_rows, write_probe
    from eeasr_modules.training.probe.probe import seen, set_up, texts_seen
    from eeasr_modules.training.run_folder import hold, release_all

    if options.seeds < 0:
        raise ValueError(f"--seeds must be 0 (the lens alone) or more, got {options.seeds}")
    parts = options.splits.split("/")
    if len(parts) != 3 or not all(parts):
        raise ValueError(
            f"--splits must be three names with / between them, such as train/dev/test, got {options.splits}"
        )
    ood_parts = [part.split(",") for part in options.ood_splits.split("/")]
    if len(ood_parts) not in (1, len(options.ood)):
        raise ValueError(
            f"--ood-splits must be one for all --ood or one for each with / between, got {options.ood_splits}"
        )
    out = Path(options.out)
    try:
        hold(out)
        probe = set_up(
            options.checkpoint,
            data=options.data,
            ood=options.ood,
            folder=out,
            root=Path(eeasr_modules.__file__).parents[1],
            splits=[part.split(",") for part in parts],
            ood_splits=ood_parts,
            options=_as_train(options),
            encoder=options.encoder,
            lens=not options.no_lens,
        )
        if not probe.has_lens and not options.seeds:
            lacks = f"'{options.checkpoint}' has no decoder and no CTC head that spells the texts"
            raise ValueError(f"{'--no-lens' if options.no_lens else lacks}: give --seeds 1 or more")
        needs = probe.needs(options.seeds)
        print(f"eeasr: {needs}", file=sys.stderr)
        readings = [probe.lens()] if probe.has_lens else []
        readings += [probe.heads(probe.config.seed + i) for i in range(options.seeds)]
    finally:
        release_all()
    for one in readings:
        write_report(
            one.tests,
            one.folder / "report",
            dev=one.dev,
            policies=[str(each.open_policy) for each in one.policies],
            policy=str(one.policies[0].open_policy) if one.policies else None,
            budget=probe.config.exit_budget,
            calibrated={str(each.open_policy): each.policy for each in one.policies},
            command=options.command_line,
        )
    corpora = probe.corpora
    numbers = write_probe(
        out,
        {one.name: (one.dev, one.tests) for one in readings},
        checkpoint=options.checkpoint,
        command=options.command_line,
        overlap={
            one.name: (seen(corpora.train, one.manifests), texts_seen(corpora.train, one.manifests))
            for one in corpora.tests
        },
        needs=needs,
        summaries={
            one.name: json.loads((one.folder / "report" / "summary.json").read_text(encoding="utf-8"))
            for one in readings
        },
    )
    for row in paired_rows(numbers)[1]:
        print("{}, {}: layer {} minus the last {} (p {}); {} overthought: {}".format(*row))
    print(f"Written: {out}/probe.md, tables.tex, figures.pdf, methods.md; exit tables in {out}/*/tables")


def _as_train(options: argparse.Namespace) -> list[str]:
    """What `train.py` would be given."""
    given = ["--noprogressbar"]
    for name, value in (("n_epochs", options.epochs), ("test_utterances", options.limit), ("device", options.device)):
        given += [f"--{name}", str(value)] if value is not None else []
    learned = options.limit if options.train_limit is None else options.train_limit
    if learned is not None:
        given += ["--train_utterances", str(learned)]
    return given


def _add_accelerate(commands: argparse._SubParsersAction) -> None:
    parser = add_command(
        commands, "accelerate", _accelerate, "make a CTC checkpoint leave early, from recordings alone"
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="CTC checkpoint or model folder, or an id on the hub")
    parser.add_argument("recordings", metavar="RECORDINGS", help="folder of audio, list, or listing with speakers")
    parser.add_argument("--changed", type=float, default=2.0, metavar="PERCENT", help="words changed (default: 2)")
    parser.add_argument("--delta", type=float, default=0.1, metavar="D", help="risk of the promise (default: 0.1)")
    parser.add_argument("--epochs", type=int, default=8, metavar="N", help="of the heads (default: 8)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the parts and of training")
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="the model folder to make")


def _accelerate(options: argparse.Namespace) -> None:
    from eeasr_modules.training.accelerate import accelerate

    found = accelerate(
        options.checkpoint,
        options.recordings,
        folder=options.out,
        changed=options.changed,
        delta=options.delta,
        n_epochs=options.epochs,
        seed=options.seed,
        device=options.device,
        say=lambda line: print(f"eeasr: {line}", file=sys.stderr),
    )
    print(found.statement)
    print(found.sentence)
