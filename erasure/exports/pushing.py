"""Upload an export to the Hugging Face Hub."""

from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, get_token
from huggingface_hub.errors import HFValidationError, HTTPError  # of the HTTP library it uses
from huggingface_hub.utils import validate_repo_id

from erasure.errors import SettingError, StorageError

TAG = "erasure-toolkit"  # of every export's card
WRITTEN = (  # what the forms of an export consist of; "*" stands for one name
    "README.md", "edit.json", "edit.safetensors",
    "model_index.json", "concepts.json", "presets.json", "sampling.json", "text.json", "size.json",
    "scheduler/scheduler_config.json",
    *(f"{part}/{file}"
      for part in ("unet", "transformer", "vae", *(f"text_encoder{n}" for n in ("", "_2", "_3")))
      for file in ("config.json", "*.safetensors", "*.safetensors.index.json")),
    *(f"{part}/{file}" for part in ("tokenizer", "tokenizer_2", "tokenizer_3")
      for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
                   "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")),
    "config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json",
    "*/adapter_config.json", "*/adapter_model.safetensors",
)  # fmt: skip


def push(folder: Path | str, repo: str, *, private: bool = False) -> str:
    """Upload an export in one commit, to a repository that is made if need be; its address.

    `repo` is OWNER/NAME, or NAME for the token's owner. SettingError for a folder that is no export
    of ours or holds more than one, a bad name, without a token, or where `private` is asked for and
    the repository is public; StorageError where the Hub refuses or is out of reach.
    """
    folder = Path(folder)
    if not is_export(folder):
        raise SettingError(
            f"push takes a folder that `erasure export RUN {folder}` wrote; {folder} has no "
            f"README.md with the tag {TAG}."
        )
    files = _written(folder)
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
        if private and not hub.model_info(made.repo_id).private:
            raise SettingError(
                f"private cannot be had: {made.repo_id} exists and is public. Name another "
                "repository, or make that one private on the Hub; nothing was uploaded."
            )
        hub.upload_folder(
            repo_id=made.repo_id, folder_path=folder, allow_patterns=files,
            commit_message="Upload with erasure-toolkit",
        )  # fmt: skip
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
    except (OSError, ValueError, TypeError):  # no front matter, or none that is a model's
        return False


def _written(folder: Path) -> list[str]:
    """An export's files, as patterns that fit them alone; hidden ones are no part of it.

    SettingError for a link, and for anything that `export` does not write.
    """
    files = []
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue
        is_ours = any(
            name.count("/") == rule.count("/") and fnmatchcase(name, rule) for rule in WRITTEN
        )
        if file.is_symlink() or (not file.is_dir() and not (file.is_file() and is_ours)):
            why = "is a link" if file.is_symlink() else "is none of those"
            raise SettingError(
                f"push uploads the files that export writes, and {file} {why}; "
                "move it out of the folder."
            )
        if not file.is_dir():
            files.append(name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]"))
    return files
