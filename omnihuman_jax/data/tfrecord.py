"""The only place that knows how a shard lies on disk: TFRecord framing, and the `.index` beside it.

A TFRecord file is a row of frames: length (8 bytes, little-endian), its masked crc32c (4), payload,
the payload's masked crc32c (4). It has no index; ours stands in a file of its own, so that any
program that reads TFRecord reads our shards, and ours reads any record in one ranged read:

    one line of JSON | one ENTRY a record, little-endian | masked crc32c of all before (4 bytes)

What a payload means is not known here.
"""

import contextlib
import ctypes
import importlib
import json
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError

VERSION = 1  # of the index
HEADER, FOOTER = 12, 4  # bytes of a frame around its payload
ENTRY = np.dtype(
    [
        ("offset", "<i8"),  # of the payload
        ("length", "<i8"),
        ("crc", "<u4"),  # masked, of the payload
        ("flags", "<u4"),  # bit i: flag i of the header
        ("bucket", "<u4"),  # place in the header's list
    ]
)


def _unlocked() -> Any:
    """crc32c of the library inside google_crc32c, called so that other threads go on meanwhile."""
    try:
        extension = importlib.import_module("google_crc32c._crc32c")
        extend = ctypes.CDLL(extension.__file__).crc32c_extend
    except (AttributeError, ImportError, OSError):  # it is a build without the library
        return None
    extend.argtypes = [ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t]
    extend.restype = ctypes.c_uint32
    return extend


_extend = _unlocked()


def masked_crc(data: Any) -> int:
    """crc32c of bytes as TFRecord stores it: rotated, so that a crc of crcs stays a good check."""
    view = data if isinstance(data, bytes) or not len(data) else np.frombuffer(data, np.uint8)
    if _extend is not None and len(data) > 1 << 14:
        crc = _extend(0, np.frombuffer(view, np.uint8).ctypes.data, len(view))
    else:
        crc = google_crc32c.value(view)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def shard_file(name: str, shard: int, shards: int) -> str:
    """The file name of a shard: "name-00012-of-00100.tfrecord".

    Raises:
        InputError: no such shard, or a name that is no file name.
    """
    if not re.fullmatch(r"[\w][\w.-]*", name):
        raise InputError(f"A data set's name has letters, digits and . _ - only, got {name!r}.")
    if not 0 <= shard < shards <= 99_999:
        raise InputError(f"There is no shard {shard} of {shards}.")
    return f"{name}-{shard:05d}-of-{shards:05d}.tfrecord"


def index_path(shard: str) -> str:
    """Where the index of a shard (a path or name that ends in .tfrecord) is."""
    return shard.removesuffix(".tfrecord") + ".index"


