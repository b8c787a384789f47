"""The archive that `torch.save` writes, read without torch and without running anything in it.

torch_pickle.py reads its pickle; torch_legacy.py the files of torch before 1.6.
"""

import io
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError
from omnihuman_jax.torch_pickle import (
    LARGEST,
    Entry,
    TensorUnpickler,
    View,
    check,
    extent,
    refusing,
    views,
)

_DEEPEST = 8  # lists in lists


def entries(file: storage.Reader) -> Iterator[Entry]:
    """Name, shape, dtype, offset in the file (bytes) and strides (elements) of every tensor.

    Raises:
        InputError: not such an archive, cut short, or a pickle of anything but a dict of tensors.
    """
    archive = _Archive.read(file)
    for name, view in views(file.path, _unpickled(archive)).items():
        yield archive.entry(name, view)


def contents(file: storage.Reader) -> Any:
    """All that the archive holds: dicts, lists, words and numbers, with the Entry of each tensor.

    A tensor is named by the way to it: "contexts.3" is the fourth in the list `contexts`.

    Raises:
        InputError: not such an archive, cut short, or a pickle of anything else.
    """
    archive = _Archive.read(file)
    return _with_entries(archive, "", _unpickled(archive), _DEEPEST)


def _with_entries(archive: "_Archive", name: str, value: Any, levels: int) -> Any:
    if isinstance(value, View):
        return archive.entry(name, value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if levels == 0:
        raise InputError(f"{archive.file.path}: {name} is nested too deep.")
    if isinstance(value, list | tuple):
        return [
            _with_entries(archive, f"{name}.{i}" if name else str(i), each, levels - 1)
            for i, each in enumerate(value)
        ]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {
            key: _with_entries(archive, f"{name}.{key}" if name else key, each, levels - 1)
            for key, each in value.items()
        }
    raise InputError(f"{archive.file.path}: {name or 'it'} is a {type(value).__name__}.")


@dataclass(frozen=True)
class _Archive:
    """ROOT/data.pkl, and where the raw bytes ROOT/data/KEY are; all uncompressed."""

    file: storage.Reader
    root: str
    members: Mapping[str, zipfile.ZipInfo]
    pickled: bytes

    @classmethod
    def read(cls, file: storage.Reader) -> "_Archive":
        return cls(file, *_members(file))

    def entry(self, name: str, view: "View") -> Entry:
        """Where the bytes of a tensor are. Raises: InputError: it cannot be, or they are not all there."""
        path = self.file.path
        check(path, name, view)
        entry = self.members.get(f"{self.root}data/{view.storage.key}")
        offset = view.offset * view.storage.dtype.itemsize
        needed = offset + extent(view.shape, view.strides) * view.storage.dtype.itemsize
        if entry is None or entry.file_size < needed:
            raise InputError(f"{path}: the bytes of tensor {name} are not all there.")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{path} is compressed; save it again with torch.save, unzipped.")
        start = _data_start(self.file, entry) + offset
        return name, view.shape, view.storage.dtype, start, view.strides


def _members(file: storage.Reader) -> tuple[str, dict[str, zipfile.ZipInfo], bytes]:
    if file.size < 4 or file.read(0, 4) != b"PK\x03\x04":
        raise InputError(
            f"{file.path} is no file of torch, or cut short; download it again, or load and save it "
            "with a newer torch."
        )
    try:
        with zipfile.ZipFile(_Seekable(file)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            root = next(name for name in members if name.endswith("data.pkl"))[: -len("data.pkl")]
            if members[f"{root}data.pkl"].file_size > LARGEST:
                raise InputError(f"{file.path} has a pickle of more than {LARGEST} bytes.")
            pickled = archive.read(f"{root}data.pkl")
            order = archive.read(f"{root}byteorder") if f"{root}byteorder" in members else b"little"
    except zipfile.BadZipFile as why:
        raise InputError(f"{file.path} is cut short or broken ({why}); download it again.") from why
    except StopIteration as why:
        raise InputError(
            f"{file.path} is a zip archive, but not one of torch: no data.pkl."
        ) from why
    if order != b"little":
        raise InputError(
            f"{file.path} was written on a big-endian machine; save it again elsewhere."
        )
    return root, members, pickled


def _unpickled(archive: _Archive) -> Any:
    with refusing(archive.file.path):
        return TensorUnpickler(io.BytesIO(archive.pickled)).load()


def _data_start(file: storage.Reader, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of a zip entry start: after its local header, whose two lengths vary."""
    name, extra = struct.unpack("<HH", file.read(entry.header_offset + 26, 4))
    return entry.header_offset + 30 + int(name) + int(extra)


class _Seekable(io.RawIOBase):
    """A Reader as the file object that zipfile needs."""

    def __init__(self, file: storage.Reader) -> None:
        self._file, self._at = file, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._file.size - self._at)
        data = self._file.read(self._at, left if size < 0 else min(size, left))
        self._at += len(data)
        return data
