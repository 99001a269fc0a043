"""Exit tables of a checkpoint, read in two ways: through its own head, and through heads trained on its states.

*Lens*: the checkpoint's own CTC head, or its own decoder, after every layer, nothing trained. *Heads*:
`hparams/probe.yaml` once for each seed, on the states of the frozen encoder, which all seeds share.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from eeasr_modules.data.manifest import read_manifest
from eeasr_modules.data.pipeline import AudioCache, manifest_items
from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.config.config import Config, corpus_folders, load, parse
from eeasr_modules.training.corpora import Corpora, EvaluationSet, load_recipe, texts_of
from eeasr_modules.training.fit import (
    build_model,
    check_run_folder,
    fit,
    has_checkpoint_vocabulary,
    in_case_of,
    make_vocabulary,
)
from eeasr_modules.training.probe.speechbrain_run import SpeechBrainRun, is_run, read_run
from eeasr_modules.training.run import Run, calibrate, collect_all
from eeasr_modules.training.test_pass import table_metadata
from eeasr_modules.training.test_pass_decoders import OwnDecoderLens, collect, has_own_decoder

SPLITS = ("train", "dev", "test")
# what a decoder's transcripts and its sureness of them allow
DECODER_POLICIES = {
    "exit_policy": "between(token_entropy)",
    "compare_policies": "between(random), between(sequence_log_prob), between(patience(1)), between(patience(2))",
}


@dataclass(frozen=True)
class Source:
    """Labelled recordings as the command line names them: `[CORPUS:]FOLDER`."""

    corpus: str  # a folder of `recipes/`
    folder: Path  # of the recordings

    @classmethod
    def read(cls, text: str, *, recipes: Path) -> "Source":
        """`commonvoice:/corpora/cv` or `/my/corpus` (recipe Custom); FileNotFoundError where there is no folder."""
        corpora = corpus_folders(recipes)
        name, colon, folder = text.partition(":")
        if not colon or name.lower() not in corpora:
            name, folder = "custom", text
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"no folder '{folder}': expected FOLDER or CORPUS:FOLDER ({', '.join(corpora)})")
        return cls(corpora[name.lower()].name, Path(folder))


@dataclass(frozen=True)
class Reading:
    """One way of reading the layers of a checkpoint."""

    name: str  # `lens`, or `seed_<n>` of heads
    folder: Path  # with `tables/` and `model/`
    dev: ExitTable  # where thresholds were chosen
    tests: list[ExitTable]  # in domain first
    policies: list  # the chosen one first


@dataclass(frozen=True)
class Probe:
    """A checkpoint and its recordings, checked; `config` is that of the first seed."""

    config: Config  # of `hparams/probe.yaml`
    run_opts: object
    corpora: Corpora
    folder: Path
    # the checkpoint, where it is one of SpeechBrain; `config` then names its encoder
    speechbrain: SpeechBrainRun | None = None
    wants_lens: bool = True  # False: heads alone

    @property
    def has_lens(self) -> bool:
        """Whether it is wanted, and the checkpoint has a decoder or a CTC head that spells the texts."""
        if not self.wants_lens:
            return False
        if self.has_decoder:
            return True
        vocabulary = self._vocabulary(self.folder / "lens" / "model")
        return self.speechbrain is not None or has_checkpoint_vocabulary(self.config, vocabulary)

    @property
    def has_decoder(self) -> bool:
        """Whether the checkpoint has a decoder of its own."""
        return has_own_decoder(self.config.values["source"])

    @cached_property
    def decoder_lens(self) -> OwnDecoderLens:
        """The checkpoint with its decoder, loaded once."""
        return OwnDecoderLens(self.config.values["source"], self.config.encoder_settings, device=self.device)

    def lens(self) -> Reading:
        """Every layer through the checkpoint's own head or decoder."""
        folder = self.folder / "lens"
        if self.has_decoder:
            return self._by_decoder(folder)
        self._untrained(folder / "model").save(folder / "model")
        return self._read("lens", folder, MultiExit.load(folder / "model", device=self.device), self.config)

    def heads(self, seed: int) -> Reading:
        """Every layer through a head trained with this seed."""
        folder = self.folder / f"seed_{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "states").mkdir(exist_ok=True)
        if not (folder / "states").exists():
            (folder / "states").symlink_to(os.path.relpath(self.folder / "states", folder))
        config = replace(self.config, values={**self.config.values, "seed": seed, "output_folder": str(folder)})
        check_run_folder(config, folder)
        self._vocabulary(folder / "model")
        model = fit(config, self.corpora, folder=folder, run_opts=self.run_opts)
        return self._read(folder.name, folder, model, config)

    @property
    def device(self) -> str:
        """Where models run."""
        from speechbrain.utils.distributed import infer_device

        return self.run_opts.device or infer_device()

    def needs(self, n_seeds: int) -> str:
        """Disk and time, guessed from one recording; one sentence."""
        model = self._untrained(self.folder / "lens" / "model").to(self.device).eval()
        sets, limit = [self.corpora.dev, *self.corpora.tests], self.config.test_utterances
        by_set = [_seconds(manifest_items(one.manifests, limit=limit)) for one in sets]
        known = manifest_items(self.corpora.train, limit=self.config.train_utterances)
        tested, learned, first = sum(by_set), _seconds(known), next(iter(known.values()))
        wav = AudioCache(0, sample_rate=self.config.sample_rate)(first["wav"])
        encoder, heads = _time_of(model, wav.to(self.device), n_letters=len(first["words"]))
        passes = n_seeds + (self.has_lens and not self.has_decoder)
        shares = {"the encoder": encoder * ((learned if n_seeds else 0.0) + tested * passes)}
        epochs = self.config.n_epochs * n_seeds
        shares[f"{epochs} epochs of heads"] = heads * epochs * (learned + by_set[0] / 3)
        if self.has_lens and self.has_decoder:
            began = time.perf_counter()
            self.decoder_lens.read(wav)
            shares["its own decoder"] = (time.perf_counter() - began) * tested
        seconds = {name: value / first["duration"] for name, value in shares.items()}
        n_frames = int(model.encoder.frames_for(int(learned * self.config.sample_rate))) if n_seeds else 0
        disk = n_frames * len(model.exit_layers) * model.encoder.dim * 2
        said = ", ".join(f"{value / 60:.1f} in {name}" for name, value in seconds.items() if value)
        return (
            f"{learned / 3600:.2f} h to learn from, {tested / 3600:.2f} h to test on: states of {disk / 1e9:.2f} GB, "
            f"about {sum(seconds.values()) / 60:.0f} min ({said}; by one recording, reports aside)"
        )

    def _untrained(self, folder: Path) -> MultiExit:
        vocabulary, run = self._vocabulary(folder), self.speechbrain
        own = has_checkpoint_vocabulary(self.config, vocabulary)
        sizes = {"n_tokens": len(vocabulary), "blank_index": vocabulary.blank_index}
        lens = replace(self.config, values={**self.config.values, "head": "lens"})
        model = build_model(lens, **sizes, checkpoint_head=own, lens_body=run and run.head)
        if run is not None:
            run.fill(model)
        return model

    def _vocabulary(self, folder: Path):
        """The checkpoint's own where it has one; it then lies in `folder`."""
        if self.speechbrain is not None:
            texts = texts_of([*self.corpora.train, *self.corpora.valid])
            in_case_of(texts, CharVocabulary(self.speechbrain.tokens)).save(folder)
        return make_vocabulary(self.config, self.corpora, folder)

    def _by_decoder(self, folder: Path) -> Reading:
        lens, limit = self.decoder_lens, self.config.test_utterances
        digest, read = lens.digest, AudioCache(0, sample_rate=self.config.sample_rate)
        tables = []
        for one in (self.corpora.dev, *self.corpora.tests):
            metadata = table_metadata(one, lens, model_digest=digest, seed=self.config.seed, limit=limit)
            path, progress = folder / "tables" / f"{one.name}.parquet", not self.run_opts.noprogressbar
            tables.append(collect(lens, one, path, metadata=metadata, read=read, limit=limit, progress=progress))
        config = replace(self.config, values={**self.config.values, **DECODER_POLICIES})
        (folder / "model").mkdir(parents=True, exist_ok=True)
        run = Run(config, self.run_opts, folder, self.corpora)
        return Reading("lens", folder, tables[0], tables[1:], calibrate(run, tables[0])[0])

    def _read(self, name: str, folder: Path, model: MultiExit, config: Config) -> Reading:
        run = Run(config, self.run_opts, folder, self.corpora)
        dev, tests = collect_all(run, model)
        return Reading(name, folder, dev, tests, calibrate(run, dev)[0])


