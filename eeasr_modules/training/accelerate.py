"""Recordings in, a model folder out that leaves early: inner exits of a frozen CTC model, without any transcript.

The encoder and its last head stay as they are; what that head says is what the inner heads learn, on states kept on
disk. Speakers (recordings, where nobody says who speaks) are dealt into four parts: heads are fitted on the first, the
policy is chosen on the second, certified on the third, and what it does is reported on the fourth.
"""

import hashlib
import io
import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from eeasr_modules.common.batches import length_batches
from eeasr_modules.common.files import write_aside
from eeasr_modules.data.audio import AudioReader
from eeasr_modules.data.audio_files import fault, split_segment, with_segment
from eeasr_modules.data.manifest import Utterance, manifest_digest, write_manifest
from eeasr_modules.data.pipeline import AudioCache
from eeasr_modules.exits.policies.files import write_policies
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.policies.rules import Static
from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.calibration import Calibrated, policy_curve
from eeasr_modules.exits.tuning.risk import certify, risk_outcome
from eeasr_modules.exits.tuning.risk_losses import RiskTarget, against_last
from eeasr_modules.exits.tuning.risk_terms import blocks_needed
from eeasr_modules.exits.tuning.watches import drift_reference
from eeasr_modules.models.folder import model_digest
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.runtime.benchmark.bench import compared, run_benchmark
from eeasr_modules.runtime.chunks import chunks
from eeasr_modules.runtime.files.inputs import Material, find_recordings
from eeasr_modules.runtime.recogniser import EarlyExitASR
from eeasr_modules.runtime.sources import find_source
from eeasr_modules.training.corpora import EvaluationSet
from eeasr_modules.training.objectives import greedy_targets, utterance_ctc_losses
from eeasr_modules.training.pretrained import FrozenStates, take_over
from eeasr_modules.training.run_folder import hold, release_all
from eeasr_modules.training.test_pass import collect_or_reuse, table_metadata

logger = logging.getLogger(__name__)

PARTS = {"fit": 0.4, "choose": 0.15, "calibrate": 0.25, "holdout": 0.2}  # shares of the speakers
LEAST_SPEAKERS = 8
POLICIES = ("static", "between(patience(1))", "between(entropy)", "between(margin)")
COST = "cost_macs"  # front end and heads included: nearer to seconds than layers
MOST_EXITS = 9
HEADS_LR = 1e-3
BATCH_S = 60.0
TIMED_S = 120.0  # of hold-out audio that is timed
WORTH = 1.03  # less is not worth a promise


@dataclass(frozen=True)
class Accelerated:
    """What came of it."""

    sentence: str
    policy: str  # that decides in the folder
    certified: bool  # whether the promise could be made
    statement: str  # what is promised, with its terms, or why nothing is
    # changed, saved: on hold-out: per cent of the last exit's words changed, and share of its multiply-accumulates
    # saved
    changed: float
    saved: float
    # times_faster, times_faster_than_stock: by CPU seconds (on a GPU by the clock) on hold-out: than the same engine at
    # full depth, and than the stock forward; nan where there is none
    times_faster: float
    times_faster_than_stock: float
    heads_s: float  # seconds that heads took to train, in all sittings
    speakers: dict[str, int]  # of each part
    left_out: list[str]  # recordings that could not be used, and why


