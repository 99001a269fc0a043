"""A run so small that tests can afford it: `hparams/an4.yaml` on the tone corpus with a tiny model."""

from __future__ import annotations

from pathlib import Path

YAML = Path(__file__).resolve().parents[1] / "hparams" / "an4.yaml"

TINY = {
    "n_layers": 2,
    "exit_layers": [1, 2],
    "dim": 16,
    "n_heads": 2,
    "ffn_dim": 32,
    "kernel_size": 7,
    "n_mels": 20,
    "n_epochs": 2,
    "batch_seconds": 12.0,
    "test_splits": ["test"],
    "shifts": ["noise_10db"],
    "average_checkpoints": 2,
    "compare_policies": "random, entropy, between(patience(1))",
}


def tiny_argv(data_folder: Path | str, output_folder: Path | str, /, **changes: object) -> list[str]:
    """Arguments of `train.py` for a tiny run; `changes` replace keys, None leaves a key to the YAML."""
    values = {**TINY, "data_folder": data_folder, "output_folder": output_folder, **changes}
    given = [part for key, value in values.items() if value is not None for part in (f"--{key}", str(value))]
    return [str(YAML), "--noprogressbar", *given]
