"""`eeasr probe` on real speech with tiny checkpoints in place of the hub's."""

import csv
import dataclasses
import io
import json
import re

import numpy as np
import pytest
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references
from speechbrain.dataio.encoder import CTCTextEncoder
from speechbrain.decoders import ctc_greedy_decode
from tiny_checkpoint import LETTERS, save_checkpoint
from tokenizers import Tokenizer, models
from transformers import (
    GenerationConfig,
    HubertForCTC,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from eeasr_modules.cli import main
from eeasr_modules.exits.tables.files import read_table
from eeasr_modules.models.decoding.ctc import greedy_decode
from eeasr_modules.models.encoders.own_decoder import most_tokens
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.report.render.probe import probe_numbers
from eeasr_modules.training.test_pass_decoders import OwnDecoderLens

pytestmark = pytest.mark.shared_data


def listing(path, rows):
    """A CSV of (wav, text, speaker)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("wav", "wrd", "spk_id"), *rows])


@pytest.fixture(scope="module")
def corpora(shared_data, tmp_path_factory):
    """Folders A (10 speakers of test) and B (2 speakers), as listings of LibriSpeech's own files."""
    rows = []
    for transcript in sorted((shared_data / "LibriSpeech" / "test-other").rglob("*.trans.txt")):
        for line in transcript.read_text().splitlines()[:3]:
            name, text = line.split(" ", 1)
            rows.append((str(transcript.parent / f"{name}.flac"), text, name.split("-")[0]))
    folder = tmp_path_factory.mktemp("corpora")
    speakers = sorted({row[2] for row in rows})
    listing(folder / "A" / "train.csv", [row for row in rows if row[2] in speakers[:4]])
    listing(folder / "A" / "dev.csv", [row for row in rows if row[2] in speakers[4:6]])
    listing(folder / "A" / "test.csv", [next(row for row in rows if row[2] == speaker) for speaker in speakers])
    listing(folder / "B" / "test.csv", [row for row in rows if row[2] in speakers[6:8]])
    return folder


def loud(folder):
    """A tiny HuBERT with a CTC head that says something: its random projection, a hundred times larger."""
    save_checkpoint(folder, kind="hubert", n_layers=3, ctc=True)
    model = HubertForCTC.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.mul_(100.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def study(corpora):
    checkpoint, out = loud(corpora / "hubert"), corpora / "study"
    argv = ["probe", checkpoint, "--data", corpora / "A", "--ood", corpora / "B", "--seeds", "2", "--epochs", "2"]
    assert main([*map(str, argv), "-o", str(out)]) == 0
    return out


def test_everything_that_was_promised_is_written(study):
    for name in ("probe.json", "probe.md", "tables.tex", "methods.md"):
        assert (study / name).read_text(encoding="utf-8").strip()
    assert (study / "figures.pdf").read_bytes().startswith(b"%PDF")
    for reading in ("lens", "seed_1234", "seed_1235"):
        assert {path.stem for path in (study / reading / "tables").glob("*.parquet")} == {"A", "B", "dev_A"}
        assert (study / reading / "report" / "report.md").is_file()
    methods = (study / "methods.md").read_text(encoding="utf-8")
    assert "| A | in_domain | 10 | 10 |" in methods and "| B | ood | 6 | 2 |" in methods
    assert re.search(r"about \d+ min \([\d.]+ in the encoder(, [\d.]+ in 4 epochs of heads)?;", methods)
    assert "| 4 | 4 |" in methods  # four of A's test speakers and texts are in its training here


def test_the_lens_is_the_checkpoints_own_head_after_every_layer(study, corpora):
    table = read_table(study / "lens" / "tables" / "A.parquet")
    stock = HubertForCTC.from_pretrained(corpora / "hubert").eval()
    assert table.exit_layers.tolist() == [1, 2, 3] and len(set(table.hypotheses[:, 0])) > 1
    for i, (wav, _, _) in enumerate(list(csv.reader((corpora / "A" / "test.csv").open()))[1:4]):
        samples = torch.from_numpy(soundfile.read(wav, dtype="float32")[0])[None]
        normal = (samples - samples.mean()) / torch.sqrt(samples.var(correction=0) + 1e-7)
        with torch.no_grad():
            found = stock(normal, output_hidden_states=True)
            logits = [stock.lm_head(found.hidden_states[1]), stock.lm_head(found.hidden_states[2]), found.logits]
        n_frames = torch.tensor([logits[0].shape[1]])
        texts = []
        for one in logits:
            (tokens,) = greedy_decode(torch.log_softmax(one, -1), n_frames, blank_index=0)
            texts.append(" ".join("".join(LETTERS[t] for t in tokens).replace("|", " ").split()))
        spoken = [" ".join(re.sub("<[a-z/]*>", "", text).split()) for text in texts]
        assert table.hypotheses[i].tolist() == spoken and len(spoken[0]) > 10


def test_seeds_share_states_and_differ_in_inner_heads_alone(study):
    assert len([path for path in study.rglob("states.bin") if not path.parent.is_symlink()]) == 1
    one, other = (MultiExit.load(study / f"seed_{seed}" / "model") for seed in (1234, 1235))
    weights = [model.heads[0].projection.weight for model in (one, other)]
    assert not torch.equal(*weights)
    assert torch.equal(one.heads[-1].projection.weight, other.heads[-1].projection.weight)
    assert all(torch.equal(a, b) for a, b in zip(one.encoder.parameters(), other.encoder.parameters(), strict=True))


def test_variation_over_seeds_stands_apart_and_two_speakers_give_no_conclusion(study):
    numbers = json.loads((study / "probe.json").read_text())
    a = numbers["sets"]["A"]
    runs = [a["wer"]["seed_1234"], a["wer"]["seed_1235"]]
    assert a["over_seeds"]["mean"] == pytest.approx(np.mean(runs, axis=0))
    assert a["over_seeds"]["sd"] == pytest.approx(np.std(runs, axis=0, ddof=1))
    characters = [a["cer"]["seed_1234"], a["cer"]["seed_1235"]]
    assert a["cer_over_seeds"]["mean"] == pytest.approx(np.mean(characters, axis=0)) and characters != runs
    assert "CER (%) after each layer" in (study / "tables.tex").read_text().replace("\\", "")
    policies = numbers["policies"]["A"]
    assert policies["last layer"]["seed_1235"] == [pytest.approx(runs[1][-1], abs=1e-3), 3]
    report = json.loads((study / "seed_1234" / "report" / "summary.json").read_text())
    decided = report["sets"]["A"]["policies"]["between(random)"]["at_budget"]
    assert policies["between(random)"]["seed_1234"] == [decided["wer"], decided["depth"]] and decided["depth"] < 3
    assert "| A | between(random) |" in (study / "probe.md").read_text()
    verdicts = {(row["set"], row["reading"]): row["verdict"] for row in numbers["tests"]}
    assert {verdict for (name, _), verdict in verdicts.items() if name == "B"} == {"no conclusion"}
    assert "no conclusion" not in {verdict for (name, _), verdict in verdicts.items() if name == "A"}


def test_an_encoder_that_overthinks_is_found(study):
    table = read_table(study / "lens" / "tables" / "A.parquet")
    n_ins = table.n_ins * 0
    n_ins[:, 2] = 5
    worse = dataclasses.replace(table, n_sub=n_ins * 0, n_del=n_ins * 0, n_ins=n_ins)
    (row,) = probe_numbers({"lens": (worse, [worse])})["tests"]
    assert (row["layer"], row["verdict"], row["overthought"]) == (1, "overthinks", 1.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"--data": "nowhere"}, "no folder 'nowhere'"),
        ({"--splits": "train/dev"}, "--splits must be three names"),
        ({"--seeds": "-1"}, "--seeds must be 0 (the lens alone) or more"),
        ({"--ood-splits": "test/dev"}, "--ood-splits must be one for all --ood or one for each"),
    ],
)
def test_what_is_wrong_is_one_sentence(corpora, tmp_path, capsys, change, sentence):
    values = {"--data": corpora / "A", "--out": tmp_path / "x", **change}
    argv = ["probe", str(corpora / "hubert"), *(str(part) for pair in values.items() for part in pair)]
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("eeasr: error: ") and sentence in error


