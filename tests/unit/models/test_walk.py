"""The walk: SpeechBrain's own numbers, nothing leaking between utterances, nothing run for those who left."""

import pytest
import torch

from eeasr_modules.models.encoders import build_encoder
from eeasr_modules.models.walk import Walk


@pytest.fixture
def seen(model):
    """Batch sizes and lengths with which each layer has been run: {layer: [(batch, frames), ...]}."""
    runs = {layer: [] for layer in range(1, model.encoder.n_layers + 1)}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _module, inputs, number=number: runs[number].append(tuple(inputs[0].shape[:2]))
        )
        for number, layer in enumerate(model.encoder.conformer.layers, start=1)
    ]
    yield runs
    for hook in hooks:
        hook.remove()


def staying(encoder, wavs, n_samples):
    """View of every layer when nobody leaves."""
    with torch.no_grad():
        walk = Walk(encoder, wavs, n_samples)
        return [walk.advance(layer) for layer in range(1, encoder.n_layers + 1)], walk.n_frames


def test_the_walk_gives_what_speechbrains_own_forward_gives(model, batch):
    encoder, wavs = model.encoder, batch[0][:, :4000]  # as long as all are: no padding
    n_samples = torch.full((4,), 4000)
    inner = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, output: inner.append(output[0]))
        for layer in encoder.conformer.layers
    ]
    with torch.no_grad():
        hidden, _ = encoder.subsampling(*encoder.features(wavs, n_samples))
        last, _ = encoder.conformer(hidden, pos_embs=encoder.positions(hidden))
    for hook in hooks:
        hook.remove()
    walked, _ = staying(encoder, wavs, n_samples)
    for ours, theirs in zip(walked, [*inner[:-1], last], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_a_batch_gives_every_exit_what_each_utterance_gets_alone(model, batch):
    wavs, n_samples = batch
    with torch.no_grad():
        together = list(model.exits(wavs, n_samples))
        for i, samples in enumerate(n_samples.tolist()):
            alone = list(model.exits(wavs[i : i + 1, :samples], n_samples[i : i + 1]))
            for many, one in zip(together, alone, strict=True):
                frames = one.log_probs.shape[1]
                assert many.n_frames[i] == one.n_frames[0] == frames
                torch.testing.assert_close(many.log_probs[i, :frames], one.log_probs[0], atol=1e-5, rtol=0)
                torch.testing.assert_close(many.hidden[i, :frames], one.hidden[0], atol=1e-5, rtol=0)


def test_without_the_hook_that_silences_padding_it_leaks(make_model, batch):
    leaking = make_model().encoder
    for layer in leaking.conformer.layers:
        layer.convolution_module.conv._forward_pre_hooks.clear()
    wavs, n_samples = batch
    together, n_frames = staying(leaking, wavs, n_samples)
    alone, _ = staying(leaking, wavs[:1, : n_samples[0]], n_samples[:1])
    assert (together[0][0, : n_frames[0]] - alone[0][0]).abs().max() > 1e-3


# who goes on after layers 1, 2 and 3, by position in the batch of four
LEAVING = [
    ({1: [0, 1, 3], 2: [1, 3], 3: [3]}, [4, 3, 2, 1]),
    ({1: [0, 2], 2: [0, 2], 3: [2]}, [4, 2, 2, 1]),  # the longest leaves first; nobody leaves after layer 2
    ({1: [0, 1, 2, 3], 2: [1], 3: [1]}, [4, 4, 1, 1]),
    ({1: [2], 2: [], 3: []}, [4, 1, 0, 0]),
]


@pytest.mark.parametrize(("going_on", "n_running"), LEAVING)
def test_who_stays_gets_the_same_and_no_layer_runs_for_who_left(model, batch, seen, going_on, n_running):
    everybody, n_frames = staying(model.encoder, *batch)
    for runs in seen.values():
        runs.clear()
    with torch.no_grad():
        walk = Walk(model.encoder, *batch)
        for layer in range(1, model.encoder.n_layers + 1):
            here = walk.rows.tolist()
            view = walk.advance(layer)
            assert view.shape[0] == len(here)
            for position, row in enumerate(here):
                frames = n_frames[row]
                expected = everybody[layer - 1][row, :frames]
                torch.testing.assert_close(view[position, :frames], expected, atol=1e-5, rtol=0)
            if layer in going_on:
                walk.keep(torch.tensor([row in going_on[layer] for row in here], dtype=torch.bool))
                assert walk.rows.tolist() == going_on[layer]
                assert walk.n_frames.tolist() == n_frames[going_on[layer]].tolist()
    assert [sum(rows for rows, _ in seen[layer]) for layer in range(1, 5)] == n_running
    assert [len(seen[layer]) for layer in range(1, 5)] == [min(1, n) for n in n_running]


def test_padding_shrinks_to_the_longest_that_stays(model, batch, seen):
    with torch.no_grad():
        walk = Walk(model.encoder, *batch)
        walk.advance(1)
        walk.keep(torch.tensor([True, False, True, False]))
        walk.advance(2)
    assert walk.state.hidden.shape[1] == walk.n_frames.max()
    assert seen[1] == [(4, 26)] and seen[2] == [(2, 15)]  # 16000 and 9000 samples at 25 frames a second


def test_a_walk_only_goes_forward_and_not_beyond_the_encoder(model, batch):
    with torch.no_grad():
        walk = Walk(model.encoder, *batch)
        there = walk.advance(2)
        assert torch.equal(walk.advance(2), there)  # where it stands it may be asked again
        for layer in (1, 5):
            with pytest.raises(ValueError, match=f"a layer from 2 to 4 .* got {layer}: a walk only goes forward"):
                walk.advance(layer)


def test_frame_counts_agree_with_what_comes_out(model, batch):
    lengths = torch.tensor([160, 999, 4321, 16000])
    for samples in lengths.tolist():
        views, n_frames = staying(model.encoder, batch[0][1:2, :samples], torch.tensor([samples]))
        assert views[0].shape[1] == n_frames.item() == model.encoder.frames_for(samples)
    assert model.encoder.frames_for(lengths).tolist() == [model.encoder.frames_for(n) for n in lengths.tolist()]


def test_an_unknown_encoder_or_setting_is_refused_by_name():
    with pytest.raises(ValueError, match="one of conformer, huggingface, got 'whisper'"):
        build_encoder({"encoder": "whisper"})
    with pytest.raises(ValueError, match="'conformer' has no setting n_layer; it takes"):
        build_encoder({"encoder": "conformer", "n_layer": 3})
