"""The command `eeasr confidence`: fits the map by which a model's word confidences become probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from eeasr_modules.data.audio_files import fault
from eeasr_modules.exits.words.confidence import MAP_FILE, ConfidenceMap, fit_confidence_map
from eeasr_modules.models.device import computed_in
from eeasr_modules.runtime.engine import Engine
from eeasr_modules.runtime.transcript import Word, spell_words


def words_of_exits(engine: Engine, wav: torch.Tensor) -> list[tuple[Word, ...]]:
    """What every exit hears in one utterance, by greedy decoding.

    `wav` (samples,): at the model's sample rate. Returns: n_exits long, with the heads' own confidences.
    """
    device = engine.device
    with torch.inference_mode(), computed_in(engine.precision, device):
        log_probs, _ = engine.model(wav[None].to(device), torch.tensor([len(wav)], device=device))
    best = [exit_[0].float().max(dim=-1) for exit_ in log_probs]
    how = {"spellings": engine.spellings, "blank_index": engine.model.blank_index, "frame_s": engine.frame_s}
    return [spell_words(one.indices.cpu().numpy(), one.values.exp().cpu().numpy(), **how) for one in best]


def fit_confidence(
    model: str | Path,
    inputs: Sequence[str],
    *,
    normaliser: str = "upper",
    device: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Path, ConfidenceMap]:
    """Fit the confidence map of a model folder and put it there.

    `inputs`: manifests with references, of recordings that the model has not learned from. ValueError when the model is
    no folder, there are no references, or an exit has too few words.
    """
    from eeasr_modules.exits.tables.plain_transcripts import NORMALISERS
    from eeasr_modules.models.folder import model_digest
    from eeasr_modules.runtime.files.inputs import read_material
    from eeasr_modules.runtime.recogniser import EarlyExitASR

    if normaliser not in NORMALISERS:
        raise ValueError(f"--normaliser must be one of {', '.join(NORMALISERS)}, got {normaliser!r}")
    normalise = NORMALISERS[normaliser]
    asr = EarlyExitASR.from_pretrained(model, device=device)
    folder = asr.source.folder
    if folder is None:
        raise ValueError(f"a confidence map lies in a model folder of train.py, '{model}' is a checkpoint: train exits")
    material = read_material(inputs, sample_rate=asr.engine.sample_rate)
    for note in material.notes if progress is not None else ():
        progress(note)
    everything = zip(material.utt_ids, material.wavs, material.references, strict=True)
    spoken = [one for one in everything if one[2] is not None]
    if not spoken:
        raise ValueError(f"none of {', '.join(map(str, inputs))} has references: give .csv manifests with a column wrd")
    heard, said = _heard(asr.engine, spoken, normalise=normalise, progress=progress)
    found = fit_confidence_map(
        heard,
        said,
        exit_layers=asr.source.exit_layers,
        language=asr.source.config.get("language") or "en",
        model_digest=model_digest(folder),
    )
    found.write(folder / MAP_FILE)
    return folder / MAP_FILE, found


def _heard(
    engine: Engine,
    spoken: Sequence[tuple[str, torch.Tensor, str]],
    *,
    normalise: Callable[[str], str],
    progress: Callable[[str], None] | None,
) -> tuple[list, list[str]]:
    """Words and confidences of every exit, and references; who cannot be recognised is told and left out."""
    heard, references = [], []
    for number, (name, wav, said) in enumerate(spoken, start=1):
        try:
            exits = words_of_exits(engine, wav)
        except Exception as err:
            if number == len(spoken) and not heard:  # not one of them: the model's fault
                raise
            if progress is not None:
                progress(fault(err, name=f"'{name}'"))
            continue
        heard.append([([normalise(w.text) for w in words], [w.confidence for w in words]) for words in exits])
        references.append(normalise(said))
    return heard, references
