"""The only place that reads records at random: the data source that Grain draws from."""

import bisect
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64

from omnihuman_jax import storage
from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.data import info as dataset
from omnihuman_jax.data import records, tfrecord
from omnihuman_jax.data.records import Example
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid

OPEN_FILES = 128  # shards kept open; a process may usually have 1024


class RecordSource:
    """All clips of a data set by number, in the order of its shards. Any thread may read any.

    Opening reads `dataset.json` and every index, and checks that they agree with each other and with
    the sizes of the shards. Every record is verified when it is read. A shard that is replaced after
    that is an error, never a mixture of old and new.

    Attributes:
        info: what the data set says of itself.
        buckets: the sizes of clip that occur.
        bucket: place in `buckets` of every record's size.
        teaches: whether a record may train each condition, in the order of STRENGTH.
        lengths: bytes of every record.

    Raises:
        InputError: no data set of clips, an unfinished or damaged one, or a shard that is missing, cut
            short, or not the one its index or `dataset.json` describes.
    """

    info: dataset.DatasetInfo
    buckets: tuple[Grid, ...]
    bucket: Int32[np.ndarray, "N"]
    teaches: Bool[np.ndarray, "N 4"]
    lengths: Int64[np.ndarray, "N"]

    KIND = "clips"

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.info = dataset.read_info(uri, kind=self.KIND)
        files = [shard.file for shard in self.info.shards]
        self._found = storage.identities(uri, deep=False)
        indexes = dataset.read_indexes(uri, files)
        dataset.check_agreement(uri, self.info, indexes)
        self._starts = [0, *itertools.accumulate(len(index.entries) for index in indexes)]
        self._entries = np.concatenate(
            [np.zeros(0, tfrecord.ENTRY), *(index.entries for index in indexes)]
        )
        self._describe(indexes)
        self._forget()

    def _describe(self, indexes: list[tfrecord.Index]) -> None:
        names = sorted({name for index in indexes for name in index.buckets})
        grids = {name: records.parse_bucket(name) for name in names}
        self.buckets = tuple(sorted(grids.values()))
        places = {name: self.buckets.index(grid) for name, grid in grids.items()}
        self.bucket = np.concatenate(
            [
                np.zeros(0, np.int32),
                *(
                    np.array([places[name] for name in index.buckets], np.int32)[
                        index.entries["bucket"]
                    ]
                    for index in indexes
                    if len(index.entries)
                ),
            ]
        )
        flags = self._entries["flags"].astype(np.int64)
        self.teaches = (flags[:, None] >> np.arange(len(STRENGTH))[None] & 1).astype(bool)
        self.lengths = self._entries["length"].astype(np.int64)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: Any) -> Example:
        """Raises: InputError: the record is damaged or was replaced; ConnectionError: out of reach."""
        return self._read(index, records.parse)

    def _read(self, index: Any, parse: Callable[[np.ndarray], Any]) -> Any:
        number = range(len(self))[int(index)]  # IndexError, and negative ones as in a list
        shard = bisect.bisect_right(self._starts, number) - 1
        entry = self._entries[number]
        frame = self._reader(shard).view(*tfrecord.frame_place(entry))
        try:
            return parse(tfrecord.payload(frame, entry))
        except InputError as why:
            place = f"Record {number - self._starts[shard]} of {self._path(shard)}"
            raise InputError(f"{place} cannot be used: {why}.") from why

    def _path(self, shard: int) -> str:
        return storage.join(self.uri, self.info.shards[shard].file)

    def _reader(self, shard: int) -> storage.Reader:
        """The shard, open. One that is pushed out closes when no thread reads from it any more."""
        with self._lock:
            reader = self._open.get(shard)
            if reader is None:
                file = self.info.shards[shard].file
                reader = storage.Reader(self._path(shard), pinned=self._found[file])
                self._open[shard] = reader
                if len(self._open) > OPEN_FILES:
                    self._open.popitem(last=False)
            self._open.move_to_end(shard)
            return reader

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[int, storage.Reader] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_open")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        """The same for the same records wherever they lie: Grain compares it when it restores."""
        return f"{type(self).__name__}({self.info.name!r}, records={len(self)}, crc={self.info.crc:#010x})"
