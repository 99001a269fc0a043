"""Old names of modules: what saved `hyperparams.yaml`, a YAML's `brain:` and others' code may still import.

Importing a module by the name it had before gives a stand-in that looks everything up in the module it went into, and
says so once. What is found is the same object, so `isinstance` and pickled names hold. New code uses the new name.
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = "eeasr_modules"
# Both without the package's name before them.
MOVED = {
    "commands.accelerate": "commands.models",
    "commands.listening": "commands.recordings",
    "commands.parsing": "commands.options",
    "commands.probe": "commands.models",
    "common.spelling": "common.normalise",
    "common.spoken_numbers": "common.normalise",
    "common.text_files": "common.files",
    "common.whisper_text": "common.normalise",
    "data.audio_state": "data.manifest",
    "data.channels": "data.audio",
    "data.labels": "training.corpora",
    "data.resampling": "data.audio",
    "data.saved_sets": "data.own_data",
    "data.segments": "data.audio_files",
    "data.shifts": "data.pipeline",
    "data.sound_files": "data.audio_files",
    "data.waveform": "data.audio_files",
    "demo.hearing": "demo.app",
    "demo.page_parts": "demo.app",
    "demo.recording": "demo.app",
    "exits.bootstrap": "exits.measure.bootstrap",
    "exits.bounds": "exits.measure.bounds",
    "exits.calibration": "exits.tuning.calibration",
    "exits.certifying": "exits.tuning.risk",
    "exits.character_ngram": "exits.words.resources",
    "exits.choices": "exits.tuning.replay",
    "exits.combinations": "exits.policies.combine",
    "exits.comparison": "exits.measure.bootstrap",
    "exits.cross_fit": "exits.tuning.calibration",
    "exits.csv_cells": "common.files",
    "exits.curve": "exits.tuning.calibration",
    "exits.drift": "exits.tuning.watches",
    "exits.edits": "exits.measure.edits",
    "exits.fitted": "exits.policies.protocol",
    "exits.fitted_file": "exits.policies.files",
    "exits.fitting": "exits.tuning.replay",
    "exits.folds": "exits.tables.table",
    "exits.fusion": "exits.measure.fusion",
    "exits.fusion_fit": "exits.measure.fusion",
    "exits.fusion_oracle": "exits.measure.regions",
    "exits.gain": "exits.policies.lexical_gain",
    "exits.lexical": "exits.policies.lexical_gain",
    "exits.lexical_signals": "exits.tables.text_signals",
    "exits.measure.exitbench_baselines": "exits.measure.exitbench",
    "exits.measure.exitbench_text": "exits.measure.exitbench",
    "exits.measure.overthinking": "exits.measure.bounds",
    "exits.p_values": "exits.tuning.risk_losses",
    "exits.parquet": "exits.tables.files",
    "exits.plain_transcripts": "exits.tables.plain_transcripts",
    "exits.policies.fitted": "exits.policies.protocol",
    "exits.policies.gain": "exits.policies.lexical_gain",
    "exits.policies.lexical": "exits.policies.lexical_gain",
    "exits.policy_file": "exits.policies.files",
    "exits.policy_text": "exits.policies.text",
    "exits.region_features": "exits.measure.regions",
    "exits.region_fusion": "exits.measure.regions",
    "exits.risk": "exits.tuning.risk",
    "exits.risk_losses": "exits.tuning.risk_losses",
    "exits.risk_sequence": "exits.tuning.risk_tests",
    "exits.risk_sizes": "exits.tuning.risk_terms",
    "exits.risk_text": "exits.tuning.risk_terms",
    "exits.score": "exits.measure.exitbench",
    "exits.score_baselines": "exits.measure.exitbench",
    "exits.score_choices": "exits.measure.exitbench",
    "exits.score_text": "exits.measure.exitbench",
    "exits.signals_text": "exits.tables.text_signals",
    "exits.stats": "exits.measure.bounds",
    "exits.sweep": "exits.tuning.calibration",
    "exits.table": "exits.tables.table",
    "exits.table_checks": "exits.tables.checks",
    "exits.table_join": "exits.tables.table",
    "exits.tables.csv_cells": "common.files",
    "exits.tables.importers": "exits.tables.files",
    "exits.tables.label_file": "exits.tuning.few_labels",
    "exits.tables.parquet": "exits.tables.files",
    "exits.tables.parts": "exits.tables.table",
    "exits.transcript_files": "exits.tables.plain_transcripts",
    "exits.transcripts": "exits.tables.files",
    "exits.trees": "exits.policies.trees",
    "exits.tuning.curve": "exits.tuning.calibration",
    "exits.tuning.drift": "exits.tuning.watches",
    "exits.tuning.fit": "exits.tuning.replay",
    "exits.tuning.p_values": "exits.tuning.risk_losses",
    "exits.tuning.risk_per_exit": "exits.tuning.risk_tests",
    "exits.tuning.risk_sequence": "exits.tuning.risk_tests",
    "exits.tuning.risk_watch": "exits.tuning.watches",
    "exits.word_alignment": "exits.measure.edits",
    "exits.word_confidence": "exits.words.confidence",
    "exits.word_features": "exits.words.features",
    "exits.word_gain": "exits.policies.word_gain",
    "exits.word_gain_fit": "exits.policies.word_gain",
    "exits.word_labels": "exits.policies.word_gain",
    "exits.word_outcomes": "exits.measure.bounds",
    "exits.word_resources": "exits.words.resources",
    "exits.word_spelling": "exits.words.resources",
    "exits.words.alignment": "exits.measure.edits",
    "models.attention_decoder": "models.decoding.attention",
    "models.attention_search": "models.decoding.attention",
    "models.beam": "models.decoding.ctc",
    "models.conformer": "models.encoders.conformer",
    "models.ctc_alignment": "models.decoding.ctc",
    "models.decode": "models.decoding.ctc",
    "models.decoding.beam": "models.decoding.ctc",
    "models.decoding.greedy": "models.decoding.ctc",
    "models.distilling": "training.objectives",
    "models.downsampling": "models.encoders.front_end",
    "models.dropout": "models.encoders.conformer",
    "models.encoders.downsampling": "models.encoders.front_end",
    "models.encoders.huggingface_front_end": "models.encoders.front_end",
    "models.fast.positions": "models.fast.front_end",
    "models.fast_convolutions": "models.fast.convolutions",
    "models.fast_front_end": "models.fast.front_end",
    "models.fast_layers": "models.fast.layers",
    "models.fast_module": "models.fast.module",
    "models.fast_positions": "models.fast.front_end",
    "models.features": "models.encoders.conformer",
    "models.huggingface": "models.encoders.huggingface",
    "models.huggingface_checkpoint": "models.encoders.huggingface_checkpoint",
    "models.huggingface_front_end": "models.encoders.front_end",
    "models.losses": "training.objectives",
    "models.moonshine": "models.encoders.moonshine",
    "models.nbest": "models.decoding.ctc",
    "models.precision": "models.device",
    "models.self_conditioning": "models.heads",
    "models.supervised": "models.encoders.whisper",
    "models.transformers_files": "models.folder",
    "models.weights": "models.folder",
    "models.whisper": "models.encoders.whisper",
    "models.word_signals": "models.signals",
    "report.calibrating": "report.numbers.evaluation",
    "report.checks": "report.numbers.summary",
    "report.comparing": "report.numbers.summary",
    "report.comparison_tables": "report.render.tables",
    "report.costs": "report.numbers.evaluation",
    "report.csv_files": "report.render.files",
    "report.evaluation": "report.numbers.evaluation",
    "report.examples": "report.render.files",
    "report.figures": "report.render.figures",
    "report.frontier": "report.render.figures",
    "report.html_page": "report.render.page",
    "report.numbers.budgets": "report.numbers.evaluation",
    "report.numbers.examples": "report.render.files",
    "report.page": "report.render.page",
    "report.set_numbers": "report.numbers.sets",
    "report.summary": "report.numbers.summary",
    "report.tables": "report.render.tables",
    "report.writing": "report.render.files",
    "runtime.assembling": "runtime.chunks",
    "runtime.bench": "runtime.benchmark.bench",
    "runtime.bench_material": "runtime.files.inputs",
    "runtime.bench_text": "runtime.benchmark.bench",
    "runtime.bench_ways": "runtime.benchmark.ways",
    "runtime.benchmark.peers": "runtime.benchmark.ways",
    "runtime.benchmark.text": "runtime.benchmark.bench",
    "runtime.choosing": "runtime.sources",
    "runtime.compaction": "runtime.engine",
    "runtime.drifting": "runtime.drift_watch",
    "runtime.export": "runtime.onnx.export",
    "runtime.export_graphs": "runtime.onnx.export",
    "runtime.faster": "models.fast.switches",
    "runtime.fused_words": "runtime.transcript",
    "runtime.inputs": "runtime.files.inputs",
    "runtime.leaving": "runtime.batch",
    "runtime.live_signals": "runtime.signals",
    "runtime.onnx_loop": "runtime.onnx.loop",
    "runtime.onnx_signals": "runtime.onnx.loop",
    "runtime.outputs": "runtime.files.outputs",
    "runtime.policy_choice": "runtime.sources",
    "runtime.pooling": "runtime.engine",
    "runtime.ray_actor": "runtime.files.shards",
    "runtime.searching": "runtime.batch",
    "runtime.sharding": "runtime.files.shards",
    "runtime.transcribing": "runtime.files.transcribe",
    "runtime.underway": "runtime.chunks",
    "runtime.words": "runtime.transcript",
    "spelling": "common.normalise",
    "text_files": "common.files",
    "training.admission": "training.run",
    "training.alignable": "training.fit",
    "training.before": "training.run",
    "training.card": "training.publish.release",
    "training.cheaper_keys": "training.config.checks",
    "training.checkpoints": "training.run_folder",
    "training.collect": "training.test_pass",
    "training.command_line": "training.config.config",
    "training.config": "training.config.config",
    "training.config.command_line": "training.config.config",
    "training.config.settings": "training.config.keys",
    "training.curves": "training.run_folder",
    "training.decoder_keys": "training.config.checks",
    "training.decoding": "training.test_pass_decoders",
    "training.disk": "training.run_folder",
    "training.distillation": "training.objectives",
    "training.encoder_asr": "training.publish.encoder_asr",
    "training.heard": "training.corpora",
    "training.initialisation": "training.pretrained",
    "training.keys": "training.config.keys",
    "training.layer_groups": "training.schedule",
    "training.lock": "training.run_folder",
    "training.logs": "training.run_folder",
    "training.optimiser": "training.schedule",
    "training.other_sets": "training.config.checks",
    "training.own_decoder": "training.test_pass_decoders",
    "training.own_decoder_lens": "training.test_pass_decoders",
    "training.probe": "training.probe.probe",
    "training.publish.hub": "training.publish.release",
    "training.pushing": "training.publish.release",
    "training.readings": "training.test_pass",
    "training.regime_keys": "training.config.checks",
    "training.regimes": "training.schedule",
    "training.sharing": "training.test_pass",
    "training.ship": "training.publish.release",
    "training.speechbrain_run": "training.probe.speechbrain_run",
    "training.spelling": "training.objectives",
    "training.starting": "training.pretrained",
    "training.states": "training.pretrained",
    "training.test_pass_own": "training.test_pass_decoders",
    "training.test_pass_search": "training.test_pass_decoders",
    "training.transcripts": "training.test_pass",
    "training.yaml_file": "training.config.config",
}
# What went without a successor: the sentence that an import of it says.
_TRY = "'eeasr try' was removed: eeasr demo records and shows every exit"
_PRETRAINING = "pretraining is a recipe of its own now: recipes/Pretrain"
_PAGE = "it was removed from the package: benchmarks/result_page.py writes a page's tables"
_DOWNLOAD = "it was removed from the package: recipes/AN4/download.py downloads"
REMOVED = {
    "data.download": _DOWNLOAD,
    "exits.measure.selection": "selection of a whole transcript was removed: exits.measure.fusion does better",
    "exits.recalibration": "recalibration without labels was removed: calibrate on labelled data",
    "exits.selection": "selection of a whole transcript was removed: exits.measure.fusion does better",
    "exits.tuning.recalibration": "recalibration without labels was removed: calibrate on labelled data",
    "models.masked_prediction": _PRETRAINING,
    "models.masked_targets": _PRETRAINING,
    "report.live": "'eeasr report --live' was removed: train_log.txt and logger: tensorboard show a training",
    "report.render.live": "'eeasr report --live' was removed: train_log.txt and logger: tensorboard show a training",
    "report.readme": _PAGE,
    "report.render.readme": _PAGE,
    "runtime.microphone": _TRY,
    "runtime.trying": _TRY,
    "training.pretraining": _PRETRAINING,
}


def looked_up(name: str) -> Callable:
    """`__getattr__` of a package whose name was a module's: names that are not its own come from where they went."""
    old = name.removeprefix(f"{_PACKAGE}.")

    def find(attribute: str) -> object:
        if attribute.startswith("__"):
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        return getattr(importlib.import_module(f"{_PACKAGE}.{MOVED[old]}"), attribute)

    return find


