"""Torch checkpoint files read without torch: names -> tensors that are read from the file when asked.

Three containers: safetensors (whole or in shards), the zip archive that `torch.save` writes (torch_zip.py),
and what it wrote before torch 1.6 (torch_legacy.py). Local or gs://.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from omnihuman_jax import storage, torch_legacy, torch_zip
from omnihuman_jax.errors import InputError
from omnihuman_jax.torch_pickle import Entry, extent

_SAFETENSORS: Mapping[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_LARGEST_HEADER = 100 << 20  # what the safetensors library allows too
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file. Nothing is read until `read` or `rows`, and then only that part."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int  # of the first element, in bytes
    strides: tuple[int, ...]  # in elements, as torch counts
    file: storage.Reader

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """The whole tensor, read-only."""
        return self._part(self.offset, self.shape)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """`tensor[start:stop]`, read-only; contiguous tensors read just those bytes."""
        offset = self.offset + start * self.strides[0] * self.dtype.itemsize
        return self._part(offset, (stop - start, *self.shape[1:]))

    def _part(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        if 0 in shape:
            return np.zeros(shape, self.dtype)
        data = self.file.read(offset, extent(shape, self.strides) * self.dtype.itemsize)
        flat = np.frombuffer(data, self.dtype)
        strides = [step * self.dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one network, from one file or several; `files` are all that belong to it."""

    name: str  # for messages
    tensors: Mapping[str, Tensor]
    files: tuple[str, ...]
    metadata: Mapping[str, str]  # of a safetensors file

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def readers(self) -> list[storage.Reader]:
        """The open files, each once."""
        return list(dict.fromkeys(tensor.file for tensor in self.tensors.values()))

    def close(self) -> None:
        for reader in self.readers:
            reader.close()


def find_checkpoints(path: str) -> list[tuple[str, tuple[str, ...]]]:
    """The checkpoints at `path`, a file or a folder: (name, its files) of each, none opened yet.

    Shards belong together by their index file, or by their names `…-00001-of-00006.safetensors`.
    A `pytorch_model.bin` beside safetensors is the same weights again and left out.

    Raises:
        InputError: a shard is missing.
    """
    if storage.is_file(path):
        folder, name = path.rpartition("/")[0] or ".", path.rpartition("/")[2]
        if not name.endswith(".index.json") and not _SHARD.fullmatch(name):
            return [(path, (path,))]
        whole = storage.join(folder, name)
        siblings = set(storage.files(folder, deep=False))
        return [found for found in _groups(folder, siblings) if whole in (found[0], *found[1])]
    by_folder: dict[str, set[str]] = {}
    for entry in storage.files(path):
        inside, _, name = entry.rpartition("/")
        by_folder.setdefault(inside, set()).add(name)
    return [
        found
        for inside, names in sorted(by_folder.items())
        for found in _groups(storage.join(path, inside) if inside else path.rstrip("/"), names)
    ]


