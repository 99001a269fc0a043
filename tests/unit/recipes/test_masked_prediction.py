"""Masked prediction: targets lie where the encoder's frames lie, and masking hides what is asked for."""

import pytest
import torch

from eeasr_modules.models.folder import is_pretrained_encoder, pretrained_weights
from recipes.Pretrain.masked_prediction import ClusterTargets, MaskedPredictor

ENCODER = {"encoder": "conformer", "n_layers": 2, "dim": 16, "n_heads": 2, "ffn_dim": 32, "n_mels": 20, "dropout": 0.0}


@pytest.fixture()
def model():
    torch.manual_seed(0)
    return MaskedPredictor(ENCODER, targets="random", n_codebooks=2, codebook_size=16)


def codes_of(model, features):
    return model.targets(model.inputs_of(features, torch.full((len(features),), features.shape[1])))


def test_codes_are_those_of_speechbrains_quantizer(model):
    features = torch.randn(2, 41, 20)
    codes = codes_of(model, features)
    frames = int(model.encoder.frames_for(torch.tensor(40 * 160)))
    stacked = torch.nn.functional.pad(features, (0, 0, 1, 4 * frames - 42)).unflatten(1, (frames, 4)).flatten(2)
    assert codes.shape == (2, frames, 2)
    for number, quantizer in enumerate(model.targets.quantizers):
        # its forward compares every frame with every code, one utterance at a time
        slow = torch.stack([quantizer(one.unsqueeze(1)).squeeze(1) for one in stacked])
        assert torch.equal(codes[..., number], slow)


def test_codes_do_not_depend_on_padding(model):
    wavs = torch.randn(2, 32000)
    wavs[1, 16000:] = 0
    n_samples = torch.tensor([32000, 16000])
    together = codes_of(model, model.encoder.features(wavs, n_samples)[0])
    alone = codes_of(model, model.encoder.features(wavs[1:, :16000], n_samples[1:])[0])
    assert torch.equal(together[1, : alone.shape[1]], alone[0])


def test_the_mask_covers_about_its_share_in_whole_spans_of_each_utterance_alone(model):
    n_frames = torch.tensor([400, 200, 3])
    shares, ends = [], []
    for seed in range(20):
        torch.manual_seed(seed)
        masked = model.draw_mask(n_frames)
        shares.append(float(masked[0].float().mean()))
        ends.append(bool(masked[1, 200:].any() or masked[2, 3:].any()))
        assert masked.any(1).all()
        # a span that begins well before the end is as long as asked
        begins = torch.nonzero(masked[0, 1:380] & ~masked[0, :379]).flatten() + 1
        assert all(bool(masked[0, begin : begin + model.mask_frames].all()) for begin in begins)
    assert sum(shares) / len(shares) == pytest.approx(model.mask_share, abs=0.05)
    assert not any(ends)


def test_what_is_masked_does_not_reach_the_encoder(model):
    """Two signals that differ only inside masked spans give the same loss, as long as their codes are the same."""
    model.eval()
    seen = []
    model.encoder.subsampling.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    n_samples = torch.tensor([64000])
    wavs = torch.randn(1, 64000)
    torch.manual_seed(3)
    model(wavs, n_samples)
    torch.manual_seed(3)
    masked = model.draw_mask(model.encoder.frames_for(n_samples))
    features = model.encoder.features(wavs, n_samples)[0]
    changed = (seen[0] != features).any(-1)[0]  # filterbank frames that were replaced
    for frame in range(2, masked.shape[1] - 2):
        inside = changed[4 * frame - 1 : 4 * frame + 3]
        assert bool(inside.all()) == bool(masked[0, frame])
        assert bool(inside.any()) == bool(masked[0, frame])


def test_it_learns_the_codes_of_a_signal_that_repeats(model):
    torch.manual_seed(1)
    seconds = torch.arange(48000) / 16000
    wavs = torch.sin(2 * torch.pi * 440 * seconds * (1 + (seconds * 2).floor() % 3)).repeat(4, 1)
    n_samples = torch.full((4,), 48000)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss, n_right, n_masked = model(wavs, n_samples)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert n_right > 0.3 * 2 * n_masked  # by chance 1 in 16
    assert all(buffer.grad is None for buffer in model.targets.buffers())


def test_the_saved_folder_holds_the_encoder_alone(model, tmp_path):
    assert not is_pretrained_encoder(tmp_path)
    model.save(tmp_path, about={"method": "BEST-RQ"})
    assert is_pretrained_encoder(tmp_path)
    weights = pretrained_weights(tmp_path)
    assert weights.keys() == model.encoder.state_dict().keys()
    assert all(torch.equal(value, model.encoder.state_dict()[name]) for name, value in weights.items())
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        pretrained_weights(tmp_path)


def test_clusters_code_a_frame_by_its_nearest_centre_and_are_ruled_neither_by_loudness_nor_by_noise():
    torch.manual_seed(0)
    kinds = torch.randint(4, (600,))
    inputs = 0.1 * torch.randn(600, 12)
    inputs[:, 0] += 3 * torch.rand(600)  # as loudness does: varies most, says nothing
    inputs[torch.arange(600), 1 + kinds] += 2.0
    targets = ClusterTargets(12, n_codebooks=1, codebook_size=16, codebook_dim=6).fit(inputs, seed=0)
    codes = targets(inputs.unsqueeze(0))[0, :, 0]
    reduced = (inputs - targets.mean) @ targets.project
    assert torch.equal(codes, torch.cdist(reduced, targets.centres[0]).argmin(-1))
    purity = sum(int(torch.bincount(kinds[codes == code]).max()) for code in codes.unique()) / 600
    assert purity > 0.95
    with pytest.raises(ValueError, match="16 clusters"):
        targets.fit(inputs[:10], seed=0)


def test_a_teachers_layer_is_coded_and_the_teacher_is_neither_trained_nor_saved(model):
    teacher = model.encoder
    student = MaskedPredictor(
        ENCODER, targets="random", n_codebooks=1, codebook_size=8, teacher=teacher, teacher_layer=1
    )
    wavs, n_samples = torch.randn(1, 16000), torch.tensor([16000])
    features, n_frames = student.encoder.features(wavs, n_samples)
    expected = teacher.run_layer(1, teacher.front_end_of(features, n_frames)).hidden
    assert torch.equal(student.inputs_of(features, n_frames), expected)
    student.train()
    assert not teacher.training and not any("teacher" in name for name in student.state_dict())
    assert student(wavs, n_samples)[0].requires_grad
    with pytest.raises(ValueError, match="teacher_layer"):
        MaskedPredictor(ENCODER, teacher=teacher, teacher_layer=3)


def test_other_encoders_are_refused():
    with pytest.raises(ValueError, match="conformer"):
        MaskedPredictor({"encoder": "huggingface"})