def accelerate(
    checkpoint: str,
    recordings: str,
    *,
    folder: Path | str,
    changed: float = 2.0,
    delta: float = 0.1,
    n_epochs: int = 8,
    seed: int = 0,
    device: str | None = None,
    say: Callable[[str], object] = logger.info,
) -> Accelerated:
    """Teach a CTC model to leave early from recordings alone, and certify how many words that changes.

    ValueError, FileNotFoundError, in one sentence: no CTC head, too few speakers, heads that cannot be trained apart,
    another run in the folder.

    Arguments
    ---------
    checkpoint : str
        A `...ForCTC` checkpoint of transformers (folder, or id on the hub), or a model folder.
    recordings : str
        A folder of audio, a list, or a listing with speakers, as `eeasr transcribe` takes them.
    folder : Path or str
        The model folder that is left; a run that was stopped goes on there.
    changed : float
        Most words of the last exit's transcript that may change, per cent.
    delta : float
        Probability with which the promise may fail.
    """
    folder, target = Path(folder), RiskTarget(changed, delta, loss="changed")
    if n_epochs < 1:
        raise ValueError(f"n_epochs must be at least 1, got {n_epochs}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        hold(folder)
        run = _Run(checkpoint, recordings, folder, n_epochs=n_epochs, seed=seed, device=device, say=say)
        model = run.trained()
        tables = {part: run.table(model, part) for part in ("choose", "calibrate", "holdout")}
        calibrated = _certified(tables["choose"], tables["calibrate"], target)
        write_policies(folder / "policy.json", [calibrated])
        found = run.reported(calibrated, tables["holdout"], target)
        write_aside(folder / "accelerate.json", json.dumps(asdict(found), indent=1) + "\n")
        return found
    finally:
        release_all()


class _Run:
    """A checkpoint and its recordings, looked at and dealt into parts."""

    def __init__(self, checkpoint, recordings, folder, *, n_epochs, seed, device, say):
        self.folder, self.work = folder, folder / "work"
        self.n_epochs, self.seed, self.device, self.say = n_epochs, seed, device, say
        source = find_source(checkpoint)
        start, self.vocabulary = source.load("cpu")
        self.model = _with_exits(start, source.config if source.folder is None else None, seed=seed).to(device).eval()
        self.rate = self.model.config["sample_rate"]
        self.items, self.left_out = _usable(recordings, self.rate)
        say(f"{len(self.left_out)} recordings left out" + "".join(f"\n  {one}" for one in self.left_out))
        self.parts = _dealt(sorted({item["speaker"] for item in self.items.values()}), seed)
        self.root = Path(recordings if Path(recordings).is_dir() else Path(recordings).parent).resolve()
        self._check_same()
        for part in self.parts:
            self._write_manifest(part)

    def _of(self, part: str) -> dict[str, dict]:
        return {utt_id: item for utt_id, item in self.items.items() if item["speaker"] in self.parts[part]}

    def _check_same(self) -> None:
        """Refuse a folder that holds another run: its parts would mix."""
        states = self.model.state_dict()
        digest = hashlib.sha256(json.dumps([self.seed, self.n_epochs, list(self.items.items())]).encode())
        kept = ("encoder.", f"heads.{len(self.model.heads) - 1}.")
        for name in sorted(name for name in states if name.startswith(kept)):
            digest.update(states[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        note = self.folder / "accelerate.run"
        if note.is_file() and note.read_text() != digest.hexdigest():
            raise ValueError(
                f"'{self.folder}' holds a run of another checkpoint, recordings, seed or epochs: give -o another folder"
            )
        write_aside(note, digest.hexdigest())

    def _write_manifest(self, part: str) -> None:
        items = self._of(part)
        utterances = []
        for utt_id, item in items.items():
            path, segment = split_segment(item["wav"])
            utterances.append(Utterance(utt_id, item["speaker"], path, "", item["duration"], segment))
        what = {"corpus": self.root.name, "split": part, "data_folder": self.root, "normaliser": "none"}
        write_manifest(self.work / f"{part}.csv", utterances, decode=False, **what)

    def trained(self) -> MultiExit:
        """The model of the folder, its heads trained now where they are not yet."""
        if (self.folder / "config.json").is_file():
            return MultiExit.load(self.folder, device=self.device)
        states, items = FrozenStates(self.work / "states", self.model), list(self._of("fit").values())
        self.say(self._needs(items))
        read = AudioCache(0, sample_rate=self.rate)
        states.fill(items, read, sample_rate=self.rate)
        self.model.freeze_encoder()
        self.model.freeze_last_head()
        seconds = _fit_heads(self.model, items, states, self.work / "heads.pt", n_epochs=self.n_epochs, seed=self.seed)
        self.model.eval()
        self.vocabulary.save(self.folder)
        write_aside(self.work / "heads_s", f"{seconds:.1f}")
        self.model.save(self.folder)
        shutil.rmtree(self.work / "states")
        (self.work / "heads.pt").unlink()
        return self.model

    def _needs(self, items: list[dict]) -> str:
        """Disk and time, guessed from one recording and one step of the heads."""
        learned, heard = (sum(one["duration"] for one in some) for some in (items, self.items.values()))
        first = items[0]
        wav = AudioCache(0, sample_rate=self.rate)(first["wav"])[None].to(self.device)
        began = time.perf_counter()
        with torch.no_grad():
            views = [one.hidden for one in self.model.exits(wav, torch.tensor([wav.shape[1]], device=self.device))]
        pace = (time.perf_counter() - began) / first["duration"]
        states = torch.cat(views, dim=2)
        began = time.perf_counter()
        _loss(self.model, states, torch.tensor([states.shape[1]], device=self.device)).backward()
        self.model.zero_grad(set_to_none=True)
        heads = (time.perf_counter() - began) / first["duration"] * learned * self.n_epochs
        disk = int(self.model.frames_for(int(learned * self.rate))) * states.shape[2] * 2
        return (
            f"{heard / 60:.1f} min of audio, {learned / 60:.1f} of them to learn from: states of {disk / 1e9:.2f} GB "
            f"on disk, about {pace * heard / 60:.1f} min in the encoder and {heads / 60:.1f} min of heads"
        )

    def table(self, model: MultiExit, part: str) -> ExitTable:
        """Exit table of a part, whose references are what the last exit says."""
        one = EvaluationSet(part, (self.work / f"{part}.csv",), self.root.name, "in_domain", None, 0)
        metadata = table_metadata(one, model, model_digest=model_digest(self.folder), seed=self.seed, limit=None)
        metadata["manifest_digest"] = manifest_digest(one.manifests[0])
        read = AudioCache(0, sample_rate=self.rate)
        path = self.work / f"{part}.parquet"
        found = collect_or_reuse(model, self.vocabulary, one, path, metadata=metadata, read=read, batch_seconds=BATCH_S)
        return against_last(found)

    def reported(self, calibrated: Calibrated, holdout: ExitTable, target: RiskTarget) -> Accelerated:
        """What the policy does on hold-out, measured, and the sentence."""
        outcome = risk_outcome(calibrated.policy, holdout, target=target, cost=COST)
        faster, than_stock = self._timed(calibrated.policy)
        numbers = {"changed": outcome.excess, "saved": outcome.saved, "times_faster": faster}
        what = "speakers" if any(item["known"] for item in self.items.values()) else "recordings"
        return Accelerated(
            sentence=_sentence(calibrated, target, **numbers, what=what),
            policy=str(calibrated.policy),
            certified=calibrated.promise["certified"],
            statement=calibrated.promise["statement"],
            times_faster_than_stock=than_stock,
            heads_s=float((self.work / "heads_s").read_text()),
            speakers={part: len(names) for part, names in self.parts.items()},
            left_out=self.left_out,
            **numbers,
        )

    def _timed(self, policy: Policy) -> tuple[float, float]:
        """Times faster than full depth in the same engine, and than stock."""
        items, seconds = {}, 0.0
        for utt_id, item in self._of("holdout").items():
            if seconds < TIMED_S:
                items[utt_id], seconds = item, seconds + item["duration"]
        read = AudioCache(0, sample_rate=self.rate)
        wavs = tuple(read(item["wav"]) for item in items.values())
        asr = EarlyExitASR.from_pretrained(self.folder, device=self.device)
        results = run_benchmark(
            asr,
            Material(tuple(items), wavs, (None,) * len(items)),
            [policy],
            batches=(8,),
            repeats=3,
            threads=torch.get_num_threads(),
            keep=lambda way: way.name.startswith("full depth") or way.name == "ours",
            progress=self.say,
        )
        full, ours, stock = results[0], results[-1], results[1] if len(results) == 3 else None
        on_gpu = asr.engine.device.type == "cuda"
        than_stock = math.nan if stock is None else compared(ours, stock, on_gpu=on_gpu)
        return compared(ours, full, on_gpu=on_gpu), than_stock


def _with_exits(start: MultiExit, checkpoint: dict | None, *, seed: int) -> MultiExit:
    """The model with inner exits: those that a folder has, else every layer (of deep ones every so many) from a third.

    New heads of a folder start from the next deeper head of theirs; those of a checkpoint from its projection.
    """
    if start.config["self_condition"] or start.averaged:
        raise ValueError("the last exit reads inner heads (self_condition, average_states) and would not stay as it is")
    n = start.encoder.n_layers
    step = math.ceil((n - n // 3) / MOST_EXITS)
    layers = sorted(range(n, max(1, n // 3) - 1, -step))
    if len(start.exit_layers) > 1:
        layers = list(start.exit_layers)
    torch.manual_seed(seed)
    if checkpoint is not None:
        return MultiExit({**checkpoint, "exit_layers": layers})
    config = {**start.config, "exit_layers": layers, "share_projection": False, "decoder": None}
    model = MultiExit(config)
    start.decoder = None
    take_over(start, model, folder="checkpoint")
    if len(start.exit_layers) == 1:
        last = start.heads[-1].state_dict()
        for head in model.heads[:-1]:
            own = head.state_dict()
            same = {name: value for name, value in last.items() if name in own and value.shape == own[name].shape}
            head.load_state_dict({**own, **same})
    return model


def _usable(recordings: str, rate: int) -> tuple[dict[str, dict], list[str]]:
    """Pieces of at most 30 s of every recording that can be read, by name, and why others cannot."""
    items, left_out = {}, []
    for one in tqdm(find_recordings([recordings]), desc="recordings", disable=None):
        path, offset = split_segment(one.path)
        path, begin = path.resolve(), offset[0] if offset else 0.0
        try:
            blocks = AudioReader(one.path, rate).blocks_of_speech()
            pieces = [(c.stretch, len(c.wav)) for c in chunks(blocks, sample_rate=rate, overlap_s=0.0)]
        except Exception as err:  # whatever it is, it is this recording's alone
            left_out.append(fault(err, name=f"'{one.path}'"))
            continue
        for number, (stretch, n_samples) in enumerate(pieces):
            segment = offset if len(pieces) == 1 else (begin + stretch.start_s, begin + stretch.end_s)
            items[one.name if len(pieces) == 1 else f"{one.name}-{number}"] = {
                "wav": with_segment(path, segment),
                "duration": n_samples / rate,
                "speaker": one.speaker or str(path),
                "known": one.speaker is not None,
            }
    if not items:
        raise ValueError(f"no recording of '{recordings}' can be used: {left_out[0]}")
    return items, left_out


def _dealt(speakers: list[str], seed: int) -> dict[str, set[str]]:
    """Speakers of each part; ValueError with too few for four parts."""
    if len(speakers) < LEAST_SPEAKERS:
        raise ValueError(
            f"expected recordings of at least {LEAST_SPEAKERS} speakers (or so many recordings), got {len(speakers)}: "
            "heads, policy, certificate and hold-out need their own"
        )
    order = np.random.default_rng(seed).permutation(len(speakers))
    ends = np.round(np.cumsum([*PARTS.values()]) * len(speakers)).astype(int)
    return {
        part: {speakers[i] for i in order[begin:end]}
        for part, begin, end in zip(PARTS, [0, *ends[:-1]], ends, strict=True)
    }


def _loss(model: MultiExit, states: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
    """CTC of the inner exits on the last exit's transcripts, nats per token, summed over exits."""
    log_probs, n_frames = model(states, n_frames, are_states=True)
    targets, n_targets = greedy_targets(log_probs[-1].detach(), n_frames, blank_index=model.blank_index)
    losses = utterance_ctc_losses(log_probs[:-1], n_frames, targets, n_targets, blank_index=model.blank_index)
    return losses.sum() / n_targets.sum().clamp(min=1)


def _fit_heads(model, items, states, path: Path, *, n_epochs: int, seed: int) -> float:
    """Train the inner heads; what was trained before a stop is at `path`. Seconds taken, in all sittings."""
    inner = [parameter for head in model.heads[:-1] for parameter in head.parameters()]
    optimizer, done, taken = torch.optim.AdamW(inner, lr=HEADS_LR, weight_decay=0.01), 0, 0.0
    if path.is_file():
        noted = torch.load(path, weights_only=True, map_location="cpu")
        model.heads.load_state_dict(noted["heads"])
        optimizer.load_state_dict(noted["optimizer"])
        done, taken = noted["epoch"], noted["seconds"]
    batches = length_batches([item["duration"] for item in items], BATCH_S)
    device = next(model.parameters()).device
    for epoch in range(done, n_epochs):
        began = time.perf_counter()
        torch.manual_seed(seed * 1000 + epoch)
        model.train()
        bar = tqdm(torch.randperm(len(batches)).tolist(), desc=f"heads, epoch {epoch + 1} of {n_epochs}", disable=None)
        for i, number in enumerate(bar):
            share = (epoch + i / len(batches)) / n_epochs
            for group in optimizer.param_groups:
                group["lr"] = HEADS_LR * max(0.02, 0.5 * (1 + math.cos(math.pi * share)))
            read = [states(items[position]["wav"]).float() for position in batches[number]]
            n_frames = torch.tensor([len(one) for one in read], device=device)
            loss = _loss(model, torch.nn.utils.rnn.pad_sequence(read, batch_first=True).to(device), n_frames)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(inner, 5.0)
            optimizer.step()
        taken += time.perf_counter() - began
        noted = {"heads": model.heads.state_dict(), "optimizer": optimizer.state_dict()}
        file = io.BytesIO()
        torch.save({**noted, "epoch": epoch + 1, "seconds": taken}, file)
        write_aside(path, file.getvalue())
    return taken


def _certified(choose: ExitTable, calibrate: ExitTable, target: RiskTarget) -> Calibrated:
    """The policy that is cheapest within the target on `choose`, certified on `calibrate`, which it has not seen."""
    cheapest = {}
    for text in POLICIES:
        curve = policy_curve(parse_policy(text), choose, cost=COST)
        cheapest[text] = min((float(one) for one in curve.cost[curve.wer <= target.eps]), default=math.inf)
    best = min(cheapest, key=cheapest.__getitem__)  # the first of equals is static
    found = certify(calibrate, parse_policy(best), target=target, source_table=choose, cost=COST)
    return replace(found, drift=drift_reference(calibrate, found.policy))


def _sentence(
    found: Calibrated, target: RiskTarget, *, times_faster: float, changed: float, saved: float, what: str
) -> str:
    promise = found.promise
    sure = f"{100 * (1 - target.delta):g} %"
    if not promise["certified"]:
        needed = blocks_needed(replace(target, clip=promise["clip"]))
        if promise["n_blocks"] < needed:
            in_all = math.ceil(needed / PARTS["calibrate"])
            return (
                f"cannot be certified with so few: at most {target.eps:g} % changed ({sure}) takes {needed} {what} to "
                f"calibrate on, about {in_all} in all, and there are {promise['n_blocks']}; everything runs to the end"
            )
        return f"not worth it: no earlier exit could be certified to change at most {target.eps:g} % ({sure})"
    if saved <= 0:  # what the clock says is noise
        return f"not worth it: no earlier exit keeps to {target.eps:g} % changed ({sure}); everything runs to the end"
    numbers = (
        f"{times_faster:.1f} x faster, {changed:.1f} % of words changed on hold-out, certified at most "
        f"{target.eps:g} % ({sure})"
    )
    if times_faster < WORTH:
        return f"not worth it: full depth is as good ({numbers})"
    if isinstance(found.policy, Static):
        return f"not worth it: layer {found.policy.layer} for all is as good: {numbers}"
    return numbers
