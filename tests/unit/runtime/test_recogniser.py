"""`EarlyExitASR`: models from folders, policies by name and budget, recordings in and transcripts out."""

import json
import os
import pickle
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from tiny_checkpoint import save_checkpoint

from eeasr_modules.exits import choose, parse_policy, read_policies, replay, write_policies
from eeasr_modules.models.folder import model_digest, weight_files
from eeasr_modules.runtime import Draft, EarlyExitASR, Transcript
from eeasr_modules.runtime.engine import Engine


def replayed(table, policy, rows):
    exits = replay(parse_policy(str(policy)), table)[rows]
    return [(table.hypotheses[i, e], int(table.exit_layers[e])) for i, e in zip(rows, exits)]


def test_files_are_transcribed_as_the_exit_table_says(model_folder, audio_folder, table):
    asr = EarlyExitASR.from_pretrained(model_folder, seed=11)
    found = asr.transcribe([audio_folder / f"u{i}.wav" for i in range(6)])
    assert str(asr.policy).startswith("entropy(")  # the first of policy.json
    assert [(one.text, one.exit_layer) for one in found] == replayed(table, asr.policy, range(6))
    assert all(one.layers_run == one.exit_layer and one.n_layers == 5 and one.error is None for one in found)
    np.testing.assert_allclose([one.duration_s for one in found], table.duration_s[:6])


def test_path_array_and_list_give_the_same(model_folder, audio_folder, wavs):
    asr = EarlyExitASR.from_pretrained(str(model_folder))
    from_path = asr.transcribe(audio_folder / "u2.wav")
    from_array = asr.transcribe(wavs[2].numpy())
    (from_list,) = asr.transcribe([wavs[2]])
    assert isinstance(from_path, Transcript)
    assert from_path.text == from_array.text == from_list.text
    assert (from_path.audio, from_array.audio) == (str(audio_folder / "u2.wav"), None)


def test_arrays_of_another_rate_are_resampled(model_folder, wavs):
    asr = EarlyExitASR.from_pretrained(model_folder)
    twice = wavs[0].repeat_interleave(3).numpy()
    assert asr.transcribe(twice, sample_rate=48000).duration_s == pytest.approx(len(wavs[0]) / 16000)


def test_in_a_list_a_broken_recording_loses_nothing_and_alone_it_raises(model_folder, audio_folder, tmp_path):
    (tmp_path / "broken.wav").write_text("no audio")
    asr = EarlyExitASR.from_pretrained(model_folder)
    found = asr.transcribe([audio_folder / "u0.wav", tmp_path / "broken.wav", np.zeros(3), audio_folder / "u1.wav"])
    assert [one.error is None for one in found] == [True, False, False, True]
    assert "broken.wav' is not audio" in found[1].error and "3 samples" in found[2].error
    assert found[1].text == "" and found[1].exit_layer is None
    with pytest.raises(ValueError, match="not audio"):
        asr.transcribe(tmp_path / "broken.wav")


def test_the_weights_are_read_late_and_left_out_of_a_pickle(model_folder, audio_folder):
    asr = EarlyExitASR.from_pretrained(model_folder)
    assert asr._engine is None
    text = asr.transcribe(audio_folder / "u0.wav").text
    content = pickle.dumps(asr)
    assert len(content) < (model_folder / "model.safetensors").stat().st_size
    assert pickle.loads(content).transcribe(audio_folder / "u0.wav").text == text


