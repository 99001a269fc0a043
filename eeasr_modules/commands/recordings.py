"""Commands that hear recordings: `transcribe`, `leaderboard`, `demo`."""

import argparse
import contextlib
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

from eeasr_modules.commands.options import Parser, add_command, add_model_choice, add_words


def add(commands: argparse._SubParsersAction) -> None:
    """Add `transcribe`, `leaderboard`, `demo` to the parser's commands."""
    _add_transcribe(commands)
    _add_leaderboard(commands)
    _add_demo(commands)


def _add_transcribe(commands: argparse._SubParsersAction) -> None:
    parser = add_command(commands, "transcribe", _transcribe, "transcribe recordings, each as deep as its policy says")
    parser.add_argument("model", metavar="MODEL", help="folder of a model or CTC checkpoint, or an id on the hub")
    parser.add_argument(
        "inputs", nargs="+", metavar="AUDIO", help="files, folders, .txt lists, .csv manifests, - for a list on stdin"
    )
    add_model_choice(parser)
    parser.add_argument("-o", "--output", metavar="PATH", help="a .jsonl, .csv, .txt or .srt (default: print)")
    parser.add_argument("--format", choices=("jsonl", "csv", "txt", "srt"), help="where the name does not say it")
    parser.add_argument(
        "--batch-seconds", type=float, default=60.0, metavar="S", help="padded audio in a batch (default: 60)"
    )
    _add_decoding(parser)
    add_words(parser)
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
        "--on-risk",
        choices=("off", "warn", "full_depth"),
        default="off",
        help="when leaving early changes more words than allowed, by audits (default: off, nobody is audited)",
    )
    parser.add_argument(
        "--audit-share", type=float, default=0.05, metavar="Q", help="of utterances that run to the end (default: 0.05)"
    )
    parser.add_argument(
        "--risk-limit", type=float, metavar="EPS", help="words in 100 that may change (default: what is certified)"
    )
    parser.add_argument(
        "--progressive", action="store_true", help="say on standard error what every exit hears, as it is heard"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_decoding(parser: Parser) -> None:
    parser.add_argument(
        "--decoding",
        choices=("greedy", "beam", "attention"),
        help="beam: search at the exit that is taken; attention: by its decoder, where the model has one",
    )
    parser.add_argument("--lm", metavar="FILE", help="n-gram model of words for the beam: ARPA or KenLM binary")
    parser.add_argument("--beam-size", type=int, default=60, metavar="N", help="transcripts kept (default: 60)")
    parser.add_argument("--lm-weight", type=float, default=0.8, metavar="W", help="of the model (default: 0.8)")
    parser.add_argument("--word-score", type=float, default=1.5, metavar="S", help="for every word (default: 1.5)")
    parser.add_argument(
        "--attention-beam-size", type=int, default=10, metavar="N", help="the decoder's; 1: greedy (default: 10)"
    )
    parser.add_argument(
        "--attention-ctc-weight", type=float, default=0.3, metavar="W", help="share of CTC in it (default: 0.3)"
    )


def _decoding(options: argparse.Namespace):
    from eeasr_modules.models.decoding.attention import AttentionOptions
    from eeasr_modules.models.decoding.ctc import BeamOptions

    if options.decoding == "attention":
        if options.lm is not None:
            raise ValueError("--lm is for the CTC beam: leave out --decoding attention, or --lm")
        return AttentionOptions(options.attention_beam_size, options.attention_ctc_weight)
    if options.lm is not None and options.decoding == "greedy":
        raise ValueError("--lm needs a beam: leave out --decoding greedy")
    if options.lm is None and options.decoding != "beam":
        return None
    return BeamOptions(options.beam_size, options.lm, lm_weight=options.lm_weight, word_score=options.word_score)


def _audit(options: argparse.Namespace):
    from eeasr_modules.runtime.drift_watch import Audit

    if options.on_risk == "off":
        return None
    return Audit(options.audit_share, options.risk_limit, on_alarm=options.on_risk)


@contextlib.contextmanager
def _few_collections() -> Iterator[None]:
    """Garbage is looked for rarely: by default what torch defines, all of which stays, is gone through many times."""
    before = gc.get_threshold()
    gc.set_threshold(300_000, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@_few_collections()
def _transcribe(options: argparse.Namespace) -> int:
    from eeasr_modules.runtime import EarlyExitASR
    from eeasr_modules.runtime.files.shards import Ranks
    from eeasr_modules.runtime.files.transcribe import local_device, transcribe_files

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
        words=options.words,
        on_drift=options.on_drift,
        audit=_audit(options),
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
        print(f"eeasr: {asr.rule}: {tally}", file=sys.stderr)
    return 1 if tally.n_failed + tally.n_failed_before else 0


def _add_leaderboard(commands: argparse._SubParsersAction) -> None:
    about = "score a model as the Open ASR Leaderboard does: its manifest, WER, RTFx, results for the hub"
    parser = add_command(commands, "leaderboard", _leaderboard, about)
    parser.add_argument("model", metavar="MODEL", help="folder of a model or CTC checkpoint, or an id on the hub")
    parser.add_argument("dataset", metavar="DATASET", help="a listing, an audiofolder, or what datasets saved")
    add_model_choice(parser)
    parser.add_argument("--split", default="test", metavar="NAME", help="of a folder with several (default: test)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="utterances (default: 8)")
    parser.add_argument("--warmup", type=int, default=1, metavar="N", help="batches before the clock (default: 1)")
    parser.add_argument("--model-id", metavar="USER/NAME", help="in file names (default: the folder's name)")
    parser.add_argument("--dataset-id", metavar="NAME", help="likewise (default: the folder's name)")
    parser.add_argument("--task", metavar="NAME", help="of the leaderboard, such as librispeech_clean_wer")
    parser.add_argument("-o", "--output", default=".", metavar="FOLDER", help="for results/ and .eval_results/")


def _leaderboard(options: argparse.Namespace) -> None:
    from eeasr_modules.runtime import EarlyExitASR
    from eeasr_modules.runtime.files.leaderboard import entries_of, score, write_score

    dataset = options.dataset_id or Path(options.dataset).resolve().stem
    entries = entries_of(options.dataset, options.split, audio_folder=Path(options.output, "audio", dataset))
    asr = EarlyExitASR.from_pretrained(
        options.model,
        policy=options.policy,
        budget=options.budget,
        device=options.device,
        batch_seconds=1e9,  # a batch is what --batch-size says
        front_end=options.front_end,
        precision=options.precision,
    )
    found = score(asr, entries, batch_size=options.batch_size, warmup=options.warmup)
    written = write_score(
        found,
        options.output,
        model_id=options.model_id or Path(options.model).resolve().name,
        dataset=dataset,
        split=options.split,
        task=options.task,
        notes=f"{asr.policy}; batch size {options.batch_size}; {asr.precision} on {asr.engine.device}",
    )
    print(
        f"WER {found.wer:.2f} %, RTFx {found.rtfx:.2f}, batch size {options.batch_size}, "
        f"{found.n_parameters} parameters, {len(found.lines)} utterances ({found.n_empty} without reference left out)"
    )
    print("Written: " + ", ".join(str(path) for path in written))


def _add_demo(commands: argparse._SubParsersAction) -> None:
    about = "a page on this machine: speak, and see every exit and policy at work"
    parser = add_command(commands, "demo", _demo, about)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="folder or hub id (default: the shipped model)")
    parser.add_argument("--port", type=int, metavar="N", help="of 127.0.0.1 (default: a free one from 7860 up)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    add_model_choice(parser)


def _demo(options: argparse.Namespace) -> None:
    from eeasr_modules.demo.app import default_model, serve
    from eeasr_modules.runtime import EarlyExitASR

    asr = EarlyExitASR.from_pretrained(
        options.model or default_model(),
        policy=options.policy,
        budget=options.budget,
        device=options.device,
        front_end=options.front_end,
        precision=options.precision,
    )
    serve(asr, port=options.port, open_browser=not options.no_browser)
