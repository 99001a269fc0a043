"""What a model hears of a file live is what the test pass heard of it: every exit's words, and every decision."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from live_cases import CASES, SEED
from talkative import ENCODER, dev, model, model_folder

from eeasr_modules.data.audio import AudioReader, read_audio
from eeasr_modules.data.manifest import Utterance, write_manifest
from eeasr_modules.data.pipeline import AudioCache, manifest_items
from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.exits import POLICIES, choose, decide, parse_policy, read_table
from eeasr_modules.models.folder import model_digest
from eeasr_modules.runtime import EarlyExitASR, Engine
from eeasr_modules.training.corpora import EvaluationSet, load_recipe
from eeasr_modules.training.test_pass import collect, table_metadata

__all__ = ["dev", "model", "model_folder"]

# name -> rate, channels, and how soundfile writes it
KINDS = {
    "mp3-32k.mp3": (32000, 1, {"format": "MP3"}),
    "mp3-44k-stereo.mp3": (44100, 2, {"format": "MP3"}),
    "cd.wav": (44100, 2, {"subtype": "PCM_16"}),
    "cd.flac": (44100, 1, {"subtype": "PCM_24"}),
    "telephone.wav": (8000, 1, {"subtype": "ULAW"}),
    "old.wav": (11127, 1, {"subtype": "PCM_16"}),
    "opus.opus": (48000, 2, {"format": "OGG", "subtype": "OPUS"}),
    "vorbis.ogg": (22050, 1, {"format": "OGG", "subtype": "VORBIS"}),
    "float.wav": (16000, 1, {"subtype": "FLOAT"}),
    "loud.wav": (44100, 1, {"subtype": "FLOAT"}),
}
EACH = 4


def noise(seconds, rate, channels, loudness, rng):
    n = int(seconds * rate)
    swell = np.interp(np.arange(n), np.linspace(0, n, 6), rng.uniform(0.1, 1, 6))[:, None]
    return loudness * swell * rng.standard_normal((n, channels))


@pytest.fixture(scope="module")
def evaluation_set(tmp_path_factory):
    """Quiet recordings of every kind, of which 16 bits keep little, and some beyond full scale."""
    folder, rng, utterances = tmp_path_factory.mktemp("files"), np.random.default_rng(5), []
    for name, (rate, channels, options) in KINDS.items():
        for i in range(EACH):
            path = folder / f"{i}-{name}"
            loudness = 1.0 if name == "loud.wav" else 10.0 ** rng.uniform(-3.5, -2)
            soundfile.write(path, noise(rng.uniform(0.4, 1.5), rate, channels, loudness, rng), rate, **options)
            utterances.append(Utterance(path.name, f"s{i}", path, "A B"))
    manifest = folder / "files_test.csv"
    write_manifest(manifest, utterances, corpus="Files", split="test", data_folder=folder, normaliser="english")
    return EvaluationSet("files_test", (manifest,), "Files", "ood", None, 0)


@pytest.fixture(scope="module")
def table(model, model_folder, evaluation_set):
    metadata = table_metadata(evaluation_set, model, model_digest=model_digest(model_folder), seed=SEED, limit=None)
    read = AudioCache(0, sample_rate=16000)
    return collect(
        model, CharVocabulary(), evaluation_set, read=read, batch_seconds=9.0, metadata=metadata, progress=False
    )


def paths_of(table, evaluation_set):
    items = manifest_items(evaluation_set.manifests)
    return [items[utt_id]["wav"] for utt_id in table.utt_ids]


def every_exit(asr, paths, table):
    """What each exit said live, of shape (n_utterances, n_exits): drafts, and the last exit's transcript."""
    said, rows = np.full(table.hypotheses.shape, None, dtype=object), {path: i for i, path in enumerate(paths)}
    layers = table.exit_layers.tolist()

    def note(draft):
        said[rows[draft.audio], layers.index(draft.exit_layer)] = draft.text

    for i, one in asr.stream(paths, utt_ids=[*table.utt_ids], on_draft=note):
        said[i, -1] = one.text
    return said


def decided(asr, paths, table):
    found = dict(asr.stream(paths, utt_ids=[*table.utt_ids]))
    return [(found[i].text, found[i].exit_layer) for i in range(len(paths))]


def replayed(table, policy):
    exits = decide(policy, table).emitted  # some rules emit an earlier exit than the one at which they stop
    return [(table.hypotheses[i, e], table.exit_layers[e]) for i, e in enumerate(exits)]


def test_every_exit_says_of_a_file_what_the_exit_table_has(model_folder, table, evaluation_set):
    asr = EarlyExitASR.from_pretrained(model_folder, policy=f"static({ENCODER['n_layers']})", device="cpu")
    said = every_exit(asr, paths_of(table, evaluation_set), table)
    unlike = [f"{table.utt_ids[i]}, exit {k}" for i, k in np.argwhere(said != table.hypotheses)]
    assert not unlike
    assert len({*map(str, said)}) > len(KINDS)  # they do say something


@pytest.mark.parametrize("text", CASES)
def test_every_policy_decides_on_a_file_as_replay_does(text, model_folder, table, dev, evaluation_set):
    policy = parse_policy(text)
    policy = choose(dev, policy, budget=0.7).policy if policy.is_open else policy
    asr = EarlyExitASR.from_pretrained(model_folder, device="cpu", seed=SEED)
    asr.policy = policy
    assert decided(asr, paths_of(table, evaluation_set), table) == replayed(table, policy)