def test_a_long_recording_is_decided_chunk_by_chunk(model_folder, wavs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # `random` goes by the path
    whole = torch.cat(wavs[:12]).numpy()
    soundfile.write("long.wav", whole, 16000, subtype="FLOAT")
    asr = EarlyExitASR.from_pretrained(model_folder, policy="random(0.5)", longest_s=1.5)
    one = asr.transcribe("long.wav")
    assert one.duration_s == pytest.approx(len(whole) / 16000)
    assert len(one.exit_layers) > 5 and len(set(one.exit_layers)) > 1
    assert one.exit_layer == max(one.exit_layers) and min(one.exit_layers) <= one.layers_run <= one.exit_layer
    assert " ".join(word.text for word in one.words) == one.text
    middles = [(word.start_s + word.end_s) / 2 for word in one.words]
    assert all(0 <= time <= one.duration_s + 0.1 for time in middles)


def test_results_do_not_depend_on_batches(model_folder, audio_folder):
    paths = sorted(audio_folder.glob("*.wav"))
    small = EarlyExitASR.from_pretrained(model_folder, batch_seconds=0.5).transcribe(paths)
    large = EarlyExitASR.from_pretrained(model_folder, batch_seconds=60).transcribe(paths)
    assert [(a.text, a.exit_layer) for a in small] == [(b.text, b.exit_layer) for b in large]


def test_a_budget_takes_the_best_threshold_of_the_calibrated_grid(model_folder):
    (entry,) = [one for one in read_policies(model_folder / "policy.json") if str(one.open_policy) == "entropy"]
    chosen = EarlyExitASR.from_pretrained(model_folder, policy="entropy", budget=0.6).policy
    affordable = [
        (wer, cost, str(policy))
        for policy, cost, wer in zip(entry.grid.policies, entry.grid.cost, entry.grid.wer)
        if cost <= 0.6 * 5
    ]
    assert (chosen is not None) and str(chosen) == min(affordable, key=lambda one: one[:2])[2]
    layers = EarlyExitASR.from_pretrained(model_folder, budget=3.0).policy  # the default policy, the same budget
    assert str(layers) == str(chosen)


def test_a_budget_alone_goes_to_the_first_policy_that_can_cost_so_little(model_folder, dev, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    late, early = (choose(dev, parse_policy(text), budget=0.9) for text in ("between(3, 5, entropy)", "margin"))
    write_policies(folder / "policy.json", [late, early])
    assert EarlyExitASR.from_pretrained(folder).policy == late.policy
    assert str(EarlyExitASR.from_pretrained(folder, budget=0.9).policy).startswith("between(3, 5, entropy(")
    assert str(EarlyExitASR.from_pretrained(folder, budget=0.5).policy).startswith("margin(")
    with pytest.raises(ValueError, match=r"between\(3, 5, entropy\) costs at least 3.00 layers"):
        EarlyExitASR.from_pretrained(folder, budget=0.1)


def test_a_name_finds_its_policy_with_floor_and_ceiling(model_folder):
    assert str(EarlyExitASR.from_pretrained(model_folder, policy="margin").policy).startswith("between(")


def test_a_fitted_policy_comes_with_its_numbers(model_folder, dev, table, audio_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    calibration = replace(dev, metadata={**dev.metadata, "model_digest": model_digest(folder)})
    write_policies(folder / "policy.json", [choose(calibration, parse_policy("gain"), budget=0.7)])
    asr = EarlyExitASR.from_pretrained(folder)
    expected = replay(asr.policy, table)[:6]
    found = asr.transcribe([audio_folder / f"u{i}.wav" for i in range(6)])
    assert [one.exit_layer for one in found] == table.exit_layers[expected].tolist()
    assert not EarlyExitASR.from_pretrained(folder, policy="gain", budget=0.9).policy.is_open
    assert not EarlyExitASR.from_pretrained(folder, policy="gain(0.5)").policy.is_open
    with pytest.raises(ValueError, match="was not calibrated"):
        EarlyExitASR.from_pretrained(model_folder, policy="gain(0.5)")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"policy": "confidence"}, r"confidence was not calibrated for .* \(calibrated: entropy, between\(margin\)\)"),
        ({"policy": "entropy(0.1)", "budget": 0.5}, "has its numbers already"),
        ({"policy": "static(4)"}, "names layer 4"),
        ({"policy": "entrpy"}, "entropy"),
        ({"budget": 9}, "above 0 and at most 5"),
        ({"policy": "entropy", "budget": 0.001}, "costs at least"),
        ({"policy": "entropy(0.1) + fusion"}, "ask for them by --words fused"),
        ({"device": "tpu"}, "device must be one that torch can use here"),
        ({"batch_seconds": 0}, "above 0"),
        ({"longest_s": 0.5}, "longest_s must be at least 1"),
    ],
)
def test_wrong_choices_are_refused_before_anything_is_read(options, complaint, model_folder):
    with pytest.raises(ValueError, match=complaint):
        EarlyExitASR.from_pretrained(model_folder, **options)


def test_a_policy_calibrated_for_another_model_is_refused(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "language": "en"}))
    with pytest.raises(ValueError, match="calibrated on the exits of model"):
        EarlyExitASR.from_pretrained(folder)


def test_half_a_file_of_weights_is_named_and_not_taken_for_another_model(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    weights = weight_files(folder)[0]
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.raises(ValueError, match=rf"'{re.escape(str(weights))}' cannot be read .*: copy it again"):
        EarlyExitASR.from_pretrained(folder)


def test_an_array_on_the_scale_of_integers_is_warned_about(model_folder, wavs):
    asr = EarlyExitASR.from_pretrained(model_folder)
    assert asr.transcribe(wavs[0] / 2).warnings == ()
    assert "at full scale" in asr.transcribe(32768 * wavs[0]).warnings[0]
    with pytest.raises(ValueError, match="must be 4000 to 384000 Hz, got 0"):
        asr.transcribe(wavs[0], sample_rate=0)


def test_without_policy_json_the_last_exit_decides(model_folder, tmp_path, audio_folder):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / "policy.json").unlink()
    asr = EarlyExitASR.from_pretrained(folder)
    assert str(asr.policy) == "static(5)"
    assert asr.transcribe(audio_folder / "u0.wav").layers_run == 5
    with pytest.raises(ValueError, match=r"no policy\.json"):
        EarlyExitASR.from_pretrained(folder, budget=0.5)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "vocab.json"])