def _seconds(items: dict) -> float:
    return sum(item["duration"] for item in items.values())


def _time_of(model: MultiExit, wav: torch.Tensor, *, n_letters: int) -> tuple[float, float]:
    """Seconds in the encoder and seconds of one step of training heads, for a waveform (samples,), both warmed up."""
    n_samples = torch.tensor([len(wav)], device=wav.device)
    targets = (1 + torch.arange(n_letters, device=wav.device) % 2)[None]
    lengths = torch.tensor([n_letters], device=wav.device)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        with torch.no_grad():
            outputs = list(model.exits(wav[None], n_samples))
        encoded = time.perf_counter()
        states = torch.cat([output.hidden for output in outputs], dim=-1)
        log_probs, n_frames = model(states, outputs[-1].n_frames, are_states=True)
        losses = [torch.nn.functional.ctc_loss(one.transpose(0, 1), targets, n_frames, lengths) for one in log_probs]
        if sum(losses).requires_grad:
            sum(losses).backward()
        seconds.append((encoded - began, time.perf_counter() - encoded))
    return seconds[-1]


def set_up(
    checkpoint: str,
    *,
    data: str,
    ood: Sequence[str],
    folder: Path,
    root: Path,
    splits: Sequence[Sequence[str]] = tuple((name,) for name in SPLITS),
    ood_splits: Sequence[Sequence[str]] = (("test",),),
    options: Sequence[str] = (),
    encoder: str | None = None,
    lens: bool = True,
) -> Probe:
    """Everything checked and listed; nothing computed. A SpeechBrain run's encoder is written into `folder`.

    FileNotFoundError, ValueError: one sentence on what is missing.

    Arguments
    ---------
    checkpoint : str
        Hub id or folder; a SpeechBrain CTC run.
    data, ood : str, sequence of str
        Recordings to learn from and test on, and those of other corpora: see `Source`.
    splits : three sequences of str
        Of `data`: to train on, to choose on, to test on.
    ood_splits : sequence of sequences of str
        Of each of `ood`; one for all where there is one.
    """
    recipes, yaml = root / "recipes", root / "hparams" / "probe.yaml"
    if not yaml.is_file():
        raise FileNotFoundError(f"'{yaml}' is not there: eeasr probe runs in a copy of the repository (make env)")
    own, others = Source.read(data, recipes=recipes), [Source.read(one, recipes=recipes) for one in ood]
    run = read_run(Path(checkpoint), folder / "encoder", encoder=encoder) if is_run(Path(checkpoint)) else None
    source = checkpoint if run is None else str(run.encoder)
    argv = [str(yaml), "--source", source, "--data_folder", str(own.folder), "--output_folder", str(folder)]
    path, run_opts, replaced = parse([*argv, *options])
    config = load(path, {**replaced, "corpus": own.corpus}, recipes=recipes)
    check_run_folder(replace(config, values={**config.values, "source": checkpoint}), folder)
    manifests = _prepared(own, folder / "manifests", [name for part in splits for name in part], recipes=recipes)
    train, valid, test = ([manifests[name] for name in part] for part in splits)
    dev = EvaluationSet(f"dev_{own.folder.name}", tuple(valid), own.corpus, "in_domain", None, seen(train, valid))
    tests = [EvaluationSet(own.folder.name, tuple(test), own.corpus, "in_domain", None, seen(train, test))]
    parts = [*ood_splits] * (len(others) if len(ood_splits) == 1 else 1)
    for i, (other, names) in enumerate(zip(others, parts, strict=True)):
        found = [*_prepared(other, folder / "manifests" / f"ood_{i}", names, recipes=recipes).values()]
        name = other.folder.name
        if name in {one.name for one in tests}:
            name = f"{other.folder.resolve().parent.name}_{name}_{i + 1}"
        tests.append(EvaluationSet(name, tuple(found), other.corpus, "ood", None, seen(train, found)))
    return Probe(config, run_opts, Corpora(train, valid, dev, tests), folder, run, lens)


def _prepared(source: Source, folder: Path, splits: Sequence[str], *, recipes: Path) -> dict[str, Path]:
    return load_recipe(recipes / source.corpus).prepare(source.folder, folder, splits=list(dict.fromkeys(splits)))


def seen(train: Sequence[Path], other: Sequence[Path]) -> int:
    """Speakers of `other` that `train` has too; nameless ones are not counted."""
    ours, theirs = ({row.speaker for path in paths for row in read_manifest(path)} for paths in (train, other))
    return len(ours & theirs - {""})


def texts_seen(train: Sequence[Path], other: Sequence[Path]) -> int:
    """Utterances of `other` whose text `train` has too."""
    known = {row.text for path in train for row in read_manifest(path)}
    return sum(row.text in known for path in other for row in read_manifest(path))
