"""The only place that says whether a folder is a whole checkpoint, and whether it is one of this state.

    FOLDER/step_00000300/state/         the arrays, as Orbax writes them
                         data.json      the place in the data
                         config.json    the config that made it
                         manifest.json  last: the arrays by path, and bytes and crc32c of all files above

The second line of the manifest is the crc32c of its first, so that it is whole by itself.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import google_crc32c
import jax
import numpy as np

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError

STATE, DATA, CONFIG, MANIFEST = "state", "data.json", "config.json", "manifest.json"
_STEP = re.compile(r"step_(\d{8,})")
_PIECE = 1 << 22  # bytes read at a time for a checksum, which holds the interpreter's lock
_SHOWN = 3  # differences that a message names


class DamagedError(Exception):
    """A folder is not a whole checkpoint. The message completes "it …"."""


class UnfinishedError(DamagedError):
    """It has no manifest: whoever wrote it was stopped."""


@dataclass(frozen=True)
class Manifest:
    """What a whole checkpoint consists of.

    Attributes:
        arrays: "float32[8, 4]" by path in the state, "/" between keys.
        files: bytes and crc32c by path in the folder; None on gs://, whose listing tells sizes only.
    """

    step: int
    arrays: dict[str, str]
    files: dict[str, list[int | None]]

    def encode(self) -> bytes:
        body = json.dumps(asdict(self)).encode()
        return body + f"\n{google_crc32c.value(body):08x}\n".encode()

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Raises DamagedError where a byte has changed."""
        body, _, crc = data.partition(b"\n")
        if crc != f"{google_crc32c.value(body):08x}\n".encode():
            raise DamagedError(f"has a damaged {MANIFEST}")
        return cls(**json.loads(body))


def place(folder: str, step: int) -> str:
    """Where the checkpoint of a step is."""
    return storage.join(folder, f"step_{step:08d}")


def found(folder: str) -> dict[int, dict[str, int]]:
    """The folders of steps, whole or not: bytes of their files by path, by step, the newest first."""
    steps: dict[int, dict[str, int]] = {}
    for name, size in storage.files(folder).items():
        above, _, below = name.partition("/")
        if below and (match := _STEP.fullmatch(above)):
            steps.setdefault(int(match[1]), {})[below] = size
    return dict(sorted(steps.items(), reverse=True))


def write_manifest(where: str, step: int, arrays: Mapping[str, str]) -> None:
    """Declare the folder `where` whole: everything in it is on disk, and this file comes last."""
    local = not storage.is_remote(where)
    sizes = storage.files(where)
    files = {
        name: [size, checksum(storage.join(where, name), flush=True) if local else None]
        for name, size in sizes.items()
    }
    if local:
        for inside, _, _ in os.walk(where):
            _flush(inside)
        _flush(os.path.dirname(where))
    path = storage.join(where, MANIFEST)
    storage.write_bytes(path, Manifest(step, dict(arrays), files).encode())
    if local:
        _flush(path)
        _flush(where)


def open_manifest(where: str, sizes: Mapping[str, int]) -> Manifest:
    """The manifest of a folder whose files have these sizes.

    Raises:
        UnfinishedError: there is none.
        DamagedError: a byte of it has changed, or a file is missing or of another size.
    """
    if MANIFEST not in sizes:
        raise UnfinishedError("was never finished")
    manifest = Manifest.decode(storage.read_bytes(storage.join(where, MANIFEST)))
    for name, (size, _) in manifest.files.items():
        if name not in sizes:
            raise DamagedError(f"lacks {name}")
        if sizes[name] != size:
            raise DamagedError(f"has {sizes[name]} bytes of {name} where {size} were written")
    return manifest


def verify(where: str, manifest: Manifest, share: int, shares: int) -> None:
    """Read every `shares`-th local file; gs:// checks what it stores by itself.

    Raises:
        DamagedError: a file does not have the bytes that were written.
    """
    if storage.is_remote(where):
        return
    for name in sorted(manifest.files)[share::shares]:
        crc = manifest.files[name][1]
        try:
            same = crc is None or checksum(storage.join(where, name)) == crc
        except OSError as why:
            raise DamagedError(f"has an unreadable {name} ({why.strerror})") from why
        if not same:
            raise DamagedError(f"has other bytes in {name} than were written")


def is_whole(where: str, sizes: Mapping[str, int]) -> bool:
    """Whether a folder has its manifest and files of the sizes in it; what is in them is not read."""
    try:
        open_manifest(where, sizes)
    except DamagedError:
        return False
    return True


def remove(where: str) -> None:
    """Remove a checkpoint; from the first moment on it is not a whole one."""
    storage.remove(storage.join(where, MANIFEST))
    storage.remove(where)


def checksum(path: str, *, flush: bool = False) -> int:
    """crc32c of a local file; `flush` waits until it would survive a power failure."""
    crc = 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            crc = google_crc32c.extend(crc, piece)
        if flush:
            os.fsync(file.fileno())
    return crc


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by path, "/" between keys: `opt/0/mu/blocks/ffn/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(flat) < len(leaves):
        raise InputError("Two arrays of the state have the same path; rename a key with '/' in it.")
    return flat


def filled(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Those with elements, all that can be stored."""
    return {path: flat[path] for path, (shape, _) in _kinds(flat).items() if math.prod(shape)}


def describe(flat: Mapping[str, Any]) -> dict[str, str]:
    """Dtype and shape of every leaf: "float32[8, 4]"."""
    return {path: f"{dtype}{list(shape)}" for path, (shape, dtype) in _kinds(flat).items()}


def total_bytes(flat: Mapping[str, Any]) -> int:
    """What the arrays take, uncompressed, on all hosts together."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in _kinds(flat).values())


def check_same(where: str, stored: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Refuse the checkpoint of another network or optimizer.

    Raises:
        InputError: naming the first paths that differ.
    """
    differ = sorted(p for p in stored.keys() | wanted if stored.get(p) != wanted.get(p))
    if not differ:
        return
    first = "; ".join(
        f"{path}: {stored.get(path, 'nothing')} there, {wanted.get(path, 'nothing')} here"
        for path in differ[:_SHOWN]
    )
    raise InputError(
        f"{where} is of another network or optimizer, {len(differ)} of its arrays differ ({first}). "
        "Train with the config that made it, or in another folder."
    )


def encode_json(value: Mapping[str, Any], name: str) -> bytes:
    """JSON that comes back as it was (but that a tuple is a list then).

    Raises:
        InputError: something in it is not of JSON's types, or a key is not a string.
    """
    return json.dumps(_plain(value, name)).encode()


def _plain(value: Any, at: str) -> Any:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"{at} has the key {key!r}; keys of JSON are strings.")
        return {key: _plain(below, f"{at}/{key}") for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below, f"{at}/{index}") for index, below in enumerate(value)]
    if value is not None and not isinstance(value, str | int | float):
        raise InputError(
            f"{at} is {value!r} ({type(value).__name__}), which JSON cannot hold; "
            "give a string, a number, true, false, null, a list or a dict."
        )
    return value


def _kinds(flat: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    # A Python number has neither shape nor dtype of its own.
    arrays = {p: leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for p, leaf in flat.items()}
    return {path: (tuple(array.shape), np.dtype(array.dtype)) for path, array in arrays.items()}


def _flush(path: str) -> None:
    """Wait until a file, or the list of files in a folder, would survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