def test_a_folder_is_of_one_checkpoint_and_the_lens_reads_what_lies_there_now(corpora, tmp_path, capsys):
    checkpoint, other = loud(tmp_path / "one"), save_checkpoint(tmp_path / "other", kind="hubert", ctc=True)
    argv = ["--data", str(corpora / "A"), "--seeds", "0", "-o", str(tmp_path / "study")]
    assert main(["probe", str(checkpoint), *argv]) == 0
    before = read_table(tmp_path / "study" / "lens" / "tables" / "A.parquet")
    assert "Heads:" not in (tmp_path / "study" / "methods.md").read_text()
    assert json.loads((tmp_path / "study" / "probe.json").read_text())["lens"] == "own head"
    assert main(["probe", str(other), *argv]) == 2
    assert f"holds a run with source {checkpoint}, this one has {other}" in capsys.readouterr().err
    model = HubertForCTC.from_pretrained(checkpoint)
    with torch.no_grad():
        model.lm_head.weight.neg_()
    model.save_pretrained(checkpoint)
    assert main(["probe", str(checkpoint), *argv]) == 0
    after = read_table(tmp_path / "study" / "lens" / "tables" / "A.parquet")
    assert before.metadata["model_digest"] != after.metadata["model_digest"]
    assert (before.hypotheses != after.hypotheses).any()