def test_a_missing_file_of_the_model_is_named(missing, model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        EarlyExitASR.from_pretrained(folder)


def test_what_is_no_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing"):
        EarlyExitASR.from_pretrained(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="found a file"):
        EarlyExitASR.from_pretrained(__file__)


def test_a_ctc_checkpoint_says_what_transformers_says(tmp_path, audio_folder):
    from transformers import AutoModelForCTC, Wav2Vec2FeatureExtractor

    folder = save_checkpoint(tmp_path / "ctc", kind="wav2vec2", n_layers=3, ctc=True)
    asr = EarlyExitASR.from_pretrained(folder)
    found = asr.transcribe([audio_folder / "u0.wav", audio_folder / "u1.wav"])
    stock = AutoModelForCTC.from_pretrained(folder).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    for one, name in zip(found, ("u0.wav", "u1.wav")):
        wav = soundfile.read(audio_folder / name, dtype="float32")[0]
        values = extractor(wav, sampling_rate=16000, return_tensors="pt").input_values
        with torch.no_grad():
            best = stock(values).logits[0].argmax(-1).numpy()
        assert one.text == asr.engine.texts(best[None], [len(best)])[0]
        assert one.exit_layer == one.n_layers == 3
    assert any(one.text for one in found)
    with pytest.raises(ValueError, match="was not calibrated"):
        EarlyExitASR.from_pretrained(folder, policy="entropy")


def test_a_checkpoint_without_ctc_head_is_refused(tmp_path):
    folder = save_checkpoint(tmp_path / "bare", kind="wav2vec2", n_layers=2)
    with pytest.raises(ValueError, match="has no CTC head"):
        EarlyExitASR.from_pretrained(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("ctc") / "tiny", kind="wav2vec2", ctc=True)


def test_the_faster_front_end_is_in_place_unless_stock_is_asked_for_and_hears_the_same(checkpoint, wavs):
    fast = EarlyExitASR.from_pretrained(checkpoint)
    stock = EarlyExitASR.from_pretrained(checkpoint, front_end="stock")
    several = [wav.numpy() for wav in wavs[:4]]
    assert [one.text for one in fast.transcribe(several)] == [one.text for one in stock.transcribe(several)]
    outputs = []
    for asr in (fast, stock):
        with torch.inference_mode():
            outputs.append(asr.engine.model(wavs[0].unsqueeze(0), torch.tensor([len(wavs[0])]))[0][-1])
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=0)
    assert not torch.equal(*outputs), "both came from the same code"


def test_a_conformer_keeps_its_own_front_end(model_folder, wavs):
    asr = EarlyExitASR.from_pretrained(model_folder)
    stock = EarlyExitASR.from_pretrained(model_folder, front_end="stock")
    assert asr.transcribe(wavs[0].numpy()) == stock.transcribe(wavs[0].numpy())


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_lower_precision_changes_posteriors_a_little_and_not_for_good(model_folder, checkpoint, wavs, precision):
    for folder in (model_folder, checkpoint):
        plain = EarlyExitASR.from_pretrained(folder)
        lower = EarlyExitASR.from_pretrained(folder, precision=precision)
        several = [wav.numpy() for wav in wavs[:6]]
        exact, rounded = plain.transcribe(several), lower.transcribe(several)
        differences = [abs(a.confidence - b.confidence) for a, b in zip(exact, rounded, strict=True)]
        assert 0 < max(differences) < 0.1
        assert plain.transcribe(several) == exact


@pytest.mark.parametrize(
    ("switch", "message"),
    [
        ({"front_end": "quick"}, "front_end must be one of fast, stock, got 'quick'"),
        ({"precision": "int4"}, "precision must be one of float32, bfloat16, float16, int8, got 'int4'"),
        ({"precision": "float16", "device": "cpu"}, "needs a GPU"),
    ],
)
def test_a_switch_that_there_is_not_is_refused(model_folder, switch, message):
    with pytest.raises(ValueError, match=message):
        EarlyExitASR.from_pretrained(model_folder, **switch)


