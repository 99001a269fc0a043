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
# A module, and the names before it of what went into it; all without the package's name.
_NOW = {
    "commands.models": "commands.accelerate commands.probe",
    "commands.options": "commands.parsing",
    "commands.recordings": "commands.listening",
    "common.files": "common.text_files exits.csv_cells exits.tables.csv_cells text_files",
    "common.normalise": "common.spelling common.spoken_numbers common.whisper_text spelling",
    "data.audio": "data.channels data.resampling",
    "data.audio_files": "data.segments data.sound_files data.waveform",
    "data.manifest": "data.audio_state",
    "data.own_data": "data.saved_sets",
    "data.pipeline": "data.shifts",
    "demo.app": "demo.hearing demo.page_parts demo.recording",
    "exits.measure.bootstrap": "exits.bootstrap exits.comparison",
    "exits.measure.bounds": "exits.bounds exits.measure.overthinking exits.stats exits.word_outcomes",
    "exits.measure.edits": "exits.edits exits.word_alignment exits.words.alignment",
    "exits.measure.exitbench": (
        "exits.measure.exitbench_baselines exits.measure.exitbench_text exits.score exits.score_baselines "
        "exits.score_choices exits.score_text"
    ),
    "exits.measure.fusion": "exits.fusion exits.fusion_fit",
    "exits.measure.regions": "exits.fusion_oracle exits.region_features exits.region_fusion",
    "exits.policies.combine": "exits.combinations",
    "exits.policies.files": "exits.fitted_file exits.policy_file",
    "exits.policies.lexical_gain": "exits.gain exits.lexical exits.policies.gain exits.policies.lexical",
    "exits.policies.protocol": "exits.fitted exits.policies.fitted",
    "exits.policies.text": "exits.policy_text",
    "exits.policies.trees": "exits.trees",
    "exits.policies.word_gain": "exits.word_gain exits.word_gain_fit exits.word_labels",
    "exits.tables.checks": "exits.table_checks",
    "exits.tables.files": "exits.parquet exits.tables.importers exits.tables.parquet exits.transcripts",
    "exits.tables.plain_transcripts": "exits.plain_transcripts exits.transcript_files",
    "exits.tables.table": "exits.folds exits.table exits.table_join exits.tables.parts",
    "exits.tuning.calibration": "exits.calibration exits.cross_fit exits.curve exits.sweep exits.tuning.curve",
    "exits.tuning.few_labels": "exits.tables.label_file",
    "exits.tuning.replay": "exits.choices exits.fitting exits.tuning.fit",
    "exits.tuning.risk": "exits.certifying exits.risk",
    "exits.tuning.risk_losses": "exits.p_values exits.risk_losses exits.tuning.p_values",
    "exits.tuning.risk_terms": "exits.risk_sizes exits.risk_text",
    "exits.tuning.risk_tests": "exits.risk_sequence exits.tuning.risk_per_exit exits.tuning.risk_sequence",
    "exits.tuning.watches": "exits.drift exits.tuning.drift exits.tuning.risk_watch",
    "exits.words.confidence": "exits.word_confidence",
    "exits.words.resources": "exits.character_ngram exits.word_resources exits.word_spelling",
    "exits.words.signals": (
        "exits.lexical_signals exits.signals_text exits.tables.text_signals exits.word_features exits.words.features"
    ),
    "models.decoding.attention": "models.attention_decoder models.attention_search",
    "models.decoding.ctc": (
        "models.beam models.ctc_alignment models.decode models.decoding.beam models.decoding.greedy models.nbest"
    ),
    "models.device": "models.precision",
    "models.encoders.conformer": "models.conformer models.dropout models.features",
    "models.encoders.front_end": (
        "models.downsampling models.encoders.downsampling models.encoders.huggingface_front_end "
        "models.huggingface_front_end"
    ),
    "models.encoders.huggingface": "models.huggingface",
    "models.encoders.huggingface_checkpoint": "models.huggingface_checkpoint",
    "models.encoders.moonshine": "models.moonshine",
    "models.encoders.whisper": "models.supervised models.whisper",
    "models.fast.convolutions": "models.fast_convolutions",
    "models.fast.front_end": "models.fast.positions models.fast_front_end models.fast_positions",
    "models.fast.layers": "models.fast_layers",
    "models.fast.module": "models.fast_module",
    "models.fast.switches": "runtime.faster",
    "models.folder": "models.transformers_files models.weights",
    "models.heads": "models.self_conditioning",
    "models.signals": "models.word_signals",
    "report.numbers.evaluation": "report.calibrating report.costs report.evaluation report.numbers.budgets",
    "report.numbers.sets": "report.set_numbers",
    "report.numbers.summary": "report.checks report.comparing report.summary",
    "report.render.figures": "report.figures report.frontier",
    "report.render.files": (
        "report.csv_files report.examples report.html_page report.numbers.examples report.render.page report.writing"
    ),
    "report.render.markdown": "report.comparison_tables report.page report.render.tables report.tables",
    "runtime.batch": "runtime.leaving runtime.searching",
    "runtime.benchmark.bench": "runtime.bench runtime.bench_text runtime.benchmark.text",
    "runtime.benchmark.ways": "runtime.bench_ways runtime.benchmark.peers",
    "runtime.chunks": "runtime.assembling runtime.underway",
    "runtime.drift_watch": "runtime.drifting",
    "runtime.engine": "runtime.pooling",
    "runtime.files.inputs": "runtime.bench_material runtime.inputs",
    "runtime.files.outputs": "runtime.outputs",
    "runtime.files.shards": "runtime.ray_actor runtime.sharding",
    "runtime.files.transcribe": "runtime.transcribing",
    "runtime.onnx.export": "runtime.export runtime.export_graphs",
    "runtime.onnx.loop": "runtime.onnx_loop runtime.onnx_signals",
    "runtime.signals": "runtime.live_signals",
    "runtime.sources": "runtime.choosing runtime.policy_choice",
    "runtime.transcript": "runtime.fused_words runtime.words",
    "training.config.checks": "training.cheaper_keys training.decoder_keys training.other_sets training.regime_keys",
    "training.config.config": "training.command_line training.config training.config.command_line training.yaml_file",
    "training.config.keys": "training.config.settings training.keys",
    "training.corpora": "data.labels training.heard",
    "training.fit": "training.alignable",
    "training.objectives": "models.distilling models.losses training.distillation training.spelling",
    "training.pretrained": "training.initialisation training.starting training.states",
    "training.probe.probe": "training.probe",
    "training.probe.speechbrain_run": "training.speechbrain_run",
    "training.publish.encoder_asr": "training.encoder_asr",
    "training.publish.release": "training.card training.publish.hub training.pushing training.ship",
    "training.run": "training.admission training.before",
    "training.run_folder": "training.checkpoints training.curves training.disk training.lock training.logs",
    "training.schedule": "training.layer_groups training.optimiser training.regimes",
    "training.test_pass": "training.collect training.readings training.sharing training.transcripts",
    "training.test_pass_decoders": (
        "training.decoding training.own_decoder training.own_decoder_lens training.test_pass_own "
        "training.test_pass_search"
    ),
}
MOVED = {old: new for new, before in _NOW.items() for old in before.split()}
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
