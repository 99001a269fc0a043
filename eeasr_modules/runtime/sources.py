"""Where models come from (a folder of train.py, a CTC checkpoint of Hugging Face, the hub), and which policy decides.

The policy is the model folder's first, one by name, or one for a budget from its calibrated grid. What needs torch is
imported when weights are looked at, as the exported loop (`runtime.onnx.loop`) chooses its policy without.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eeasr_modules.data.text import CharVocabulary, SentencePieceVocabulary, load_vocabulary
from eeasr_modules.exits.policies.combine import check_against
from eeasr_modules.exits.policies.files import read_policies
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.policies.rules import Static
from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tuning.calibration import Calibrated, allowed_cost, best_within
from eeasr_modules.exits.tuning.replay import models_of, with_models
from eeasr_modules.exits.words.confidence import MAP_FILE, ConfidenceMap, read_confidence_map

if TYPE_CHECKING:
    import torch

    from eeasr_modules.models.multi_exit import MultiExit

logger = logging.getLogger(__name__)

HUB_TIMEOUT_S = 10


@dataclass(frozen=True)
class Source:
    """A model that was found and looked at; its weights are not read yet."""

    name: str  # as the user gave it
    folder: Path | None  # a model folder of this program; None for a checkpoint of transformers
    config: dict  # its `config.json`, or what `MultiExit` makes the checkpoint from
    tokens: tuple[str, ...] | None  # the checkpoint's vocabulary; None where the folder holds one
    calibrated: tuple[Calibrated, ...]  # the folder's policies, the default one first
    confidence_map: ConfidenceMap | None = None  # from its `confidence.json`; None without one

    @property
    def exit_layers(self) -> list[int]:
        """Layers of the exits, that of the checkpoint's own decoder the last."""
        own = self.config.get("own_decoder")
        return [*self.config["exit_layers"], *([] if own is None else [own["exit_layer"]])]

    def refuse_own_decoder(self, doing: str) -> None:
        """ValueError where the deepest exit is the checkpoint's own decoder, which `doing` cannot take."""
        if self.config.get("own_decoder") is not None:
            raise ValueError(
                f"{doing} takes models whose exits are all heads, the deepest exit of '{self.name}' is the decoder of "
                f"{self.config['own_decoder']['source']}: use eeasr transcribe, or a model trained with decoder: null"
            )

    def policy(self, text: str | None, *, budget: float | None) -> Policy:
        """The policy that decides; see `choose_policy`."""
        return choose_policy(self.calibrated, text=text, budget=budget, exit_layers=self.exit_layers, name=self.name)

    def load(self, device: str | torch.device) -> tuple[MultiExit, CharVocabulary | SentencePieceVocabulary]:
        """Model in eval mode on `device`, and vocabulary."""
        from eeasr_modules.models.multi_exit import MultiExit

        if self.folder is not None:
            return MultiExit.load(self.folder, device=str(device)), load_vocabulary(self.folder)
        return MultiExit(self.config).to(device).eval(), CharVocabulary(self.tokens)


def find_source(name: str | Path) -> Source:
    """Look at a model without reading its weights.

    Returns: a checkpoint of transformers becomes a model with one exit, its own CTC head. FileNotFoundError when a file
    of the folder is missing. ValueError when there is no such model, it has no CTC head, or its policies belong to
    another model.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists() or folder.is_absolute() or str(name).startswith("."):
            raise FileNotFoundError(f"expected a model folder at '{name}', found {_what_is(folder)}")
        folder = _model_folder_on_hub(str(name))
    if folder is not None and (folder / "config.json").is_file():
        config = _json(folder / "config.json")
        if "folder_version" in config:
            return _of_folder(str(name), folder, config)
    elif folder is not None:
        raise FileNotFoundError(f"expected a model folder with config.json in it, found none in '{name}'")
    return _of_checkpoint(str(name))


def _what_is(path: Path) -> str:
    return "a file" if path.is_file() else "nothing"


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise ValueError(f"'{path}' is not readable JSON: {err}") from err
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' must hold a JSON object, got {type(content).__name__}")
    return content


def _of_folder(name: str, folder: Path, config: dict) -> Source:
    from eeasr_modules.models.folder import check_weights, model_digest, weight_files

    check_weights(weight_files(folder))  # before the digest, by which half a file is another model
    load_vocabulary(folder)
    calibrated: list[Calibrated] = []
    if (folder / "policy.json").is_file():
        calibrated = read_policies(folder / "policy.json", model_digest=model_digest(folder))
    return Source(name, folder, config, None, tuple(calibrated), _confidence_map(folder))


def _confidence_map(folder: Path) -> ConfidenceMap | None:
    from eeasr_modules.models.folder import model_digest

    path = folder / MAP_FILE
    if not path.is_file():
        return None
    found = read_confidence_map(path)
    if found.model_digest != model_digest(folder):
        # not refused, unlike a policy: words and exits do not depend on it
        logger.warning("'%s' was fitted on other weights: confidences are the heads' own; run eeasr confidence", path)
        return None
    return found


def _of_checkpoint(name: str) -> Source:
    from eeasr_modules.models.encoders.huggingface_checkpoint import checkpoint_config, checkpoint_vocabulary

    tokens = checkpoint_vocabulary(name)
    if tokens is None:
        raise ValueError(f"checkpoint '{name}' has no CTC head to transcribe with: train exits on it first (train.py)")
    vocabulary = CharVocabulary(tokens)
    config = {
        "encoder": {"encoder": "huggingface", "source": name},
        "exit_layers": [checkpoint_config(name).num_hidden_layers],
        "n_tokens": len(tokens),
        "blank_index": vocabulary.blank_index,
        "head_dropout": None,
        "checkpoint_head": True,
    }
    return Source(name, None, config, tuple(tokens), ())


def _model_folder_on_hub(name: str) -> Path | None:
    """A copy of a model folder that lies on the hub (fetched, or cached); None where that is something else."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        offline = not _hub_answers(name)
        path = hf_hub_download(name, "config.json", local_files_only=offline)
    except (HFValidationError, OSError):
        return None  # what is wrong says the reader of checkpoints
    if "folder_version" not in _json(Path(path)):
        return None
    wanted = ["*.json", "*.safetensors", "*.npz", "spm.model"]
    return Path(snapshot_download(name, allow_patterns=wanted, local_files_only=offline))


