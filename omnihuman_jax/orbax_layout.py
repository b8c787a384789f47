"""How weights lie on disk: Orbax's layout of one zarr array a parameter, written a piece at a time.

Orbax itself saves only arrays that are whole in memory, and a stacked parameter of the 14B network has
11 GB. Its layout without OCDBT is plain: `blocks.ffn.kernel/.zarray` and one file of raw bytes a chunk,
beside three small files about the tree. So a converter can write it chunk by chunk, and any Orbax
restores it, each host its own shards.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore as ts

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError

PIECE = 64 << 20  # bytes read, checked and transposed at a time
CHUNK = 16 << 20  # bytes of a file: small enough that a host reads little besides its own shard
_HANDLER = "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler"


@dataclass(frozen=True)
class StoredArray:
    """A parameter on disk: chunks of equal shape, uncompressed, the last of an axis padded (zarr 2)."""

    path: str  # of the parameter, "/" between modules
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...]

    @property
    def folder(self) -> str:
        return self.path.replace("/", ".")

    @property
    def chunk_bytes(self) -> int:
        return math.prod(self.chunks) * self.dtype.itemsize

    def describe(self) -> bytes:
        """The content of `.zarray`."""
        # bfloat16 has no letter in zarr 2; this is tensorstore's name for it.
        code = self.dtype.str if self.dtype.kind != "V" else self.dtype.name
        fields = dict(
            chunks=self.chunks, compressor=None, dimension_separator=".", dtype=code,
            fill_value=None, filters=None, order="C", shape=self.shape, zarr_format=2,
        )  # fmt: skip
        return json.dumps(fields).encode()

    def files(
        self, start: Sequence[int], stop: Sequence[int]
    ) -> Iterator[tuple[str, tuple[slice, ...]]]:
        """The chunk files of the block from `start` to `stop`, and the part of the block in each.

        The block starts and ends at borders of chunks, or at the end of the array.
        """
        grid = [range(a // c, -(-b // c)) for a, b, c in zip(start, stop, self.chunks, strict=True)]
        for index in itertools.product(*grid):
            inside = zip(index, self.chunks, start, stop, strict=True)
            part = tuple(slice(i * c - a, min((i + 1) * c, b) - a) for i, c, a, b in inside)
            yield f"{self.folder}/{'.'.join(map(str, index)) or '0'}", part

    def encode(self, part: np.ndarray) -> Any:
        """The bytes of one chunk file."""
        padding = [(0, c - n) for c, n in zip(self.chunks, part.shape, strict=True)]
        whole = np.pad(part, padding) if any(after for _, after in padding) else part
        return np.ascontiguousarray(whole).reshape(-1).view(np.uint8).data


def piece_rows(shape: Sequence[int], itemsize: int, axis: int) -> int:
    """How many rows along `axis` make a piece of at most `PIECE` bytes, in pieces of equal size."""
    pieces = max(1, -(-math.prod(shape) * itemsize // PIECE))
    return max(1, -(-shape[axis] // pieces))


def chunked(
    path: str, shape: tuple[int, ...], dtype: np.dtype, *, stacked: bool, axis: int | None
) -> StoredArray:
    """A parameter whose chunks hold one layer if `stacked`, and of that at most a `CHUNK`.

    `axis` is the one along which it will be written, `piece_rows` at a time; None for all at once.
    """
    chunks = [max(1, size) for size in shape]
    if stacked:
        chunks[0] = 1
    if axis is not None:
        chunks[axis] = piece_rows(chunks, dtype.itemsize, axis)
    others = [other for other in range(int(stacked), len(chunks)) if other != axis]
    if others:
        longest = max(others, key=lambda other: chunks[other])
        parts = -(-math.prod(chunks) * dtype.itemsize // CHUNK)
        chunks[longest] = -(-chunks[longest] // parts)
    return StoredArray(path, shape, dtype, tuple(chunks))


def finish(folder: str, paths: Sequence[str]) -> None:
    """Write what makes a folder of arrays a checkpoint that Orbax takes for finished."""
    tree = {}
    for path in paths:
        keys = path.split("/")
        tree[repr(tuple(keys))] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],  # 2: key of a dict
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
    metadata = dict(
        tree_metadata=tree, use_ocdbt=False, use_zarr3=False,
        store_array_data_equal_to_fill_value=True, custom_metadata=None,
    )  # fmt: skip
    checkpoint = dict(
        item_handlers=_HANDLER, metrics={}, performance_metrics={}, custom_metadata={},
        init_timestamp_nsecs=0, commit_timestamp_nsecs=1,
    )  # fmt: skip
    storage.write_bytes(storage.join(folder, "_METADATA"), json.dumps(metadata).encode())
    storage.write_bytes(
        storage.join(folder, "_CHECKPOINT_METADATA"), json.dumps(checkpoint).encode()
    )
    storage.write_bytes(storage.join(folder, "commit_success.txt"), b"written by omnihuman_jax\n")


def _metadata(folder: str) -> Any:
    path = storage.join(folder, "_METADATA")
    if not storage.is_file(path):
        raise InputError(
            f"{folder} holds no finished checkpoint (no _METADATA); convert or save it again."
        )
    return json.loads(storage.read_bytes(path))


def stored_paths(folder: str) -> list[str]:
    """The parameters that the checkpoint in `folder` holds, whoever wrote it.

    Raises:
        InputError: there is no finished checkpoint.
    """
    entries = _metadata(folder)["tree_metadata"].values()
    return ["/".join(str(key["key"]) for key in entry["key_metadata"]) for entry in entries]


def open_arrays(folder: str) -> Mapping[str, Any]:
    """Every parameter as a tensorstore: `arrays[path][3].read().result()` reads no more than that row.

    Raises:
        InputError: there is no finished checkpoint.
    """
    metadata = _metadata(folder)
    if storage.is_remote(folder):
        bucket, _, name = folder.removeprefix(storage.GCS).partition("/")
        base: dict[str, Any] = {"driver": "gcs", "bucket": bucket, "path": name.rstrip("/") + "/"}
    else:
        base = {"driver": "file", "path": folder.rstrip("/") + "/"}
    driver = "zarr3" if metadata["use_zarr3"] else "zarr"
    opened = {}
    for path in stored_paths(folder):
        name = path.replace("/", ".") + "/"
        if metadata["use_ocdbt"]:
            kvstore = {"driver": "ocdbt", "base": base, "path": name}
        else:
            kvstore = {**base, "path": base["path"] + name}
        opened[path] = ts.open({"driver": driver, "kvstore": kvstore}, open=True, read=True)
    return {path: array.result() for path, array in opened.items()}