def test_a_checkpoint_without_a_head_has_no_lens_and_needs_seeds(corpora, tmp_path, capsys):
    save_checkpoint(corpora / "wavlm", kind="wavlm", n_layers=2)
    argv = ["probe", str(corpora / "wavlm"), "--data", str(corpora / "A"), "-o", str(tmp_path / "x")]
    assert main([*argv, "--seeds", "0"]) == 2
    assert "has no decoder and no CTC head that spells the texts: give --seeds 1 or more" in capsys.readouterr().err
    assert main([*argv, "--seeds", "0", "--no-lens"]) == 2
    assert "--no-lens: give --seeds 1 or more" in capsys.readouterr().err
    assert main([*argv, "--seeds", "1", "--epochs", "1"]) == 0
    assert "No lens" in (tmp_path / "x" / "methods.md").read_text()
    assert not (tmp_path / "x" / "lens" / "tables").exists()


WORDS = [
    "<unk>",
    "<s>",
    "</s>",
    "a",
    "be",
    "see",
    "the",
    "of",
    "in",
    "to",
    "it",
    "is",
    "on",
    "he",
    "as",
    "at",
    "we",
    "go",
]


def speaking(model, folder, *, words):
    """A tiny model with a decoder, its output made loud, and a tokenizer of whole words."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    special = [word for word in words if word.startswith("<")]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=special)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def moonshine(corpora):
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": len(WORDS)}
    shape |= {
        f"{part}_num_{what}": 2 for part in ("encoder", "decoder") for what in ("hidden_layers", "attention_heads")
    }
    shape |= {"encoder_num_key_value_heads": 2, "decoder_num_key_value_heads": 2, "max_position_embeddings": 512}
    config = MoonshineConfig(**shape, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, pad_token_id=2)
    return speaking(MoonshineForConditionalGeneration(config), corpora / "moonshine", words=WORDS)


def test_the_lens_of_a_checkpoint_with_a_decoder_is_what_transformers_generates_from_every_layer(corpora, moonshine):
    argv = ["probe", moonshine, "--data", corpora / "A", "--seeds", "0", "-o", corpora / "spoken"]
    assert main([*map(str, argv)]) == 0
    table = read_table(corpora / "spoken" / "lens" / "tables" / "A.parquet")
    stock = MoonshineForConditionalGeneration.from_pretrained(moonshine).eval()
    outputs = []
    for layer in stock.model.encoder.layers:
        layer.register_forward_hook(lambda module, args, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    for i, (wav, _, _) in enumerate(list(csv.reader((corpora / "A" / "test.csv").open()))[1:4]):
        samples = torch.from_numpy(soundfile.read(wav, dtype="float32")[0])[None]
        outputs.clear()
        with torch.no_grad():
            stock.model.encoder(samples)
            for e in range(2):
                memory = BaseModelOutput(last_hidden_state=stock.model.encoder.layer_norm(outputs[e]))
                memory.attention_mask = None
                most = most_tokens(samples.shape[1])
                (ids,) = stock.generate(encoder_outputs=memory, max_new_tokens=most, do_sample=False)
                spoken = " ".join(WORDS[t].upper() for t in ids.tolist() if t > 2)
                assert table.hypotheses[i, e] == spoken
    assert len({text for text in table.hypotheses.ravel() if text}) > 2
    assert (table.head_macs > 0).all() and "its own decoder" in (corpora / "spoken" / "methods.md").read_text()
    assert "own decoder (greedy) after every layer" in (corpora / "spoken" / "methods.md").read_text()


def test_whispers_decoder_sees_thirty_seconds_as_it_was_trained_to(corpora, tmp_path):
    torch.manual_seed(0)
    words = [*WORDS, "<|endoftext|>", "<|startoftranscript|>", "<|de|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    shape = {"d_model": 16, "vocab_size": len(words), "num_mel_bins": 80, "pad_token_id": 2, "eos_token_id": 2}
    shape |= {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = WhisperConfig(**shape, encoder_ffn_dim=32, decoder_ffn_dim=32, decoder_start_token_id=1, bos_token_id=1)
    model = WhisperForConditionalGeneration(config)
    folder = speaking(model, tmp_path / "whisper", words=words)
    GenerationConfig(is_multilingual=True).save_pretrained(folder)
    lens = OwnDecoderLens(str(folder), {"encoder": "huggingface", "source": str(folder)}, device="cpu")
    wav = 0.1 * torch.randn(20000)
    states = lens.states(wav)
    features = WhisperFeatureExtractor()(wav.numpy(), sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        assert torch.allclose(states[-1], model.model.encoder(features).last_hidden_state[0], atol=1e-3)
    prompt = [words[token] for token in lens.prompt(states)]
    assert prompt[0] == "<|startoftranscript|>" and prompt[1] in ("<|de|>", "<|en|>")
    assert prompt[2:] == ["<|transcribe|>", "<|notimestamps|>"]
    tokens, _ = lens.spell(states, most=6)
    assert all(len(one) <= 6 for one in tokens)
    argv = ["probe", folder, "--data", corpora / "A", "--seeds", "1", "--epochs", "1", "--limit", "2"]
    assert main([*map(str, argv), "-o", str(tmp_path / "study")]) == 0
    lens, heads = (read_table(tmp_path / "study" / one / "tables" / "A.parquet") for one in ("lens", "seed_1234"))
    assert list(lens.utt_ids) == list(heads.utt_ids)
    assert lens.exit_layers.tolist() == heads.exit_layers.tolist() == [1, 2]
    assert json.loads((tmp_path / "study" / "probe.json").read_text())["lens"] == "own decoder"


RECIPE = """
hub: {hub}
save_folder: {save}
activation: !name:torch.nn.LeakyReLU
dnn_neurons: 20
blank_index: 0
enc: {enc}
wav2vec2: !new:speechbrain.lobes.models.huggingface_transformers.hubert.HuBERT
   source: !ref <hub>
   output_norm: True
   freeze: False
   save_path: !ref <save_folder>/hub
