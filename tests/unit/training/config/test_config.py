"""What a YAML and a command line may say; everything else is refused in one sentence before anything is built."""

import argparse
import shutil

import pytest
import yaml
from speechbrain.utils.run_opts import RunOptions
from tiny_checkpoint import write_settings, write_start, write_start_of
from tiny_run import YAML

from eeasr_modules.training.config.config import check, flatten, load, load_yaml
from eeasr_modules.training.config.keys import all_keys, keys_of

VALUES = load_yaml(YAML)


@pytest.fixture(scope="module")
def recipes(root):
    return root / "recipes"


def refusal(recipes, **changes):
    """The one sentence with which a change to `hparams/an4.yaml` is refused."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        check({**VALUES, **changes}, recipes=recipes)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) > 20
    return sentence


def test_the_papers_own_rule_can_keep_its_budget(root):
    values = load_yaml(root / "hparams" / "paper.yaml")
    assert values["exit_policy"] == "patience(2, pairs, first)"  # so the third exit is the first where it may decide
    assert values["exit_layers"][2] <= values["exit_budget"] * values["exit_layers"][-1]


def test_an_unknown_key_is_refused_with_the_nearest_known_one(recipes):
    assert refusal(recipes, exit_polcy="random") == "unknown key exit_polcy (did you mean exit_policy?)"
    sentence = refusal(recipes, zzz=1)
    assert (
        sentence.startswith("unknown key zzz; known keys are ")
        and "exit_layers, exit_policy, exit_risk, exit_weights" in sentence
    )


def test_an_unknown_encoder_is_refused_with_those_there_are(recipes):
    sentence = refusal(recipes, encoder="wav2vec2")
    assert sentence.startswith("encoder must be one of conformer") and sentence.endswith("got 'wav2vec2'")


def test_a_missing_key_is_named(recipes):
    values = {name: value for name, value in VALUES.items() if name not in ("seed", "dim")}
    with pytest.raises(ValueError, match="the YAML lacks the keys dim, seed"):
        check(values, recipes=recipes)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("seed", 1.5, "seed must be int, got 1.5"),
        ("seed", True, "seed must be int, got True"),
        ("seed", "7", "seed must be int, got '7'"),
        ("seed", None, "seed must be int, got None"),
        ("dropout", False, "dropout must be float, got False"),
        ("dropout", {"rate": 0.1}, "dropout must be float, got {'rate': 0.1}"),  # an unknown nested key
        ("dim", {"width": 3}, "dim must be int, got {'width': 3}"),
        ("exit_policy", {"entropy": 0.1}, "exit_policy must be str, got {'entropy': 0.1}"),
        ("exit_policy", 3, "exit_policy must be str, got 3"),
        ("freeze_encoder", 1, "freeze_encoder must be bool, got 1"),
        ("freeze_encoder", "yes", "freeze_encoder must be bool, got 'yes'"),
        ("exit_layers", 8, "exit_layers must be a list of int, got 8"),
        ("exit_layers", [1, 2.5, 8], "exit_layers must be a list of int, got [1, 2.5, 8]"),
        ("exit_layers", [True, 8], "exit_layers must be a list of int, got [True, 8]"),
        ("test_splits", "test", "test_splits must be a list of str, got 'test'"),
        ("train_utterances", "all", "train_utterances must be int or null, got 'all'"),
        ("exit_weights", "first", "exit_weights must be one of uniform, linear, increasing, last, got 'first'"),
        ("tokens", "words", "tokens must be one of characters, unigram, bpe, got 'words'"),
        ("dim", 0, "dim must be at least 1, got 0"),
        ("n_epochs", -1, "n_epochs must be at least 0, got -1"),
        ("batch_seconds", 0, "batch_seconds must be above 0, got 0"),
        ("test_batch_seconds", 0.0, "test_batch_seconds must be above 0, got 0.0"),
        ("dropout", 1.5, "dropout must lie between 0.0 and 1.0, got 1.5"),
        ("encoder_lr", float("nan"), "encoder_lr must be a finite number, got nan"),
        ("batch_seconds", float("inf"), "batch_seconds must be a finite number, got inf"),
        ("speeds", [100, 20], "speeds must lie between 50 and 200, got 20"),
        ("ood_digits_folder", 3, "ood_digits_folder must be str or null, got 3"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(recipes, key, value, wanted):
    assert refusal(recipes, **{key: value}) == wanted


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"exit_layers": [3, 2, 8]}, "exit_layers must rise and end at 8 (the encoder's last layer), got [3, 2, 8]"),
        ({"exit_layers": [2, 4, 9]}, "exit_layers must rise and end at 8 (the encoder's last layer), got [2, 4, 9]"),
        ({"exit_layers": [2, 4]}, "must rise and end at 8"),
        ({"exit_layers": []}, "must rise and end at 8"),
        ({"exit_policy": "entorpy(0.1)"}, "entorpy"),
        ({"exit_policy": "entropy(0.1"}, "entropy(0.1"),
        ({"exit_policy": "entropy(__import__('os'))"}, "entropy"),
        ({"exit_policy": "patience"}, "patience"),
        ({"exit_policy": "static(3)", "exit_layers": [2, 4, 8]}, "3"),
        ({"exit_policy": "between(2, 9, entropy)"}, "9"),
        ({"compare_policies": "random, entropi"}, "entropi"),
        ({"exit_budget": 0.01}, "exit_budget 0.01 means 0.08 layers on average; it must lie between the first exit, 1"),
        ({"exit_budget": 9}, "exit_budget 9 means 9 layers"),
        ({"exit_budget": 1.5, "exit_layers": [2, 8]}, "first exit, 2, and the last, 8"),
        ({"exit_budget": float("nan")}, "exit_budget must be a finite number"),
        ({"shifts": ["noise_20db"]}, "unknown shift 'noise_20db', there are noise_10db, noise_0db, reverb"),
        ({"corpus": "TIMIT"}, "corpus must be a folder of recipes/ (an4, commonvoice, custom, digits"),
        ({"ood_timit_folder": "x"}, "ood_timit_folder: no corpus 'timit' under recipes/, there are an4"),
        ({"freeze_encoder": True}, "freeze_encoder: true trains heads only and needs init_from"),
        ({"init_from": "nowhere"}, "init_from must be a model folder with a config.json, 'nowhere' has none"),
        ({"tokens": "bpe"}, "tokens: bpe needs n_tokens"),
        ({"dim": 30}, "dim must be a multiple of 2 x n_heads, got 30 and 4"),
        ({"kernel_size": 8}, "kernel_size must be odd, got 8"),
        ({"speeds": []}, "speeds"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(recipes, changes, sentence):
    assert sentence in refusal(recipes, **changes)


def test_what_is_right_passes_and_can_be_read_by_name(recipes):
    config = check({**VALUES, "dropout": 0, "ood_digits_folder": "fsdd"}, recipes=recipes)
    assert config.dropout == 0 and config.n_layers == 8
    # the folder's own spelling; null folders are left out
    assert [(one.corpus, one.folder, one.test_splits) for one in config.other_sets] == [("Digits", "fsdd", ("test",))]
    with pytest.raises(AttributeError, match="the configuration has no key 'n_layer'"):
        _ = config.n_layer
    assert config.encoder_settings["dim"] == VALUES["dim"] and "tokens" not in config.encoder_settings
    first = ["encoder", "sample_rate", "downsample", "downsample_factor", "n_layers", "dim"]
    assert list(config.encoder_settings)[:6] == first  # as in model folders of before: the same digest


def test_other_corpora_come_in_the_order_of_the_yaml(recipes):
    more = {"ood_commonvoice_folder": "c", "ood_digits_folder": "d", "ood_an4_folder": "a"}
    without = {name: value for name, value in VALUES.items() if name not in more}
    found = check({**without, **more}, recipes=recipes).other_sets
    assert [one.corpus for one in found] == ["CommonVoice", "Digits", "AN4"]


@pytest.mark.parametrize(("speeds", "seen"), [([100], set()), ([90, 110], set()), ([90, 120], {"fast"})])
def test_training_at_the_speed_of_a_shift_counts_as_having_seen_it(recipes, speeds, seen):
    assert check({**VALUES, "speeds": speeds}, recipes=recipes).augmentations == seen


LIBRI = YAML.parent / "librispeech.yaml"


@pytest.mark.parametrize(
    ("path", "changes", "sentence"),
    [
        (LIBRI, {"n_mels": 40}, "n_mels belongs to encoder conformer, this run has encoder huggingface: leave it out"),
        (LIBRI, {"n_layers": 12}, "n_layers belongs to encoder conformer"),
        (YAML, {"padded_front_end": True}, "padded_front_end belongs to encoder huggingface, this run has"),
        (LIBRI, {"source": None}, "needs source, a hub id or a local folder"),
        (LIBRI, {"sample_rate": 8000}, "encoder huggingface hears 16000 Hz, sample_rate is 8000"),
        (LIBRI, {"attention": "flash"}, "attention must be one of sdpa, eager, got 'flash'"),
        (LIBRI, {"exit_layers": "every two"}, "exit_layers must be a list of int, got 'every two'"),
        (
            LIBRI,
            {"normaliser": "german"},
            "normaliser must be null, none or one of english, letters, an4, ml_superb, whisper, got 'german'",
        ),
        (LIBRI, {"train_max_s": 0}, "train_max_s must be above 0"),
        (LIBRI, {"head": "lstm"}, "head must be one of linear, mlp, attention, paper, got 'lstm'"),
        (LIBRI, {"n_epochs": 0}, "n_epochs: 0 only evaluates and needs init_from"),
        (LIBRI, {"ood_commonvoice_splits": "test"}, "ood_commonvoice_splits must be a list of str, got 'test'"),
        (LIBRI, {"ood_commonvoice_splits": []}, "ood_commonvoice_splits is empty"),
        (LIBRI, {"release_2_splits": ["test"]}, "release_2_splits needs release_2_folder beside it"),
        (LIBRI, {"ood_timit_core_folder": "x"}, "no corpus 'timit' under recipes/"),
    ],
)
def test_what_does_not_belong_to_the_encoder_or_set_is_refused(recipes, path, changes, sentence):
    with pytest.raises(ValueError) as caught:
        check({**load_yaml(path), **changes}, recipes=recipes)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("n_layers", "given", "exits"),
    [
        (12, "every 2", [2, 4, 6, 8, 10, 12]),
        (24, "every 2 from 10", [10, 12, 14, 16, 18, 20, 22, 24]),
        (5, "every 2", [3, 5]),
    ],
)
def test_exits_are_placed_by_the_checkpoints_depth(recipes, tmp_path, n_layers, given, exits):
    source = str(write_settings(tmp_path / "big", n_layers=n_layers))
    config = load(LIBRI, {"source": source, "exit_layers": given}, recipes=recipes)
    assert (config.exit_layers, config.n_layers, config.dim) == (exits, n_layers, 24)
    assert config.output_folder.startswith("runs/librispeech_big")  # another encoder does not disturb the usual run


def test_exits_and_policies_beyond_the_checkpoints_depth_are_refused(recipes, tmp_path):
    source = str(write_settings(tmp_path, n_layers=12))
    for changes, sentence in (
        ({"exit_layers": [6, 24]}, r"exit_layers must rise and end at 12 \(the encoder's last layer\), got \[6, 24\]"),
        ({"exit_layers": "every 2 from 20"}, "every 2 from 20 gives no exits for an encoder of 12 layers"),
        ({"exit_policy": "static(5)"}, "5"),
        ({"attention": "sdpa"}, "wavlm encoder has attention eager, got 'sdpa'"),
        ({"source": str(tmp_path / "gone")}, "expected a local folder with a config.json or the id of a model"),
    ):
        with pytest.raises(ValueError, match=sentence):
            load(LIBRI, {"source": source, **changes}, recipes=recipes)


def test_evaluating_another_model_needs_its_corpus_and_exits(recipes, tmp_path):
    path = YAML.parent / "ood_commonvoice.yaml"
    start = str(write_start(tmp_path / "libri", exit_layers=[2, 4, 6]))
    assert load(path, {"init_from": start}, recipes=recipes).exit_layers == [2, 4, 6]
    with pytest.raises(ValueError, match=r"has exits after layers \[2, 4, 6\], none after 3"):
        load(path, {"init_from": start, "exit_layers": [3, 6]}, recipes=recipes)
    with pytest.raises(ValueError, match="source microsoft/wavlm-base-plus, but the YAML has source other"):
        load(path, {"init_from": start, "source": "other"}, recipes=recipes)
    other = str(write_start(tmp_path / "an4", exit_layers=[2, 4, 6], corpus="AN4"))
    with pytest.raises(ValueError, match="was trained on AN4, but corpus is LibriSpeech"):
        load(path, {"init_from": other}, recipes=recipes)


def test_several_folders_of_a_corpus_each_have_a_name(recipes):
    more = {"ood_commonvoice_20_folder": "b", "ood_commonvoice_20_splits": ["validated"], "release_own_folder": "c"}
    config = check({**load_yaml(LIBRI), "ood_commonvoice_folder": "a", **more}, recipes=recipes)
    assert [(one.name, one.corpus, one.folder, one.test_splits, one.role) for one in config.other_sets] == [
        ("commonvoice", "CommonVoice", "a", ("test",), "ood"),
        ("commonvoice_20", "CommonVoice", "b", ("validated",), "ood"),
        ("own", "LibriSpeech", "c", ("test",), "release"),
    ]
    assert config.other_sets[1].keys == {name: more[name] for name in list(more)[:2]}


def test_other_corpora_are_trained_on_too(recipes):
    more = {
        "also_commonvoice_folder": "a",
        "also_commonvoice_train_splits": ["train"],
        "also_commonvoice_test_splits": ["test"],
        "also_commonvoice_20_folder": "b",
        "also_commonvoice_20_train_splits": ["validated"],
    }
    config = check({**load_yaml(LIBRI), **more}, recipes=recipes)
    assert [(one.name, one.train_splits, one.valid_splits, one.test_splits) for one in config.other_sets] == [
        ("commonvoice", ("train",), (), ("test",)),
        ("commonvoice_20", ("validated",), (), ()),
    ]
    assert config.trained_corpora == ["LibriSpeech", "CommonVoice"]
    assert config.other_sets[0].keys == {**dict(list(more.items())[:3]), "also_commonvoice_valid_splits": []}
    assert check({**load_yaml(LIBRI), **more, "also_commonvoice_20_folder": None}, recipes=recipes).other_sets[1:] == ()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"also_digits_folder": "a"}, "also_digits_folder needs also_digits_train_splits, what to train on"),
        ({"also_digits_train_splits": ["x"]}, "also_digits_train_splits needs also_digits_folder beside it"),
        ({"also_digits_folder": "a", "also_digits_splits": ["x"]}, "unknown key also_digits_splits: the splits of"),
        ({"ood_digits_folder": "a", "ood_digits_train_splits": ["x"]}, "unknown key ood_digits_train_splits"),
        ({"also_klingon_folder": "a"}, "no corpus 'klingon' under recipes/"),
    ],
)
def test_keys_of_other_corpora_are_checked(recipes, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        check({**load_yaml(LIBRI), **more}, recipes=recipes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"exit_risk": [0.5]}, r"exit_risk must be \[eps, delta\], .*, got \[0.5\]"),
        ({"exit_risk": [0.5, 2]}, "exit_risk must be"),
        ({"exit_risk": {"altered": 2}}, r"or \{changed: eps, delta: delta\} with delta .*, got \{'altered': 2\}"),
        (
            {"exit_risk": [0.5, 0.1], "exit_policy": "entropy(0.1)"},
            "but entropy\\(0.1\\) has one: leave its number out",
        ),
    ],
)
def test_a_promise_has_two_numbers_and_an_open_policy(recipes, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        check({**VALUES, **changes}, recipes=recipes)
    assert check({**VALUES, "exit_risk": [0.5, 0.1]}, recipes=recipes).exit_risk == [0.5, 0.1]
    by_name = {"changed": 2, "delta": 0.1}
    assert check({**VALUES, "exit_risk": by_name}, recipes=recipes).exit_risk == by_name


def test_the_nearer_of_two_values_wins():
    assert flatten({"a": 1, "defaults": {"a": 0, "b": 2, "defaults": {"b": 3, "c": 4}}}) == {"a": 1, "b": 2, "c": 4}
    assert flatten({"a": 1}) == {"a": 1}
    with pytest.raises(ValueError, match="defaults must include another YAML"):
        flatten({"defaults": "shared/x.yaml"})


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        ("encoder_lr: 1e-3", "encoder_lr", 1e-3),
        ("encoder_lr: 2E-4\nseed: 3", "encoder_lr", 2e-4),
        ("exit_layers: [2, 8]", "exit_layers", [2, 8]),
        ("exit_policy: any(entropy(0.1), patience(1, 0))", "exit_policy", "any(entropy(0.1), patience(1, 0))"),
        ("ood_digits_folder: null", "ood_digits_folder", None),
        ({"seed": 4}, "seed", 4),
    ],
)
def test_overrides_replace_keys_whole(overrides, key, value):
    found = load_yaml(YAML, overrides)
    assert found[key] == value and type(found[key]) is type(value)


@pytest.mark.parametrize("overrides", ["exit_layers: [1, 2", "True", "[1, 2]", "seed: 1: 2"])
def test_overrides_that_are_not_keys_and_values_are_refused_in_one_sentence(overrides):
    with pytest.raises(ValueError, match="--key value") as caught:
        load_yaml(YAML, overrides)
    assert "\n" not in str(caught.value)


def test_a_yaml_that_cannot_be_read_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such YAML"):
        load_yaml(tmp_path / "none.yaml")
    for name, text in (
        ("list", "- 1\n- 2\n"),
        ("twice", "seed: 1\nseed: 2\n"),
        ("open", "a: [1\n"),
        ("ref", "a: !ref <b>"),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
        with pytest.raises(ValueError, match=rf"{name}\.yaml'") as caught:
            load_yaml(tmp_path / f"{name}.yaml")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", sorted(YAML.parent.glob("[!p]*.yaml")), ids=lambda path: path.name)
def test_every_yaml_of_the_project_loads_and_passes_all_checks(recipes, path, tmp_path):
    values, given = load_yaml(path), {}
    if values["init_from"] is not None:
        given["init_from"] = str(write_start_of(tmp_path, values))
    elif "source" in values:  # in place of the hub's
        given["source"] = str(write_settings(tmp_path, n_layers=24 if "frozen" in path.name else 12))
    config = load(path, given, recipes=recipes)
    assert set(config.values) == {*keys_of(config.encoder), "n_layers", "dim"}
    assert config.exit_layers[-1] == config.n_layers


def test_other_exits_get_a_run_folder_of_their_own(recipes):
    assert load(YAML, "", recipes=recipes).output_folder == "runs/an4"
    assert load(YAML, "exit_layers: [2, 4, 8]", recipes=recipes).output_folder == "runs/an4_exits_2_4_8"
    given = "exit_layers: [2, 4, 8]\noutput_folder: runs/mine"
    assert load(YAML, given, recipes=recipes).output_folder == "runs/mine"
    same = f"exit_layers: {VALUES['exit_layers']}"
    assert load(YAML, same, recipes=recipes).output_folder == "runs/an4"


@pytest.mark.parametrize("layers", ["8", "[1, x, 8]", "null", "{a: 1}"])
def test_other_exits_of_the_wrong_kind_are_refused(recipes, layers):
    with pytest.raises(ValueError, match="exit_layers must be a list of int"):
        load(YAML, f"exit_layers: {layers}", recipes=recipes)


def test_an_included_yaml_with_an_unknown_key_is_refused(tmp_path, root, recipes):
    shutil.copytree(root / "hparams", tmp_path / "hparams")
    shared = tmp_path / "hparams" / "shared" / "conformer.yaml"
    shared.write_text(shared.read_text() + "\nwidth: 3\n")
    with pytest.raises(ValueError, match="unknown key width"):
        load(tmp_path / "hparams" / "an4.yaml", "", recipes=recipes)


def run_options():
    """Every option of SpeechBrain's own command line."""
    parser = RunOptions._create_parser()
    options = [option for action in parser._actions for option in action.option_strings]
    assert isinstance(parser, argparse.ArgumentParser) and "--test_only" in options
    return [option.removeprefix("--") for option in options]


@pytest.mark.parametrize("key", [*all_keys(), "ood_digits_folder"])
def test_speechbrains_command_line_swallows_no_key(key):
    # argparse completes `--test 1` to `--test_only` and drops what was meant for the YAML
    assert [option for option in run_options() if option.startswith(key)] == []


@pytest.mark.parametrize("key", all_keys())
def test_every_key_reaches_the_overrides(key):
    _, _, overrides = RunOptions.from_command_line_args([str(YAML), f"--{key}", "7"])
    assert yaml.safe_load(overrides) == {key: 7}
