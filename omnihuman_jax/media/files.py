"""How media files fail: a bad input is one InputError, an output appears whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omnihuman_jax.errors import InputError

type AnyPath = str | os.PathLike[str]


def existing(path: AnyPath, want: str) -> Path:
    """`path`, which is a file with something in it. `want` says what to give instead.

    Raises:
        InputError: nothing there, a folder, a device, an empty file, no permission.
    """
    file = Path(path)
    try:
        if file.is_dir():
            raise InputError(f"{path} is a folder; give {want}.")
        # Devices and pipes are refused too: they may never end.
        if not file.is_file():
            raise InputError(f"There is no file {path}; give {want}.")
        if not file.stat().st_size:
            raise InputError(f"{path} is empty; give {want}.")
    except OSError as why:
        raise InputError(f"{path} cannot be read: {_reason(why)}; give {want}.") from why
    return file


@contextmanager
def decoding(path: AnyPath, want: str) -> Iterator[None]:
    """Whatever a decoder raises inside, on a file that is at fault, becomes an InputError.

    Keep our own arithmetic outside: its mistakes are not the file's.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as why:
        # Pillow, libav, json and zipfile raise dozens of types on damaged files.
        raise InputError(f"{path} cannot be read: {_reason(why)}; give {want}.") from why


@contextmanager
def writing(path: AnyPath) -> Iterator[None]:
    """A full disk, a missing permission and their like become an InputError that names `path`."""
    try:
        yield
    except OSError as why:
        raise InputError(
            f"{path} cannot be written: {_reason(why)}; choose another place or make room."
        ) from why


@contextmanager
def replacing(path: AnyPath, suffix: str) -> Iterator[Path]:
    """A path to write to, beside `path`; it becomes `path` if the block ends well, else it goes.

    Parent folders are made. A file already at `path` stays until the new one is whole.

    Raises:
        InputError: `path` does not end in `suffix`, is a folder, or its folder cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != suffix:
        raise InputError(f"The output must end in {suffix}, got {path}.")
    # Short, so that a long name stays within the file system's limit.
    part = target.with_name(f".{target.stem[:40]}.{uuid.uuid4().hex[:8]}.part")
    with writing(path):
        if target.is_dir():
            raise InputError(f"{path} is a folder; give a file name that ends in {suffix}.")
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch(exist_ok=False)
    try:
        yield part
        with writing(path):
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _reason(why: Exception) -> str:
    """What went wrong, on one line."""
    said = getattr(why, "strerror", None) or str(why) or type(why).__name__
    return " ".join(str(said).split()).rstrip(".")
