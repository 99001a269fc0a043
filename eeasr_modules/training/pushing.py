"""A model folder to the Hugging Face hub."""

from dataclasses import dataclass
from pathlib import Path

from eeasr_modules.models.weights import weight_files
from eeasr_modules.training.card import check_card

PUSHED = (
    "README.md",
    "config.json",
    "model*.safetensors",
    "policy.json",
    "vocab.json",
    "spm.model",
    "hyperparams.yaml",
    "*.json",
    "*.npz",
)


@dataclass(frozen=True)
class Push:
    """What is sent, or was.

    Arguments
    ---------
    repo_id : str
        User and name.
    files : dict of str to int
        Bytes of each file.
    url : str or None
        Where it is now; None for a dry run.
    """

    repo_id: str
    files: dict[str, int]
    url: str | None

    def lines(self) -> list[str]:
        """What a user reads."""
        total = sum(self.files.values()) / 1e6
        rows = [f"{size / 1e6:10.3f} MB  {name}" for name, size in self.files.items()]
        end = f"{total:10.3f} MB  in all, " + (f"at {self.url}" if self.url else f"would go to {self.repo_id}")
        return [*rows, end]


def push(folder: str | Path, repo_id: str, *, private: bool = False, dry_run: bool = False) -> Push:
    """Send a model folder, after a look at its files and its card.

    Arguments
    ---------
    folder : str or Path
        That `train.py` left.
    repo_id : str
        User or organisation, and name, as in `me/small-exits`; made where it is not there.
    private : bool
        A repository that others cannot see, where it is made.
    dry_run : bool
        Look only; no network is needed.

    Returns
    -------
    Push

    Raises
    ------
    FileNotFoundError
        When the folder is not a model's, or lacks its card.
    ValueError
        When the card's metadata or the id are wrong, or the hub refuses (no token, no right).
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    folder = Path(folder)
    for name in ("config.json", "README.md"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"expected a model folder with {name} in it, found none in '{folder}'")
    weight_files(folder)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as err:
        raise ValueError(f"'{repo_id}' is no id of the hub: {err}") from err
    if repo_id.count("/") != 1:
        raise ValueError(f"an id of the hub is user/name, as in me/small-exits, got '{repo_id}'")
    check_card(folder)
    names = sorted({path.name for pattern in PUSHED for path in folder.glob(pattern) if path.is_file()})
    files = {name: (folder / name).stat().st_size for name in names}
    return Push(repo_id, files, None if dry_run else _send(folder, repo_id, names, private=private))


def _send(folder: Path, repo_id: str, names: list[str], *, private: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(library_name="eeasr")
    try:
        where = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, allow_patterns=names, commit_message="Model with early exits"
        )
    except LocalTokenNotFoundError as err:
        raise ValueError("the hub asks who you are: log in once by `hf auth login`, or set HF_TOKEN") from err
    except HfHubHTTPError as err:
        if err.response is not None and err.response.status_code in (401, 403):
            raise ValueError(
                f"the hub does not let you write to {repo_id}: log in by `hf auth login` with a token that may"
            ) from err
        raise ValueError(f"the hub refused {repo_id}: {err}") from err
    except Exception as err:  # errors of whichever HTTP library the hub's client has
        if not type(err).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        raise ValueError(f"the hub cannot be reached ({err}): try again with a network") from err
    return str(where)