def _hub_answers(name: str) -> bool:
    """Asked once: the downloader itself would try for half a minute before it says that the hub does not."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=HUB_TIMEOUT_S)
    except HfHubHTTPError:
        return True
    except Exception:  # what its HTTP library raises without a network; which library that is changes with its version
        return False
    return True


def choose_policy(
    calibrated: Sequence[Calibrated], *, text: str | None, budget: float | None, exit_layers: Sequence[int], name: str
) -> Policy:
    """A policy that can decide.

    `text`: as the user wrote it; None takes the first, within a budget the first that can cost so little, and without
    any the last exit. `budget`: mean cost allowed, up to 1 a share of full depth, above 1 layers; None keeps what
    calibration chose. ValueError when the text is no policy, names layers without an exit, or asks for what was not
    calibrated for this model.
    """
    if text is None and not calibrated:
        if budget is not None:
            raise ValueError(f"a budget needs calibrated policies, and '{name}' has none: no policy.json")
        return Static(int(exit_layers[-1]))
    if text is None and budget is None:
        return calibrated[0].policy
    if text is None:
        n_layers = exit_layers[-1]
        return within_budget(_first_within(calibrated, budget, n_layers) or calibrated[0], budget, n_layers)
    if text.rstrip().endswith("+ fusion"):
        raise ValueError(f"'{text}': fused words are no part of a policy, ask for them by --words fused")
    fitted = {kind: model for one in calibrated for kind, model in models_of(one.policy).items()}
    policy = with_models(parse_policy(text), fitted)
    check_against(policy, exit_layers)
    entry = _entry(calibrated, str(policy))
    if budget is not None:
        if not policy.is_open:
            raise ValueError(f"{policy} has its numbers already: give its name alone with a budget, or no budget")
        if entry is not None:
            return within_budget(entry, budget, exit_layers[-1])
    elif not policy.is_open:
        return policy
    if entry is None:
        known = ", ".join(str(one.open_policy) for one in calibrated) or "none"
        raise ValueError(
            f"{policy} was not calibrated for '{name}' (calibrated: {known}): give its numbers, as in "
            "entropy(0.12), or calibrate it by train.py --compare_policies"
        )
    return entry.policy


def within_budget(entry: Calibrated, budget: float, n_layers: int) -> Policy:
    """Of the policies tried on dev the one that the budget buys, by the rule of calibration (`best_within`).

    `budget`: up to 1 a share of full depth, above 1 layers. ValueError when the budget is none, or too small for every
    threshold.
    """
    if not math.isfinite(budget) or not 0 < budget <= n_layers:
        raise ValueError(
            f"a budget must be above 0 and at most {n_layers} (to 1 a share, above 1 layers), got {budget}"
        )
    if entry.cost != "cost_layers":
        raise ValueError(f"{entry.open_policy} was calibrated in {entry.cost}, a budget is in layers: leave it out")
    allowed = allowed_cost(budget, n_layers)
    best = best_within(entry.grid, allowed)
    if best is None:
        raise ValueError(
            f"{entry.open_policy} costs at least {min(entry.grid.cost):.2f} layers on its calibration data, the budget "
            f"allows {allowed:.2f}: raise it"
        )
    return entry.grid.policies[best]


def _first_within(calibrated: Sequence[Calibrated], budget: float, n_layers: int) -> Calibrated | None:
    """The first whose thresholds can cost so little; None where none can."""
    allowed = allowed_cost(budget, n_layers)
    in_layers = (one for one in calibrated if one.cost == "cost_layers")
    return next((one for one in in_layers if best_within(one.grid, allowed) is not None), None)


def _entry(calibrated: Sequence[Calibrated], text: str) -> Calibrated | None:
    """The calibrated policy of that text, or of that text with floor and ceiling."""
    for wanted in (text, f"between({text})"):
        for one in calibrated:
            if str(one.open_policy) == wanted:
                return one
    return None