class _Callable(ModuleType):
    """A stand-in; where it hides a function of its name (`exits.cross_fit`), it can be called as that."""

    def __call__(self, *arguments, **options):
        return getattr(self, self.__name__.rpartition(".")[2])(*arguments, **options)


class _StandIn(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"{_PACKAGE}.{MOVED[spec.name.removeprefix(f'{_PACKAGE}.')]}"
        warnings.warn(f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2)
        found = importlib.import_module(new)
        module = _Callable(spec.name, found.__doc__)
        module.__getattr__ = lambda name: getattr(found, name)
        module.__dir__ = lambda: dir(found)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: all is looked up."""

    def get_code(self, name: str):
        """Code of the module it went into, for `python -m` with the old name."""
        new = f"{_PACKAGE}.{MOVED[name.removeprefix(f'{_PACKAGE}.')]}"
        return importlib.util.find_spec(new).loader.get_code(new)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        old = name.removeprefix(f"{_PACKAGE}.")
        if old != name and old in REMOVED:
            raise ModuleNotFoundError(f"there is no {name}: {REMOVED[old]}", name=name)
        if old != name and old in MOVED:
            return ModuleSpec(name, _StandIn())
        return None


def install() -> None:
    """Let old names be imported, after everything that is really there. Again: nothing."""
    if not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.append(_Finder())
