"""Where models come from: a folder that train.py left, a Hugging Face CTC checkpoint's folder, or the hub."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from eeasr_modules.data.text import CharVocabulary, SentencePieceVocabulary, load_vocabulary
from eeasr_modules.exits.policies.files import read_policies
from eeasr_modules.exits.tuning.calibration import Calibrated
from eeasr_modules.exits.words.confidence import MAP_FILE, ConfidenceMap, read_confidence_map
from eeasr_modules.models.folder import check_weights, model_digest, weight_files
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

    def load(self, device: str | torch.device) -> tuple[MultiExit, CharVocabulary | SentencePieceVocabulary]:
        """Model in eval mode on `device`, and vocabulary."""
        if self.folder is not None:
            return MultiExit.load(self.folder, device=str(device)), load_vocabulary(self.folder)
        return MultiExit(self.config).to(device).eval(), CharVocabulary(self.tokens)


def find_source(name: str | Path) -> Source:
    """Look at a model without reading its weights.

    FileNotFoundError when a file of the folder is missing. ValueError when there is no such model, it has no CTC head,
    or its policies belong to another model.

    Returns
    -------
    Source
        A checkpoint of transformers becomes a model with one exit, its own CTC head.
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
    check_weights(weight_files(folder))  # before the digest, by which half a file is another model
    load_vocabulary(folder)
    calibrated: list[Calibrated] = []
    if (folder / "policy.json").is_file():
        calibrated = read_policies(folder / "policy.json", model_digest=model_digest(folder))
    return Source(name, folder, config, None, tuple(calibrated), _confidence_map(folder))


def _confidence_map(folder: Path) -> ConfidenceMap | None:
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