@dataclass(frozen=True)
class Index:
    """Where the records of a shard are, and what is needed to choose among them.

    Attributes:
        size: bytes of the shard.
        entries: one ENTRY a record, in the order of the shard.
        buckets: names that the entries' `bucket` counts into.
        flags: names of the bits of the entries' `flags`.
    """

    size: int
    entries: np.ndarray
    buckets: tuple[str, ...]
    flags: tuple[str, ...]

    @property
    def crc(self) -> int:
        """A number that differs between shards whose records differ."""
        return masked_crc(self.serialize()[:-4])

    def bucket_counts(self) -> dict[str, int]:
        """Records of every bucket."""
        counts = np.bincount(self.entries["bucket"], minlength=len(self.buckets))
        return dict(zip(self.buckets, counts.tolist(), strict=True))

    def flag_counts(self) -> dict[str, int]:
        """Records that have each flag."""
        flags = self.entries["flags"]
        return {name: int((flags >> i & 1).sum()) for i, name in enumerate(self.flags)}

    def serialize(self) -> bytes:
        """As it is in the file: the same index, the same bytes."""
        header = {
            "index": VERSION,
            "bytes": self.size,
            "records": len(self.entries),
            "buckets": self.buckets,
            "flags": self.flags,
        }
        body = json.dumps(header).encode() + b"\n" + self.entries.tobytes()
        return body + struct.pack("<I", masked_crc(body))

    @classmethod
    def parse(cls, data: bytes, path: str) -> "Index":
        """The index in `data`; `path` is for messages.

        Raises:
            InputError: it is damaged, of a version from the future, or says what cannot be.
        """
        if len(data) < 4 or masked_crc(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            raise InputError(f"{path} is damaged: its checksum is wrong. Write the shard again.")
        line, _, rest = data[:-4].partition(b"\n")
        try:
            header = json.loads(line)
            if header["index"] != VERSION:
                raise InputError(
                    f"{path} is an index of version {header['index']}, this program reads {VERSION}; "
                    "update omnihuman_jax."
                )
            size, names = header["bytes"], (header["buckets"], header["flags"])
            if type(size) is not int or not all(type(n) is str for part in names for n in part):
                raise TypeError
            index = cls(size, np.frombuffer(rest, ENTRY), tuple(names[0]), tuple(names[1]))
            sound = index._is_sound(header["records"])
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as why:
            raise InputError(f"{path} is not the index of a shard.") from why
        if not sound:
            raise InputError(f"{path} contradicts itself. Write the shard again.")
        return index

    def _is_sound(self, records: int) -> bool:
        """Whether the frames fill the shard without a gap, and every number is in its range."""
        e = self.entries
        ends = np.cumsum(e["length"] + HEADER + FOOTER)
        return (
            len(e) == records
            and bool((e["length"] >= 0).all())
            and self.size == (int(ends[-1]) if len(e) else 0)
            and bool((e["offset"] == ends - e["length"] - FOOTER).all())
            and bool((e["bucket"] < max(len(self.buckets), 1)).all())
            and bool((e["flags"] < 1 << len(self.flags)).all())
        )


def read_index(shard: str) -> Index:
    """The index of a shard.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = index_path(shard)
    return Index.parse(storage.read_bytes(path), path)


class Writer:
    """A shard, written record by record.

        with Writer("gs://bucket/clips-00000-of-00001.tfrecord", flags=["text"]) as out:
            out.write(payload, bucket="81x480x832", flags={"text"})

    When the block ends well the shard takes its name and then its index does; after an error there is
    neither, and a shard of that name from before is still whole. The same records make the same bytes.
    """

    def __init__(self, path: str, *, flags: Sequence[str] = ()) -> None:
        if not path.endswith(".tfrecord"):
            raise InputError(f"A shard's name ends in .tfrecord, got {path}.")
        self.path = path
        self.index: Index | None = None  # when written
        self._flags = tuple(flags)
        self._buckets: dict[str, int] = {}
        self._entries: list[tuple[int, int, int, int, int]] = []
        self._end = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Writer":
        self._file: BinaryIO = self._stack.enter_context(storage.writing(self.path))
        return self

    def write(self, payload: bytes, *, bucket: str = "", flags: Iterable[str] = ()) -> None:
        """Append one record."""
        bits = sum(1 << self._flags.index(name) for name in set(flags))
        crc = masked_crc(payload)
        self._file.write(_header(len(payload)))
        self._file.write(payload)
        self._file.write(struct.pack("<I", crc))
        place = self._buckets.setdefault(bucket, len(self._buckets))
        self._entries.append((self._end + HEADER, len(payload), crc, bits, place))
        self._end += HEADER + len(payload) + FOOTER

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is None:
            # Should the machine stop between the two files, a shard without an index is unfinished;
            # a new shard beside an old index would have to be told apart by its reader.
            storage.remove(index_path(self.path))
        self._stack.__exit__(kind, *error)
        if kind is not None:
            return
        entries = np.array(self._entries, ENTRY)
        index = Index(self._end, entries, tuple(self._buckets), self._flags)
        try:
            storage.write_bytes(index_path(self.path), index.serialize())
        except BaseException:
            storage.remove(self.path)
            raise
        self.index = index


def frame_place(entry: np.void) -> tuple[int, int]:
    """Offset and length of the frame around a record."""
    offset, length, *_ = entry.item()
    return offset - HEADER, HEADER + length + FOOTER


def payload(frame: np.ndarray, entry: np.void) -> np.ndarray:
    """The payload of a frame that was read where its index entry says; a view.

    Raises:
        InputError: the frame is not the one that was indexed, or a bit of it has changed.
    """
    _, length, crc, *_ = entry.item()
    data = frame[HEADER:-FOOTER]
    if frame[:HEADER].tobytes() != _header(length) or frame[-FOOTER:].tobytes() != struct.pack(
        "<I", crc
    ):
        raise InputError(
            "it is not what the index beside the shard describes: the shard was written again or is "
            "damaged; try `omnihuman data validate`"
        )
    if masked_crc(data) != crc:
        raise InputError("it is damaged, its checksum is wrong; copy the shard again")
    return data


def _header(length: int) -> bytes:
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", masked_crc(packed))


def frames(reader: storage.Reader) -> Iterator[tuple[int, bytes]]:
    """Every record of a shard without its index: offset of the payload, payload; checksums verified.

    Raises:
        InputError: at the first damaged frame.
    """
    at = 0
    while at < reader.size:
        head = reader.read(at, HEADER)
        length, crc = struct.unpack("<QI", head)
        if masked_crc(head[:8]) != crc:
            raise InputError(f"{reader.path} is damaged at byte {at}: no record starts there.")
        data = reader.read(at + HEADER, length + FOOTER)
        if masked_crc(data[:-FOOTER]) != struct.unpack("<I", data[-FOOTER:])[0]:
            raise InputError(f"{reader.path} is damaged: the record at byte {at} has changed.")
        yield at + HEADER, data[:-FOOTER]
        at += HEADER + length + FOOTER
