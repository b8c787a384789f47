"""The only file that knows the Hugging Face hub: a repository name -> a local folder with its weights."""

import re
from pathlib import Path

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED = (".safetensors", ".safetensors.index.json", ".pth", "pytorch_model.bin", ".model")
_SETTINGS = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def local(source: str) -> str:
    """`source` if it is a path that is there; else the repository of that name, downloaded.

    Downloads go to the hub's own cache and are not repeated.

    Raises:
        InputError: no such file, folder or repository, or no network.
    """
    if storage.is_remote(source):
        if not storage.is_file(source) and not storage.files(source):
            raise InputError(f"There is nothing at {source}.")
        return source
    if Path(source).exists():
        return source
    if not _REPOSITORY.fullmatch(source):
        raise InputError(
            f"There is no file or folder {source}; give one, a gs:// path, or a repository of the "
            "Hugging Face hub such as Wan-AI/Wan2.1-T2V-1.3B."
        )
    return _download(source)


def _download(repository: str) -> str:
    # Imported here: only downloads need it.
    import huggingface_hub
    from huggingface_hub import errors

    try:
        names = huggingface_hub.list_repo_files(repository)
        wanted = [name for name in names if name.endswith((*_WANTED, *_SETTINGS))]
        if any(name.endswith(".safetensors") for name in wanted):
            wanted = [name for name in wanted if not name.endswith("pytorch_model.bin")]
        return huggingface_hub.snapshot_download(repository, allow_patterns=wanted)
    except errors.GatedRepoError as why:
        raise InputError(
            f"{repository} asks for its terms to be accepted: open "
            f"https://huggingface.co/{repository}, then `hf auth login`."
        ) from why
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as why:
        raise InputError(
            f"There is neither a path {repository} here nor a repository of that name on the "
            "Hugging Face hub (or it is private: `hf auth login`)."
        ) from why
    except (errors.HTTPError, ConnectionError, errors.LocalEntryNotFoundError) as why:
        raise InputError(
            f"There is no path {repository} here, and the Hugging Face hub cannot be reached "
            f"({type(why).__name__}); download it elsewhere and give its folder."
        ) from why