ctc_lin: !new:speechbrain.nnet.linear.Linear
   input_size: !ref <dnn_neurons>
   n_neurons: 31
modules:
   wav2vec2: !ref <wav2vec2>
   enc: !ref <enc>
   ctc_lin: !ref <ctc_lin>
model: !new:torch.nn.ModuleList
   - [!ref <enc>, !ref <ctc_lin>]
checkpointer: !new:speechbrain.utils.checkpoints.Checkpointer
   checkpoints_dir: !ref <save_folder>
   recoverables:
      wav2vec2: !ref <wav2vec2>
      model: !ref <model>
"""
ENC = {
    "VanillaNN": """!new:speechbrain.lobes.models.VanillaNN.VanillaNN
   input_shape: [null, null, 24]
   activation: !ref <activation>
   dnn_blocks: 2
   dnn_neurons: !ref <dnn_neurons>""",
    "Sequential": """!new:speechbrain.nnet.containers.Sequential
   input_shape: [null, null, 24]
   linear1: !name:speechbrain.nnet.linear.Linear
      n_neurons: !ref <dnn_neurons>
   bn1: !name:speechbrain.nnet.normalization.BatchNorm1d
   activation: !new:torch.nn.LeakyReLU
      negative_slope: 0.2
   drop: !new:torch.nn.Dropout
      p: 0.15
   linear2: !name:speechbrain.nnet.linear.Linear
      n_neurons: !ref <dnn_neurons>""",
}


def speechbrain_run(folder, *, enc):
    """A CTC run as SpeechBrain's recipe leaves it, two checkpoints of random weights; the objects as of the better."""
    hub = save_checkpoint(folder / "hub", kind="hubert", n_layers=3)
    text = RECIPE.format(hub=hub, save=folder / "run" / "save", enc=ENC[enc])
    made = load_hyperpyyaml(text)
    labels = CTCTextEncoder()
    labels.insert_blank(index=0)
    labels.update_from_iterable("ETAONIHSRDLUMWCFGYPBVK'XJQZ ", sequence_input=False)
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in made["wav2vec2"].parameters():
            weight.add_(0.05 * torch.randn_like(weight))  # trained: not the hub's any more
        made["ctc_lin"].w.weight.mul_(100.0)
    made["enc"](torch.randn(4, 50, 24) * 2 + 1)  # running means that are not 0
    made["checkpointer"].save_checkpoint(meta={"WER": 20.0})
    better = {name: value.clone() for name, value in made["model"].state_dict().items()}
    with torch.no_grad():
        made["ctc_lin"].w.weight.mul_(-1.0)
    made["checkpointer"].save_checkpoint(meta={"WER": 30.0})
    made["model"].load_state_dict(better)
    (folder / "run" / "hyperparams.yaml").write_text(resolve_references(io.StringIO(text)).read())
    labels.save(folder / "run" / "save" / "label_encoder.txt")
    return folder / "run", made, labels


