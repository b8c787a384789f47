"""The only file that knows local paths from gs://: list, read a range, write whole or not at all."""

import contextlib
import functools
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from omnihuman_jax.errors import InputError

GCS = "gs://"


def is_remote(path: str) -> bool:
    """Whether `path` is on Google Cloud Storage."""
    return path.startswith(GCS)


def join(folder: str, *names: str) -> str:
    """`folder/name/…`, for local paths and gs:// alike."""
    return "/".join([folder.rstrip("/") or "/", *names])


def is_file(path: str) -> bool:
    """Whether a file (not a folder) is there."""
    if not is_remote(path):
        return Path(path).is_file()
    with _explained(path):
        return bool(_blob(path).exists())


def files(folder: str, *, deep: bool = True) -> dict[str, int]:
    """The files in `folder`, and in its sub-folders if `deep`: path relative to it -> bytes, sorted."""
    if not is_remote(folder):
        root = Path(folder)
        found = (
            (p.relative_to(root).as_posix(), p)
            for p in root.glob("**/*" if deep else "*")
            if p.is_file()
        )
        return {name: p.stat().st_size for name, p in sorted(found)}
    bucket, prefix = _split(folder.rstrip("/") + "/")
    with _explained(folder):
        blobs = list(_client().list_blobs(bucket, prefix=prefix, delimiter=None if deep else "/"))
    return {b.name[len(prefix) :]: b.size for b in blobs if not b.name.endswith("/")}


def identity(path: str) -> list[int]:
    """Numbers that change when the file does: bytes and time of change (or object generation).

    Raises:
        InputError: there is no such file.
    """
    if not is_remote(path):
        try:
            stat = os.stat(path)
        except FileNotFoundError as why:
            raise InputError(f"There is no file {path}.") from why
        return [stat.st_size, stat.st_mtime_ns]
    with _explained(path):
        blob = _blob(path)
        blob.reload()
    return [blob.size, blob.generation]


def read_bytes(path: str) -> bytes:
    """The whole of a small file.

    Raises:
        InputError: it is not there, or may not be read.
    """
    if not is_remote(path):
        try:
            return Path(path).read_bytes()
        except (FileNotFoundError, IsADirectoryError, PermissionError) as why:
            raise InputError(f"Cannot read {path}: {why.strerror}.") from why
    with _explained(path):
        return cast(bytes, _blob(path).download_as_bytes())


def write_bytes(path: str, data: Any) -> None:
    """Write a file (any bytes-like `data`): it appears whole, or not at all. Folders are made."""
    if is_remote(path):
        with _explained(path):
            _blob(path).upload_from_file(io.BytesIO(data), size=len(data))
        return
    with writing(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """A file to write from start to end; it takes its name when the block ends without an error."""
    if is_remote(path):
        with _explained(path), _blob(path).open("wb", ignore_flush=True) as file:
            yield file
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(unfinished, "wb") as file:
            yield file
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def remove(path: str) -> None:
    """Remove a file or a whole folder; nothing if it is not there."""
    if is_remote(path):
        with _explained(path):
            bucket, name = _split(path)
            for blob in list(_client().list_blobs(bucket, prefix=name)):
                if blob.name == name or blob.name.startswith(name.rstrip("/") + "/"):
                    blob.delete()
    elif os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def replace_folder(source: str, destination: str) -> None:
    """Give a local folder the name of another, which goes; at no time is half a folder there."""
    old = Path(f"{destination.rstrip('/')}.old")
    if os.path.lexists(destination):
        remove(str(old))
        os.rename(destination, old)
    os.rename(source, destination)
    remove(str(old))


def free_bytes(folder: str) -> int | None:
    """Room on the disk where `folder` is or will be; None where it has no end (gs://)."""
    if is_remote(folder):
        return None
    path = Path(folder).absolute()
    return shutil.disk_usage(next(p for p in [path, *path.parents] if p.exists())).free


class Reader:
    """A file open for reading ranges. `observer`, if set, is shown every range that is read."""

    def __init__(self, path: str) -> None:
        """Raises: InputError: it is not there, or may not be read."""
        self.path = path
        self.size = identity(path)[0]
        self.observer: Any = None
        self._source: Any = _blob(path) if is_remote(path) else open(path, "rb")  # noqa: SIM115

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`.

        Raises:
            InputError: the file ends before that.
        """
        if offset < 0 or offset + length > self.size:
            raise InputError(
                f"{self.path} is cut short: bytes {offset} to {offset + length} are needed, "
                f"it has {self.size}. Download it again."
            )
        data = b"" if length == 0 else self._read(offset, length)
        if self.observer is not None:
            self.observer(offset, data)
        return data

    def _read(self, offset: int, length: int) -> bytes:
        if is_remote(self.path):
            with _explained(self.path):
                end = offset + length - 1  # inclusive
                return cast(bytes, self._source.download_as_bytes(start=offset, end=end))
        self._source.seek(offset)
        return cast(bytes, self._source.read(length))

    def close(self) -> None:
        if not is_remote(self.path):
            self._source.close()


@functools.cache
def _client() -> Any:
    # Imported here: a second of start-up that local runs need not pay. STORAGE_EMULATOR_HOST is
    # honoured by the client itself, which is then anonymous.
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage

    try:
        return storage.Client()
    except (DefaultCredentialsError, OSError):  # OSError: credentials, but no default project
        return storage.Client.create_anonymous_client()  # public buckets can be read by anyone


def _split(path: str) -> tuple[str, str]:
    bucket, _, name = path.removeprefix(GCS).partition("/")
    if not bucket:
        raise InputError(f"{path} names no bucket; a path is gs://BUCKET/NAME.")
    return bucket, name


def _blob(path: str) -> Any:
    bucket, name = _split(path)
    return _client().bucket(bucket).blob(name)


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """What the user can mend, as one line. Other failures of the service pass through."""
    from google.api_core import exceptions

    try:
        yield
    except exceptions.NotFound as why:
        raise InputError(f"There is no {path}.") from why
    except (exceptions.Forbidden, exceptions.Unauthorized) as why:
        raise InputError(
            f"No access to {path}; give this account the role Storage Object User on the bucket, "
            "or log in with `gcloud auth application-default login`."
        ) from why
