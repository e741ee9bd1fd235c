"""Upload an export to the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi, ModelCard, get_token
from huggingface_hub.errors import HFValidationError, HTTPError  # of the HTTP library it uses
from huggingface_hub.utils import validate_repo_id

from erasure.errors import SettingError, StorageError

TAG = "erasure-toolkit"  # of every export's card


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload an export in one commit, to a repository that is made if need be; its address.

    `repo` is OWNER/NAME, or NAME for the token's owner. SettingError for a folder that is no export
    of ours, a bad name, or without a token; StorageError where the Hub refuses or is out of reach.
    """
    if not is_export(folder):
        raise SettingError(
            f"push takes a folder that `erasure export RUN {folder}` wrote; {folder} has no "
            f"README.md with the tag {TAG}."
        )
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise SettingError(f"repo must be OWNER/NAME; {error}") from error
    token = get_token()
    if token is None:
        raise SettingError(
            "push needs a token of the Hub that may write: run `hf auth login`, or set HF_TOKEN."
        )
    hub = HfApi(token=token)
    try:
        made = hub.create_repo(repo, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Upload with erasure-toolkit"
        )
    except (HTTPError, OSError) as error:  # the latter when the Hub is switched off
        first = str(error).strip().splitlines()[0]
        raise StorageError(f"could not push {folder} to {repo}: {first}") from error
    return str(made)


def is_export(folder: Path) -> bool:
    """Whether the folder's card carries this toolkit's tag."""
    card = folder / "README.md"
    if not card.is_file():
        return False
    try:
        return TAG in (ModelCard.load(card).data.get("tags") or [])
    except ValueError:  # no front matter, or none that is a model's
        return False