def test_a_file_that_is_cut_in_chunks_is_read_the_same(model_folder, evaluation_set, tmp_path):
    paths = [item["wav"] for item in manifest_items(evaluation_set.manifests).values()]
    asr = EarlyExitASR.from_pretrained(model_folder, policy="static(5)", device="cpu", longest_s=1.0)
    for path in paths[::EACH]:
        whole = asr.transcribe(path)
        assert whole.text == asr.transcribe(read_audio(path)).text
        soundfile.write(tmp_path / "as-read.wav", read_audio(path).numpy(), 16000, subtype="FLOAT")
        assert whole.text == asr.transcribe(tmp_path / "as-read.wav").text


# ---- the shipped model on real speech

SHIPPED = Path(__file__).resolve().parents[2] / "eeasr_modules" / "shipped" / "base"
SPOKEN = Path(__file__).resolve().parents[2] / "recipes" / "Spoken" / "corpus"
COMMON_VOICE = ("CommonVoice", "cv-corpus-13.0-delta-2023-03-09", "test")
# set -> recipe, folder of the shared data (None: in the repository), split, shift
SETS = {
    "commonvoice_test": (*COMMON_VOICE, None),
    "commonvoice_6_1_validated": ("CommonVoice", "cv-corpus-6.1-2020-12-11", "validated", None),
    "an4_test": ("AN4", "an4", "test", None),
    "an4_test_unseen_text": ("AN4", "an4", "test", None),
    "librispeech_test-other": ("LibriSpeech", "LibriSpeech", "test-other", None),
    "digits_test": ("Digits", "free-spoken-digit-dataset", "test", None),
    **{f"commonvoice_test_{s}": (*COMMON_VOICE, s) for s in ("noise_0db", "noise_10db", "telephone")},
}
NOT_ALONE = {
    "any": "any(entropy, patience(2, 0.2))",
    "all": "all(margin, random(0.7))",
    "between": "between(lexical)",
    "static": "static(3)",
    "random": "random(0.4)",
    "patience": "patience(2)",
    "patience_ce": "patience_ce(1)",
    "patience_bce": "patience_bce(1)",
    "entropy_per_token": "entropy_per_token(0.005, 29)",
    "patience_words": "patience_words(1)",
}
SEARCHES = ("nbest", "sequence_log_prob", "token_entropy")  # of a beam, which is not run live


@pytest.fixture(scope="module")
def every_policy():
    """All kinds of policies, fitted and their thresholds chosen on a part of the shipped model's dev table."""
    mixed_dev = read_table(SHIPPED / "tables" / "mixed_dev.parquet")
    mixed_dev = mixed_dev.select(np.arange(mixed_dev.n_utterances) % 8 == 0)
    if mixed_dev.references is None:  # shipped tables leave them out; what `gain_words` learns does not matter here
        mixed_dev = replace(mixed_dev, references=mixed_dev.hypotheses[:, -1])
    texts = [NOT_ALONE.get(name, name) for name in POLICIES if name not in SEARCHES]
    policies = {text: parse_policy(text) for text in texts}
    return {t: choose(mixed_dev, p, budget=0.75).policy if p.is_open else p for t, p in policies.items()}


def real_set(name, shared_data, folder):
    corpus, data, split, shift = SETS[name]
    recipe = load_recipe(SPOKEN.parents[1] / corpus)
    manifest = recipe.prepare(shared_data / data, folder, splits=[split])[split]
    return EvaluationSet(name, (manifest,), corpus, "", shift, 0)


def test_every_test_set_of_the_shipped_model_is_here():
    assert {path.stem for path in (SHIPPED / "tables").glob("*.parquet")} == {*SETS, "mixed_dev"}


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("name", SETS)
def test_the_shipped_model_says_live_what_its_tables_have(name, shared_data, tmp_path, every_policy):
    table, evaluation_set = read_table(SHIPPED / "tables" / f"{name}.parquet"), real_set(name, shared_data, tmp_path)
    seed, paths = table.metadata["seed"], paths_of(table, evaluation_set)
    asr = EarlyExitASR.from_pretrained(SHIPPED, policy="static(8)", device="cpu", seed=seed)
    if evaluation_set.shift is None:
        assert (every_exit(asr, paths, table) == table.hypotheses).all()
        wavs = [
            torch.cat([*AudioReader(path, 16000).blocks_of_speech()]) for path in paths
        ]  # as `stream` has read them; once for all policies
    else:  # disturbed behind the reading, so in no file
        items, read = manifest_items(evaluation_set.manifests), AudioCache(0, sample_rate=16000)
        wavs = [
            evaluation_set.waveform(utt_id, items[utt_id], read, seed=seed, sample_rate=16000)
            for utt_id in table.utt_ids
        ]
    model, vocabulary = asr.engine.model, asr.engine.vocabulary
    for text, policy in every_policy.items():
        engine = Engine(model, vocabulary, policy=policy, seed=seed)
        found = [(one.text, one.exit_layer) for one in engine.run_all(wavs, utt_ids=[*table.utt_ids])]
        assert found == replayed(table, policy), text
    if evaluation_set.shift is None:
        shipped = EarlyExitASR.from_pretrained(SHIPPED, device="cpu", seed=seed)
        assert decided(shipped, paths, table) == replayed(table, shipped.policy)