@pytest.mark.parametrize("policy", ["entropy", "between(2, 5, entropy(1.7))", "static(5)", "patience(2, 0.9)"])
def test_drafts_are_what_the_exits_passed_say_and_change_nothing(policy, model_folder, audio_folder, table):
    paths = sorted(audio_folder.glob("*.wav"))
    asr = EarlyExitASR.from_pretrained(model_folder, policy=policy)
    drafts = []
    found = dict(asr.stream(paths, on_draft=drafts.append))
    plain = asr.transcribe(paths)
    assert [(found[i].text, found[i].layers_run) for i in range(len(paths))] == [(a.text, a.layers_run) for a in plain]
    expected = [
        Draft(str(path), 0.0, int(layer), table.hypotheses[i, k])
        for i, path in enumerate(paths)
        for k, layer in enumerate(table.exit_layers)
        if layer < found[i].exit_layer
    ]
    assert drafts == expected and drafts


def test_drafts_of_a_long_recording_say_where_they_begin(model_folder, wavs, tmp_path):
    soundfile.write(tmp_path / "long.wav", torch.cat(wavs[:6]).numpy(), 16000, subtype="FLOAT")
    asr = EarlyExitASR.from_pretrained(model_folder, policy="static(2)", longest_s=1.5)
    drafts = []
    ((_, one),) = asr.stream([tmp_path / "long.wav"], on_draft=drafts.append)
    assert len(drafts) == len(one.exit_layers) > 2
    starts = [draft.start_s for draft in drafts]
    assert starts == sorted(set(starts)) and starts[0] == 0 and {draft.exit_layer for draft in drafts} == {1}


def test_drafts_and_pooled_survivors_do_not_go_together(model_folder, audio_folder):
    asr = EarlyExitASR.from_pretrained(model_folder, pool_survivors=True)
    with pytest.raises(ValueError, match="choose one of them"):
        next(asr.stream([audio_folder / "u0.wav"], on_draft=print))


def failing_with(err, n_samples, monkeypatch):
    """Recognition that fails wherever a recording of one of these lengths is in the batch."""
    stock = Engine.run

    def run(self, wavs, lengths, **options):
        if set(lengths.tolist()) & set(n_samples):
            raise err
        return stock(self, wavs, lengths, **options)

    monkeypatch.setattr(Engine, "run", run)


def test_one_recording_with_which_recognition_fails_loses_no_other(model_folder, audio_folder, wavs, monkeypatch):
    asr, paths = EarlyExitASR.from_pretrained(model_folder), sorted(audio_folder.glob("*.wav"))
    plain = asr.transcribe(paths)
    failing_with(MemoryError(), [len(wavs[2])], monkeypatch)
    found = asr.transcribe(paths)
    assert [one.error for one in found] == [
        f"'{path}' needs more memory than there is" if path.name == "u2.wav" else None for path in paths
    ]
    assert [(a.text, a.exit_layers) for a in found if a.error is None] == [
        (b.text, b.exit_layers) for b in plain if not b.audio.endswith("u2.wav")
    ]
    with pytest.raises(MemoryError):
        asr.transcribe(paths[2])


def test_where_no_recording_can_be_recognised_the_error_is_raised(model_folder, audio_folder, wavs, monkeypatch):
    failing_with(RuntimeError("the device is gone"), [len(wav) for wav in wavs], monkeypatch)
    asr = EarlyExitASR.from_pretrained(model_folder)
    with pytest.raises(RuntimeError, match="the device is gone"):
        asr.transcribe(sorted(audio_folder.glob("*.wav")))


def test_a_long_recording_fails_as_a_whole_with_one_of_its_pieces(model_folder, audio_folder, wavs, monkeypatch):
    asr = EarlyExitASR.from_pretrained(model_folder, longest_s=1.5, batch_seconds=0.3)
    long, seen, stock = torch.cat(wavs[:8]).numpy(), [], Engine.run
    monkeypatch.setattr(Engine, "run", lambda self, wavs, n, **more: seen.append(n) or stock(self, wavs, n, **more))
    assert asr.transcribe([long])[0].error is None and len(seen) > 4
    failing_with(RuntimeError("broke"), seen[-1].tolist(), monkeypatch)
    found = asr.transcribe([long, audio_folder / "u0.wav"])
    assert found[0].error == "the audio array cannot be used (RuntimeError: broke)" and found[0].text == ""
    assert found[1].error is None and found[1].text


def test_what_the_listener_raises_is_raised_and_no_recordings_error(model_folder, audio_folder):
    def listen(draft):
        raise KeyError("mine")

    asr = EarlyExitASR.from_pretrained(model_folder, policy="static(5)")
    with pytest.raises(KeyError, match="mine"):
        list(asr.stream([audio_folder / "u0.wav"], on_draft=listen))