@pytest.mark.parametrize("enc", ["VanillaNN", pytest.param("Sequential", marks=pytest.mark.slow)])
def test_the_lens_of_a_speechbrain_run_ends_in_its_own_greedy_transcripts(corpora, tmp_path, enc):
    run, made, labels = speechbrain_run(tmp_path, enc=enc)
    seeds = int(enc == "Sequential")
    argv = ["probe", run, "--data", corpora / "A", "--seeds", seeds, "--epochs", 1, "-o", tmp_path / "study"]
    assert main([*map(str, argv)]) == 0
    table = read_table(tmp_path / "study" / "lens" / "tables" / "A.parquet")
    for part in ("wav2vec2", "model"):
        made[part].eval()
    for i, (wav, _, _) in enumerate(list(csv.reader((corpora / "A" / "test.csv").open()))[1:]):
        samples = torch.from_numpy(soundfile.read(wav, dtype="float32")[0])[None]
        with torch.no_grad():
            states = made["wav2vec2"](samples, torch.ones(1))
            log_probs = torch.log_softmax(made["ctc_lin"](made["enc"](states)), dim=-1)
        (tokens,) = ctc_greedy_decode(log_probs, torch.ones(1), blank_id=0)
        spoken = "".join(labels.decode_ndim([token for token in tokens if token < len(labels)]))
        assert table.hypotheses[i, -1] == " ".join(spoken.split()) and len(spoken) > 10
    assert (table.hypotheses[:, 0] != table.hypotheses[:, -1]).all()
    if seeds:
        model = MultiExit.load(tmp_path / "study" / "seed_1234" / "model")
        assert len({id(head.projection) for head in model.heads}) == 3 and model.config["n_tokens"] == 31
        theirs = made["wav2vec2"].model.encoder.layers[1].attention.k_proj.weight
        assert torch.equal(model.encoder.model.encoder.layers[1].attention.k_proj.weight, theirs)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("tiny.hub", "no.hub", "give --encoder FOLDER with its config.json"),
        ("torch.nn.LeakyReLU", "os.system", "node activation of enc must be one of"),
        ("nnet.containers.Sequential", "lobes.models.CRDNN.CRDNN", "expected enc to be a"),
        ("modules:", "modules:\n  downsampler: 1", "wav2vec2, enc and ctc_lin alone, got downsampler"),
        ("blank_index: 0", "blank_index: 0\nupsampling: true", "wav2vec2, enc and ctc_lin alone, got upsampling"),
    ],
)
def test_a_speechbrain_run_of_another_kind_is_one_sentence(corpora, tmp_path, capsys, before, after, sentence):
    run, *_ = speechbrain_run(tmp_path / "tiny", enc="Sequential")
    text = (run / "hyperparams.yaml").read_text()
    text = text.replace(str(tmp_path / "tiny" / "hub"), "tiny.hub")
    assert before in text
    (run / "hyperparams.yaml").write_text(text.replace(before, after))
    argv = ["probe", run / "save", "--data", corpora / "A", "--seeds", "0", "-o", tmp_path / "x"]
    argv += [] if before == "tiny.hub" else ["--encoder", tmp_path / "tiny" / "hub"]
    assert main([*map(str, argv)]) == 2
    assert sentence in capsys.readouterr().err.strip().splitlines()[-1]


def test_sets_of_one_seed_are_a_family_and_seeds_are_counted(study):
    table = read_table(study / "lens" / "tables" / "A.parquet")
    other = dataclasses.replace(table, metadata={**table.metadata, "set_name": "C"})
    one = probe_numbers({"seed_1": (table, [table, other])})
    three = probe_numbers({f"seed_{i}": (table, [table, other]) for i in range(3)})
    assert [row["holm_p"] for row in three["tests"][:2]] == [row["holm_p"] for row in one["tests"]]
    assert [sum(counts.values()) for counts in three["agreement"].values()] == [3, 3]
    p = one["tests"][0]
    assert p["holm_p"] == pytest.approx(min(1.0, 2 * p["bootstrap_p"]))
