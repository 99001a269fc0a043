"""Filterbanks: the same alone and in a batch, masked only in training."""

import pytest
import torch

from eeasr_modules.models.encoders.conformer import LogMel


def test_features_of_an_utterance_do_not_depend_on_its_batch(batch):
    wavs, n_samples = batch
    mel = LogMel(20).eval()
    together, n_frames = mel(wavs, n_samples)
    for i, samples in enumerate(n_samples.tolist()):
        alone, frames = mel(wavs[i : i + 1, :samples], n_samples[i : i + 1])
        assert frames.item() == n_frames[i].item() == alone.shape[1]
        torch.testing.assert_close(together[i, :frames], alone[0], atol=1e-5, rtol=0)


def test_a_click_at_the_very_end_does_not_sound_in_the_padding():
    # the first frame of padding would hear it louder than the last frame does, and raise the floor 80 dB below it
    n_samples = 8000 + 159
    wav = 1e-5 * torch.randn(1, n_samples, generator=torch.Generator().manual_seed(0))
    wav[0, -1] = 1.0
    mel, length = LogMel(20).eval(), torch.tensor([n_samples])
    alone, n_frames = mel(wav, length)
    padded, _ = mel(torch.nn.functional.pad(wav, (0, 8000)), length)
    torch.testing.assert_close(padded[:, : n_frames.item()], alone, atol=1e-4, rtol=0)


def test_padding_is_zero_even_when_the_loudest_neighbour_is_not(batch):
    wavs, n_samples = batch
    features, n_frames = LogMel(20).eval()(wavs * torch.tensor([[1.0], [50.0], [0.01], [1.0]]), n_samples)
    for i, frames in enumerate(n_frames.tolist()):
        assert (features[i, frames:] == 0).all()


def test_each_channel_has_mean_zero_and_spread_one_and_loudness_does_not_matter(batch):
    wavs, n_samples = batch
    features, n_frames = LogMel(20).eval()(wavs, n_samples)
    one = features[1, : n_frames[1]]
    torch.testing.assert_close(one.mean(0), torch.zeros(20), atol=1e-4, rtol=0)
    torch.testing.assert_close(one.std(0, correction=0), torch.ones(20), atol=1e-3, rtol=0)
    louder, _ = LogMel(20).eval()(2 * wavs, n_samples)
    torch.testing.assert_close(louder, features, atol=1e-3, rtol=0)


def test_silence_gives_finite_features():
    features, _ = LogMel(20).eval()(torch.zeros(1, 8000), torch.tensor([8000]))
    assert torch.isfinite(features).all()


def test_masks_fall_in_training_only(batch):
    masking = LogMel(20, time_masks=2, time_mask_frames=10, freq_masks=2, freq_mask_channels=4)
    plain, _ = LogMel(20).eval()(*batch)
    torch.testing.assert_close(masking.eval()(*batch)[0], plain)
    masking.train()
    torch.manual_seed(0)
    masked = torch.stack([masking(*batch)[0] for _ in range(20)])
    gone = (masked == 0) & (plain != 0)
    assert 0.01 < gone.float().mean().item() < 0.6
    kept = masked[~gone]
    torch.testing.assert_close(kept, plain.expand_as(masked)[~gone])
    torch.testing.assert_close(LogMel(20).train()(*batch)[0], plain)  # no masks asked for: none


def test_the_widest_mask_is_as_wide_as_said(batch):
    wavs, n_samples = batch[0][1:2], batch[1][1:2]
    masking = LogMel(20, time_masks=1, time_mask_frames=7).train()
    torch.manual_seed(0)
    widths = {int((masking(wavs, n_samples)[0] == 0).all(-1).sum()) for _ in range(300)}
    assert max(widths) == 7


def test_frames_are_ten_milliseconds():
    mel = LogMel(20)
    assert [mel.frames_for(n) for n in (160, 16000)] == [2, 101]
    assert mel(torch.randn(1, 16000), torch.tensor([16000]))[0].shape == (1, 101, 20)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_features_stay_in_float32_under_half_precision(batch, dtype):
    mel = LogMel(20).eval()
    with torch.autocast("cpu", dtype):
        features, _ = mel(*batch)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, mel(*batch)[0])
