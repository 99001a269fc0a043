"""The README.md of a model folder: what the model is, where it comes from, what it reached."""

import os
from pathlib import Path

from eeasr_modules.training.config import Config


def write_card(folder: Path, config: Config, summary: dict) -> None:
    """Write the model card from the configuration and the report's summary.

    Arguments
    ---------
    folder : Path
        The model folder.
    config : Config
        What it was trained with.
    summary : dict
        As `report.write_report` returns it.
    """
    also = [(one.train_splits, one.name) for one in config.other_sets if one.role == "also"]
    trained_on = [f"{', '.join(splits)} of {name}" for splits, name in [(config.train_splits, config.corpus), *also]]
    exits = ", ".join(map(str, config.exit_layers))
    how_long = f"for {config.n_epochs} epochs" if config.n_epochs else "before, by the run that gave its weights"
    lines = [
        f"# {', '.join(config.trained_corpora)}: {config.encoder} with exits after layers {exits}",
        "",
        f"{config.n_layers} layers of width {config.dim}, CTC on {config.tokens}, {config.sample_rate} Hz mono, "
        f"trained on {'; '.join(trained_on)} {how_long} "
        f"(seed {config.seed}, exit weights {config.exit_weights}).",
        "",
        "Read it with `eeasr_modules.models.MultiExit.load(folder)` and "
        "`eeasr_modules.data.text.load_vocabulary(folder)`; `policy.json` holds the calibrated policies.",
        "",
        "| set | label | utterances | WER first exit | WER last exit |",
        "|---|---|---|---|---|",
    ]
    for name, one in summary["sets"].items():
        wer = one["wer_per_exit"]
        lines.append(f"| {name} | {one['label']} | {one['n_utterances']} | {wer[0]:.2f} % | {wer[-1]:.2f} % |")
    aside = folder / "README.md.tmp"
    aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(aside, folder / "README.md")
