"""What `torch.save` wrote before torch 1.6, read without torch and without running anything in it.

Five pickles, one behind the other (a magic number, a version, what machine wrote it, the tensors' names and
shapes, the keys of their storages), then each storage: a count in eight bytes, and the raw numbers.
Released networks of metrics are often of this kind.
"""

import io
import struct
from collections.abc import Iterator
from typing import Any

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError
from omnihuman_jax.torch_pickle import (
    LARGEST,
    Entry,
    Storage,
    TensorUnpickler,
    extent,
    refusing,
    views,
)

_MAGIC = 0x1950A86A20F9469CFC6C
_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number, pickled
_HEAD = 1 << 20  # bytes that are read first; twice as many if the pickles are longer


def is_legacy(file: storage.Reader) -> bool:
    """Whether the file begins as torch before 1.6 wrote it."""
    return file.size > len(_START) and file.read(0, len(_START)) == _START


def entries(file: storage.Reader) -> Iterator[Entry]:
    """Name, shape, dtype, offset in the file (bytes) and strides (elements) of every tensor.

    Raises:
        InputError: cut short, of a big-endian machine, or a pickle of anything but a dict of tensors.
    """
    found, stored, keys, at = _unpickled(file)
    starts: dict[str, tuple[int, int]] = {}
    for key in keys:
        if key not in stored or file.size < at + 8:
            raise InputError(f"{file.path} is cut short or broken; download it again.")
        (count,) = struct.unpack("<q", file.read(at, 8))
        starts[key] = (at + 8, count)
        at += 8 + count * stored[key].dtype.itemsize
        if count < 0 or at > file.size:
            raise InputError(f"{file.path} is cut short; download it again.")
    for name, view in views(file.path, found).items():
        start, count = starts.get(view.storage.key, (0, -1))
        if count < view.offset + extent(view.shape, view.strides):
            raise InputError(f"{file.path}: the bytes of tensor {name} are not all there.")
        offset = start + view.offset * view.storage.dtype.itemsize
        yield name, view.shape, view.storage.dtype, offset, view.strides


class _Unpickler(TensorUnpickler):
    """Remembers the storages that it met: their kinds are said nowhere else."""

    stored: dict[str, Storage]

    def persistent_load(self, pid: Any) -> Storage:
        found = super().persistent_load(pid)
        self.stored[found.key] = found
        return found


def _unpickled(file: storage.Reader) -> tuple[Any, dict[str, Storage], list[str], int]:
    """What the pickles hold: the content, its storages, their keys in order; and where they end."""
    size = min(_HEAD, file.size)
    while True:
        head = io.BytesIO(file.read(0, size))
        try:
            with refusing(file.path):
                return _read(head)
        except InputError:
            if size == min(file.size, LARGEST):  # not for want of bytes
                raise
        size = min(2 * size, file.size, LARGEST)


def _read(head: io.BytesIO) -> tuple[Any, dict[str, Storage], list[str], int]:
    stored: dict[str, Storage] = {}

    def load() -> Any:
        unpickler = _Unpickler(head, encoding="utf-8")
        unpickler.stored = stored
        return unpickler.load()

    magic, _version, machine, content, keys = (load() for _ in range(5))
    if magic != _MAGIC or machine.get("little_endian") is not True:
        raise InputError("it is not of torch, or was written on a big-endian machine")
    return content, stored, [str(key) for key in keys], head.tell()