def _groups(folder: str, names: set[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    tensors = {name for name in names if name.endswith(".safetensors")}
    for index in sorted(name for name in names if name.endswith(".safetensors.index.json")):
        path = storage.join(folder, index)
        try:
            wanted = set(json.loads(storage.read_bytes(path))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as why:
            raise InputError(f"{path} is not an index of shards: it needs a 'weight_map'.") from why
        yield _complete(folder, index, wanted, names)
        tensors -= wanted
    for name in sorted(tensors):
        if not (shard := _SHARD.fullmatch(name)):
            yield storage.join(folder, name), (storage.join(folder, name),)
        elif shard["stem"] not in {_stem(other) for other in tensors if other < name}:
            count = int(shard["count"])
            wanted = {f"{shard['stem']}-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)}
            yield _complete(folder, name, wanted, names)
    for name in sorted(name for name in names if name.endswith((".pth", ".pt", ".bin"))):
        if not (name == "pytorch_model.bin" and any(n.endswith(".safetensors") for n in names)):
            yield storage.join(folder, name), (storage.join(folder, name),)


def _stem(name: str) -> str | None:
    shard = _SHARD.fullmatch(name)
    return shard and shard["stem"]


def _complete(
    folder: str, name: str, wanted: set[str], names: set[str]
) -> tuple[str, tuple[str, ...]]:
    if missing := sorted(wanted - names):
        raise InputError(
            f"{storage.join(folder, missing[0])} is missing ({len(missing)} of {len(wanted)} shards "
            f"named by {name}); download the folder again."
        )
    return storage.join(folder, name), tuple(storage.join(folder, each) for each in sorted(wanted))


def open_checkpoint(name: str, files: tuple[str, ...]) -> Checkpoint:
    """The tensors of the files together, in the order in which they lie in the files.

    Raises:
        InputError: a file is cut short, of another kind, holds a dtype we do not know, or two files
            hold the same tensor.
    """
    readers: list[storage.Reader] = []
    try:
        for path in files:
            readers.append(storage.Reader(path))
        return _open(name, readers)
    except BaseException:
        for reader in readers:
            reader.close()
        raise


def _open(name: str, readers: Sequence[storage.Reader]) -> Checkpoint:
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in readers:
        entries: Iterable[Entry]
        if file.path.endswith(".safetensors"):
            entries, of_file = _safetensors(file)
            metadata |= of_file
        elif torch_legacy.is_legacy(file):
            entries = torch_legacy.entries(file)
        else:
            entries = torch_zip.entries(file)
        found = [Tensor(*entry, file) for entry in entries]
        for tensor in sorted(found, key=lambda each: each.offset):
            if tensor.name in tensors:
                other = tensors[tensor.name].file.path
                raise InputError(
                    f"Tensor {tensor.name} is in both {other} and {file.path}; remove one."
                )
            tensors[tensor.name] = tensor
    return Checkpoint(name, tensors, tuple(file.path for file in readers), metadata)


def _safetensors(file: storage.Reader) -> tuple[list[Entry], dict[str, str]]:
    """The tensors and the metadata of a file: its header's length, the header in JSON, the bytes.

    https://huggingface.co/docs/safetensors
    """
    length = struct.unpack("<Q", file.read(0, 8))[0] if file.size >= 8 else file.size
    if not 2 <= length <= _LARGEST_HEADER:
        raise InputError(f"{file.path} is not a safetensors file, or cut short; download it again.")
    encoded = file.read(8, length)
    try:
        header = json.loads(encoded)
        metadata = dict(header.pop("__metadata__", {}))
        described = [
            (name, str(e["dtype"]), tuple(map(int, e["shape"])), *map(int, e["data_offsets"]))
            for name, e in header.items()
        ]
        size = 8 + length + max((end for *_, _start, end in described), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as why:
        raise InputError(f"{file.path} is not a safetensors file: its header is broken.") from why
    if size != file.size:
        raise InputError(
            f"{file.path} has {file.size} bytes, its header says {size}; download it again."
        )
    entries = []
    for name, code, shape, start, end in described:
        if code not in _SAFETENSORS:
            known = ", ".join(_SAFETENSORS)
            raise InputError(f"{file.path}: tensor {name} has dtype {code}; known are {known}.")
        dtype = _SAFETENSORS[code]
        if min(start, *shape, 0) < 0 or math.prod(shape) * dtype.itemsize != end - start:
            raise InputError(
                f"{file.path}: tensor {name} of shape {shape} has {end - start} bytes."
            )
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        entries.append((name, shape, dtype, 8 + length + start, strides))
    return entries, metadata


def write_safetensors(
    path: str,
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    pieces: Callable[[str], Iterable[np.ndarray]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file with these shapes and dtypes, a piece of a tensor at a time.

    `pieces(name)` gives the tensor's values in row-major order, in as many arrays as it likes.
    """
    codes = {dtype: code for code, dtype in _SAFETENSORS.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, (shape, dtype) in tensors.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": codes[dtype], "shape": shape, "data_offsets": (start, end)}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the bytes of the tensors start aligned
    with storage.writing(path) as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in tensors:
            for piece in pieces(name):
                file.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
