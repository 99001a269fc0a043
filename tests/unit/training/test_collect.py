"""The test pass: its table does not depend on batches, and is made once for a model and a set."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from eeasr_modules.data.manifest import audio_digest, recordings
from eeasr_modules.data.pipeline import manifest_items
from eeasr_modules.exits.measure.edits import count_edits
from eeasr_modules.exits.tables.files import read_table, write_table
from eeasr_modules.models.decoding.ctc import greedy_decode
from eeasr_modules.models.signals import ACOUSTIC_SIGNALS, WORD_SIGNALS
from eeasr_modules.training.test_pass import collect, collect_or_reuse, table_metadata
from eeasr_modules.training.test_pass_decoders import collect as collect_own


@pytest.fixture
def test_set(corpora):
    return corpora.tests[0]


@pytest.fixture
def loud(model):
    """The tiny model with larger logits, so that exits say something, and different things."""
    with torch.no_grad():
        for e, head in enumerate(model.heads):
            head.projection.weight.mul_(4.0 + e)
            head.projection.bias[0] += 1.0
    return model


def collected(model, vocabulary, evaluation_set, read, *, batch_seconds=60.0, **options):
    limit = options.pop("limit", None)
    metadata = table_metadata(evaluation_set, model, model_digest="m", seed=7, limit=limit)
    return collect(
        model,
        vocabulary,
        evaluation_set,
        read=read,
        batch_seconds=batch_seconds,
        metadata=metadata,
        limit=limit,
        progress=False,
        **options,
    )


@pytest.mark.parametrize("which", [0, 1])  # the test set, and the same with noise
def test_the_table_does_not_depend_on_the_batch(loud, vocabulary, corpora, read, which):
    options = {"average_exits": 2, "nbest": 4}
    alone = collected(loud, vocabulary, corpora.tests[which], read, batch_seconds=0.1, **options)
    for batch_seconds in (4.0, 60.0):
        together = collected(loud, vocabulary, corpora.tests[which], read, batch_seconds=batch_seconds, **options)
        assert (together.hypotheses == alone.hypotheses).all()
        assert (together.averaged["hypotheses"] == alone.averaged["hypotheses"]).all()
        for name in (*ACOUSTIC_SIGNALS, "nbest_posterior", "char_change", "word_change", "n_chars"):
            np.testing.assert_allclose(together.signal(name), alone.signal(name), atol=1e-5, err_msg=name)
        for name in WORD_SIGNALS:
            np.testing.assert_allclose(
                np.concatenate(together.signal(name).ravel()),
                np.concatenate(alone.signal(name).ravel()),
                atol=1e-5,
                err_msg=name,
            )
        for name in ("utt_ids", "n_frames", "duration_s", "cost_layers", "cost_macs", "head_macs", "n_sub"):
            np.testing.assert_array_equal(getattr(together, name), getattr(alone, name))
    assert len({str(row) for row in alone.hypotheses}) > 1 and any(alone.hypotheses[:, -1])  # they do say something


def test_a_row_holds_what_the_model_says_of_that_utterance(loud, vocabulary, test_set, read):
    table = collected(loud, vocabulary, test_set, read)
    assert table.metadata["set_label"] == "in_domain" and table.metadata["n_layers"] == 2
    assert table.exit_layers.tolist() == [1, 2] and table.n_utterances == 9
    assert table.speakers[0] in table.utt_ids[0]
    np.testing.assert_allclose(table.cost_layers, table.duration_s[:, None] * table.exit_layers)
    np.testing.assert_array_equal(
        table.n_frames, loud.encoder.frames_for((table.duration_s * 16000).round().astype(int))
    )
    for i, reference in enumerate(table.references):
        for e in range(2):
            assert table.errors[i, e] == sum(count_edits(reference, table.hypotheses[i, e]))
    assert (table.cost_macs[:, 1] > table.cost_macs[:, 0]).all() and (table.head_macs > 0).all()


def test_averaged_posteriors_are_those_of_the_last_exits(loud, vocabulary, test_set, read):
    table = collected(loud, vocabulary, test_set, read, average_exits=3)
    assert (table.averaged["hypotheses"][:, 0] == table.hypotheses[:, 0]).all()
    wav = read(str(wav_of(test_set, table.utt_ids[0])))
    log_probs, n_frames = loud(wav.unsqueeze(0), torch.tensor([len(wav)]))
    mean = torch.stack([one.exp() for one in log_probs]).mean(dim=0)
    tokens = greedy_decode(mean, n_frames, blank_index=0)[0]
    assert table.averaged["hypotheses"][0, 1] == vocabulary.decode(tokens)
    for i, reference in enumerate(table.references):
        expected = sum(count_edits(reference, table.averaged["hypotheses"][i, 1]))
        assert table.averaged_output().errors[i, 1] == expected


def wav_of(evaluation_set, utt_id):
    return manifest_items(evaluation_set.manifests, limit=None)[utt_id]["wav"]


def test_words_lie_within_the_audio_one_after_the_other(loud, vocabulary, test_set, read):
    with torch.no_grad():
        for head in loud.heads:
            head.projection.bias[vocabulary.spellings.index(" ")] += 2.5
    table = collected(loud, vocabulary, test_set, read)
    starts, ends = table.signal("word_start_s"), table.signal("word_end_s")
    assert max(len(one) for one in starts.ravel()) > 1
    for i, seconds in enumerate(table.duration_s):
        for start, end in zip(starts[i], ends[i], strict=True):
            assert (np.diff(np.stack([start, end], axis=1).ravel()) > -1e-6).all()
            assert (end <= seconds + 0.08).all()  # the last frame may reach over the end


@pytest.mark.parametrize("option", ["average_exits", "nbest"])
def test_averaging_or_comparing_one_is_refused(model, vocabulary, test_set, read, option):
    with pytest.raises(ValueError, match="at least 2, got 1"):
        collected(model, vocabulary, test_set, read, **{option: 1})


def test_a_faster_set_is_shorter_and_a_noisy_one_as_long(model, vocabulary, make_config, make_corpora, read, tmp_path):
    sets = make_corpora(make_config(shifts=["noise_0db", "fast"]), tmp_path).tests
    plain, noisy, fast = (collected(model, vocabulary, one, read) for one in sets)
    np.testing.assert_allclose(noisy.duration_s, plain.duration_s)
    np.testing.assert_allclose(fast.duration_s, plain.duration_s / 1.2, rtol=1e-3)
    assert (noisy.signal("entropy") != plain.signal("entropy")).all()


def test_half_precision_gives_nearly_the_same_signals(model, vocabulary, test_set, read):
    full = collected(model, vocabulary, test_set, read)
    half = collected(model, vocabulary, test_set, read, precision="bf16")
    np.testing.assert_allclose(half.signal("entropy"), full.signal("entropy"), atol=0.05)
    assert (half.signal("entropy") != full.signal("entropy")).any()


def test_float32_is_collected_without_tf32(model, vocabulary, test_set, read):
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True  # as SpeechBrain leaves it
    seen = []
    model.heads[0].register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    try:
        collected(model, vocabulary, test_set, read)
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert seen and not any(seen)


def test_a_limit_takes_an_even_slice(model, vocabulary, test_set, read):
    table = collected(model, vocabulary, test_set, read, limit=4)
    whole = collected(model, vocabulary, test_set, read)
    assert table.utt_ids.tolist() == whole.utt_ids[[0, 2, 4, 6]].tolist()


def test_a_table_of_the_own_decoder_is_read_again_where_only_times_of_change_differ(
    model, vocabulary, test_set, read, tmp_path
):
    metadata = table_metadata(test_set, model, model_digest="m", seed=7, limit=None)
    heard = {"audio_digest": audio_digest(recordings(test_set.manifests))}
    table = collected(model, vocabulary, test_set, read)
    kept = replace(table, metadata={**table.metadata, **metadata, **heard, "audio_state": "of a copy"})
    write_table(kept, tmp_path / "a.parquet")
    options = {"metadata": metadata, "read": read, "limit": None, "progress": False}
    found = collect_own(object(), test_set, tmp_path / "a.parquet", **options)  # no decoder is asked
    assert (found.hypotheses == table.hypotheses).all()
    write_table(replace(kept, metadata={**kept.metadata, "audio_digest": "others"}), tmp_path / "b.parquet")
    with pytest.raises(AttributeError):
        collect_own(object(), test_set, tmp_path / "b.parquet", **options)


class TestReuse:
    @pytest.fixture
    def collect_again(self, model, vocabulary, corpora, read, tmp_path):
        """Collect to one path; returns the table and how many files were heard."""

        def again(which=0, *, digest="m", seed=7, limit=None, **options):
            heard = []
            evaluation_set = corpora.tests[which]
            metadata = table_metadata(evaluation_set, model, model_digest=digest, seed=seed, limit=limit)
            table = collect_or_reuse(
                model,
                vocabulary,
                evaluation_set,
                tmp_path / "tables" / "t.parquet",
                metadata=metadata,
                read=lambda path: heard.append(path) or read(path),
                batch_seconds=60.0,
                limit=limit,
                progress=False,
                **options,
            )
            return table, len(heard)

        return again

    def test_a_table_of_the_same_model_and_data_is_read_not_made(self, collect_again):
        first, heard = collect_again()
        second, heard_again = collect_again()
        assert (heard, heard_again) == (9, 0)
        np.testing.assert_array_equal(first.signal("entropy"), second.signal("entropy"))
        assert (first.hypotheses == second.hypotheses).all()

    @pytest.mark.parametrize(
        ("change", "n_heard"),
        [
            ({"digest": "other"}, 9),
            ({"seed": 8}, 9),
            ({"limit": 4}, 4),
            ({"which": 1}, 9),
            ({"precision": "bf16"}, 9),
            ({"average_exits": 2}, 9),
            ({"nbest": 2}, 9),
        ],
    )
    def test_another_model_seed_slice_shift_or_precision_makes_it_anew(self, collect_again, change, n_heard):
        collect_again()
        assert collect_again(**change)[1] == n_heard
        assert collect_again(**change)[1] == 0

    @pytest.mark.parametrize("lacking", ["entropy_token", "word_margin"])
    def test_a_table_that_lacks_a_signal_is_made_anew(self, collect_again, tmp_path, lacking):
        table, _ = collect_again()
        path = tmp_path / "tables" / "t.parquet"
        kept = {
            kind: {name: values for name, values in getattr(table, kind).items() if name != lacking}
            for kind in ("signals", "word_lists")
        }
        write_table(replace(table, **kept), path)
        table, heard = collect_again()
        assert heard == 9 and lacking in {*table.signals, *table.word_lists}

    def test_a_file_that_is_broken_is_made_anew_and_said_so(self, collect_again, tmp_path, caplog):
        collect_again()
        path = tmp_path / "tables" / "t.parquet"
        path.write_bytes(path.read_bytes()[:200])
        table, heard = collect_again()
        assert heard == 9 and "cannot be read" in caplog.text
        assert read_table(path).n_utterances == table.n_utterances == 9
        assert os.listdir(path.parent) == ["t.parquet"]
