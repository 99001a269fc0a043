"""`TranscribeBatch`: alone, and in two workers of Ray Data."""

import os

import numpy as np
import pytest

from eeasr_modules.runtime import EarlyExitASR, TranscribeBatch


def test_a_batch_gets_its_transcripts_and_errors(model_folder, audio_folder, tmp_path):
    (tmp_path / "broken.wav").write_text("no audio")
    paths = np.array([str(audio_folder / "u0.wav"), str(tmp_path / "broken.wav"), str(audio_folder / "u1.wav")])
    batch = TranscribeBatch(str(model_folder), device="cpu")({"path": paths, "speaker": np.array(["a", "b", "c"])})
    expected = EarlyExitASR.from_pretrained(model_folder, device="cpu").transcribe([*paths])
    assert list(batch["text"]) == [one.text for one in expected] and list(batch["speaker"]) == ["a", "b", "c"]
    assert list(batch["exit_layer"]) == [expected[0].exit_layer, 0, expected[2].exit_layer]
    assert "broken.wav' is not audio" in batch["error"][1] and list(batch["error"][[0, 2]]) == ["", ""]
    assert np.isnan(batch["confidence"][1]) and batch["duration_s"][0] == expected[0].duration_s


def test_samples_come_in_a_column_too(model_folder, wavs):
    column = np.empty(2, dtype=object)
    column[:] = [wavs[0].numpy(), list(wavs[1].numpy())]
    batch = TranscribeBatch(str(model_folder), column="samples", device="cpu")({"samples": column})
    expected = EarlyExitASR.from_pretrained(model_folder, device="cpu").transcribe([wavs[0], wavs[1]])
    assert list(batch["text"]) == [one.text for one in expected]


def test_columns_that_do_not_fit_are_named(model_folder):
    actor = TranscribeBatch(str(model_folder), device="cpu")
    with pytest.raises(ValueError, match="must have the column 'path', got wav"):
        actor({"wav": np.array(["a.wav"])})
    with pytest.raises(ValueError, match="text is there: rename it"):
        actor({"path": np.array(["a.wav"]), "text": np.array(["A"])})


def test_two_workers_of_ray_data(model_folder, audio_folder):
    ray = pytest.importorskip("ray", reason="optional: pip install -e '.[ray]'")

    class WithProcess(TranscribeBatch):
        def __call__(self, batch):
            return {**super().__call__(batch), "process": np.full(len(batch["path"]), os.getpid())}

    paths = [str(audio_folder / f"u{i % 6}.wav") for i in range(24)]
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=120 * 2**20, log_to_driver=False)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = ray.data.from_items([{"path": path, "number": i} for i, path in enumerate(paths)], override_num_blocks=8)
        options = {"model": str(model_folder), "device": "cpu", "threads": 1}
        found = rows.map_batches(WithProcess, fn_constructor_kwargs=options, concurrency=2, batch_size=3).take_all()
    finally:
        ray.shutdown()
    expected = EarlyExitASR.from_pretrained(model_folder, device="cpu").transcribe(paths)
    by_number = {row["number"]: row for row in found}
    assert [by_number[i]["text"] for i in range(24)] == [one.text for one in expected]
    assert [by_number[i]["exit_layer"] for i in range(24)] == [one.exit_layer for one in expected]
    assert os.getpid() not in {row["process"] for row in found} and len({row["process"] for row in found}) == 2
