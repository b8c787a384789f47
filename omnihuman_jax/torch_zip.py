"""The archive that `torch.save` writes, read without torch and without running anything in it.

Its pickle is read by an unpickler that can build tensors and nothing else.
"""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError

_STORAGES: Mapping[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_LARGEST_PICKLE = 100 << 20  # one of names; that of UMT5-XXL has 20 kB
_DEEPEST = 8  # lists in lists
_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
)  # what trainers put around weights

Entry = tuple[str, tuple[int, ...], np.dtype, int, tuple[int, ...]]


def extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many elements lie between the first and the last of a strided view, both counted."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))


def entries(file: storage.Reader) -> Iterator[Entry]:
    """Name, shape, dtype, offset in the file (bytes) and strides (elements) of every tensor.

    Raises:
        InputError: not such an archive, cut short, or a pickle of anything but a dict of tensors.
    """
    archive = _Archive.read(file)
    for name, view in _views(file.path, archive.pickled).items():
        yield archive.entry(name, view)


def contents(file: storage.Reader) -> Any:
    """All that the archive holds: dicts, lists, words and numbers, with the Entry of each tensor.

    A tensor is named by the way to it: "contexts.3" is the fourth in the list `contexts`.

    Raises:
        InputError: not such an archive, cut short, or a pickle of anything else.
    """
    archive = _Archive.read(file)
    return _with_entries(archive, "", _unpickled(file.path, archive.pickled), _DEEPEST)


def _with_entries(archive: "_Archive", name: str, value: Any, levels: int) -> Any:
    if isinstance(value, _View):
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

    def entry(self, name: str, view: "_View") -> Entry:
        """Where the bytes of a tensor are. Raises: InputError: it cannot be, or they are not all there."""
        path = self.file.path
        _check(path, name, view)
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
            f"{file.path} is not a zip archive of torch: cut short, or written by torch before 1.6. "
            "Download it again, or load and save it with a newer torch."
        )
    try:
        with zipfile.ZipFile(_Seekable(file)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            root = next(name for name in members if name.endswith("data.pkl"))[: -len("data.pkl")]
            if members[f"{root}data.pkl"].file_size > _LARGEST_PICKLE:
                raise InputError(f"{file.path} has a pickle of more than {_LARGEST_PICKLE} bytes.")
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


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype


@dataclass(frozen=True)
class _View:
    """What a tensor is inside a `torch.save` archive: a strided view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *_gradient_and_hooks: Any
) -> _View:
    return _View(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(view: Any, *_gradient_and_hooks: Any) -> Any:
    return view


class _TensorUnpickler(pickle.Unpickler):
    """Builds tensors, dicts, lists and numbers. Any other global ends it before anything is called."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return name
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        }
        if (module, name) not in allowed:
            raise InputError(f"it names {module}.{name}, which is not a tensor")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, _count = pid
        if kind != "storage" or dtype not in _STORAGES:
            raise InputError(f"it refers to a {kind!r}, not to a storage of numbers")
        return _Storage(str(key), _STORAGES[dtype])


def _unpickled(path: str, pickled: bytes) -> Any:
    """What the pickle holds; it may build nothing but tensors, dicts, lists, words and numbers."""
    try:
        return _TensorUnpickler(io.BytesIO(pickled)).load()
    except InputError as why:
        raise InputError(
            f"{path} is refused: {why}. Only tensors are read from a pickle; save the weights alone."
        ) from None
    except Exception as why:  # A broken pickle can raise anything; all mean the same.
        raise InputError(f"{path} has a pickle that cannot be read ({why!r}).") from why


def _views(path: str, pickled: bytes) -> dict[str, _View]:
    """The tensors that the pickle names."""
    found = _unpickled(path, pickled)
    for wrapper in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}; a dict of tensors is needed.")
    for name, view in found.items():
        if not isinstance(name, str):
            raise InputError(f"{path}: entry {name!r} is not a tensor.")
        _check(path, name, view)
    return found


def _check(path: str, name: str, view: Any) -> None:
    sound = isinstance(view, _View) and isinstance(view.storage, _Storage)
    if not sound or len(view.shape) != len(view.strides):
        raise InputError(f"{path}: entry {name!r} is not a tensor.")
    numbers = (view.offset, *view.shape, *view.strides)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise InputError(f"{path}: tensor {name} has an impossible shape.")


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
