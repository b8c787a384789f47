"""The only place that turns records into the batches a training step reads, with Grain.

    plan (which records)  ->  read, checked and put in place by threads  ->  prefetched  ->  Batch

Grain prefetches 500 elements unless told otherwise; an element here is a batch of many megabytes, so
how many are prefetched follows from a number of bytes.
"""

import math
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import google_crc32c
import grain
import ml_dtypes
import numpy as np
from jaxtyping import Bool, Int32, Int64

from omnihuman_jax.conditions import STRENGTH, Batch, Conditions
from omnihuman_jax.data.info import DatasetInfo
from omnihuman_jax.data.plan import Mix, Plan, Rows
from omnihuman_jax.data.records import Example, bucket_name
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid

MOST = 32  # batches prefetched: more would hide no longer pauses, and small clips would never end


@runtime_checkable
class Records(Protocol):
    """What is read from, by number: `data.source.RecordSource`, or a few examples in a test."""

    info: DatasetInfo
    buckets: tuple[Grid, ...]
    bucket: Int32[np.ndarray, "N"]
    teaches: Bool[np.ndarray, "N 4"]
    lengths: Int64[np.ndarray, "N"]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The sizes that the model reads; None for a condition that is not read at all.

    Attributes:
        channels: of a latent, C.
        reference: whether reference latents are read.
        text: tokens S, to which shorter texts are padded with zeros and longer ones cut; width E.
        audio: layers, and width A.
        joints: of a pose, the first ones of the record's; a record that has fewer has no pose.
        dtype: of everything but poses, which are float32. bfloat16 is what the records hold.
    """

    channels: int = 16
    reference: bool = True
    text: tuple[int, int] | None = (512, 4096)
    audio: tuple[int, int] | None = None
    joints: int | None = None
    dtype: Any = ml_dtypes.bfloat16

    def zeros(self, grid: Grid, rows: int) -> Batch:
        """A batch in which everything is zero and no condition present."""

        def zeros(shape: tuple[int, ...], dtype: Any) -> Any:
            return np.zeros((rows, *shape), dtype)

        fields = {name: zeros(size, self._type(name)) for name, size in self.shapes(grid).items()}
        return Batch(
            latents=zeros((*grid.latent_shape, self.channels), self.dtype),
            conditions=Conditions(**fields, present={name: zeros((), bool) for name in fields}),
            sample=zeros((), np.uint32),
        )

    def shapes(self, grid: Grid) -> dict[str, tuple[int, ...]]:
        """Shape of one clip's part of each condition that is read."""
        frames, size = grid.frames, (*grid.latent_shape[1:], self.channels)
        shapes = {
            "text": self.text,
            "reference": (1, *size) if self.reference else None,
            "audio": self.audio and (frames, *self.audio),
            "pose": self.joints and (frames, self.joints, 3),
        }
        return {name: shape for name, shape in shapes.items() if shape}

    def row_bytes(self, grid: Grid) -> int:
        """Memory of one row of a batch, padding and all."""
        sizes = [
            math.prod(shape) * self._type(name).itemsize
            for name, shape in self.shapes(grid).items()
        ]
        latents = math.prod(grid.latent_shape) * self.channels * np.dtype(self.dtype).itemsize
        return latents + sum(sizes) + len(sizes) + 4  # present, sample

    def _type(self, name: str) -> np.dtype:
        return np.dtype(np.float32 if name == "pose" else self.dtype)


def put(batch: Batch, row: int, example: Example, present: Bool[np.ndarray, "4"]) -> None:
    """Write an example into a row of a batch of zeros. What it lacks stays zero and not present.

    Raises:
        InputError: a part of the example does not have the size that the layout asks for.
    """
    _fit(example, "latents", example.latents, batch.latents.shape[1:])
    batch.latents[row] = example.latents
    for name, value in _parts(example).items():
        target = getattr(batch.conditions, name)
        if target is None or value is None or not present[STRENGTH.index(name)]:
            continue
        shape = target.shape[1:]
        if name == "pose":
            if value.shape[1] < shape[1]:
                continue
            value = value[:, : shape[1]]
        if name == "text":
            value = value[: shape[0]]
            shape = (len(value), *shape[1:])
        _fit(example, name, value, shape)
        target[row, : len(value)] = value
        batch.conditions.present[name][row] = True


def sample_number(identity: str, group: int, epoch: int) -> int:
    """A number for a clip as it is read this time: another one in each epoch, whoever reads it."""
    return google_crc32c.value(f"{identity}\n{group} {epoch}".encode())


@dataclass
class Achieved:
    """What was delivered, by counting it.

    Attributes:
        samples: rows of the batches.
        conditions: rows that had the condition.
        buckets: rows by size of clip, "FxHxW".
    """

    samples: int = 0
    conditions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STRENGTH, 0))
    buckets: dict[str, int] = field(default_factory=dict)

    def count(self, batch: Batch, grid: Grid) -> None:
        rows = len(batch.sample)
        self.samples += rows
        for name, present in batch.conditions.present.items():
            self.conditions[name] += int(np.sum(present))
        size = bucket_name(grid)
        self.buckets[size] = self.buckets.get(size, 0) + rows


class Batches:
    """An endless iterator over batches of numpy arrays, whose place can be saved and restored.

        batches = Batches(RecordSource(uri), Layout(audio=(13, 768)), batch=64, seed=0, mix=…)
        batch = next(batches)

    Of every batch of `batch` rows, host `host` of `hosts` reads its share, rows that follow each other.
    Batch n is the same whatever the number of hosts, so that a run may go on with another number.

    Args:
        mix: share of samples by what they teach (`plan.Plan`).
        fingerprints: of the encoders that the model was made with, by name ("vae", …).
        prefetch_bytes: memory for batches that are made before they are asked for and for the records
            being read; at least one batch is.
        threads: records that are read at the same time.

    Raises:
        InputError: rows that hosts cannot share evenly, an encoder that is not the one that made the
            records, what `plan.Plan` refuses; and, of `next`, a record that cannot be read or does not
            fit, which `next` reports again if it is called again.
    """

    def __init__(
        self,
        source: Records,
        layout: Layout,
        *,
        batch: int,
        seed: int = 0,
        mix: Mix | None = None,
        host: int = 0,
        hosts: int = 1,
        fingerprints: Mapping[str, str] | None = None,
        prefetch_bytes: int = 2**31,
        threads: int = 8,
    ) -> None:
        self._rows = _share(batch, host, hosts)
        _same_encoders(source.info, fingerprints or {})
        if source.info.channels != layout.channels:
            raise InputError(
                f"The model reads latents of {layout.channels} channels, the records of "
                f"{source.info.name!r} have {source.info.channels}: they are of another VAE."
            )
        self.plan = Plan(source.bucket, source.teaches, seed=seed, batch=batch, mix=mix)
        self.achieved = Achieved()
        self._source, self._layout = source, layout
        data = f"{source.info.name} {len(source)} {source.info.crc:08x}"
        self._identity = {**self.plan.identity(), "data": data}
        self._done = 0
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="read")
        rows = len(range(batch)[self._rows])
        largest = max(layout.row_bytes(source.buckets[b]) for b in self.plan.buckets)
        reading = threads * int(source.lengths.max())
        # Grain holds as many as it is told and, while it is waited for, one more.
        room = (prefetch_bytes - reading) // (rows * largest) - 1
        self.prefetched = min(max(room, 1), MOST)
        options = grain.ReadOptions(
            num_threads=min(threads, self.prefetched), prefetch_buffer_size=self.prefetched
        )
        batches = grain.MapDataset.source(_Endless(self.plan)).map(self._read)
        self._iterator = iter(batches.to_iter_dataset(options))

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        try:
            bucket, batch = next(self._iterator)
        except BaseException:
            # Grain has dropped the batch that failed but not counted it: stand before it again.
            self._go_to(self._done)
            raise
        self._done += 1
        self.achieved.count(batch, self._source.buckets[bucket])
        return batch

    def get_state(self) -> dict[str, Any]:
        """The place after the last batch delivered, as JSON; the same on every host."""
        return {"batches": self._done, "plan": self._identity}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a place; also from one saved by another number of hosts.

        Raises:
            InputError: it is a place in another data set or plan.
        """
        saved = state["plan"]
        differ = [name for name, value in self._identity.items() if saved.get(name) != value]
        if differ:
            changes = ", ".join(f"{n} was {saved.get(n)}, is {self._identity[n]}" for n in differ)
            raise InputError(
                f"The saved place in the data is of another order: {changes}. "
                "Give the same data set and settings, or start the data anew."
            )
        self._go_to(int(state["batches"]))

    def close(self) -> None:
        """End the threads; what was prefetched is lost."""
        self._iterator.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _go_to(self, n: int) -> None:
        self._done = n
        self._iterator.set_state({"next_index": n})

    def _read(self, rows: Rows) -> tuple[int, Batch]:
        rows = rows.part(self._rows)
        grid = self._source.buckets[rows.bucket]
        batch = self._layout.zeros(grid, len(rows.records))

        def read(row: int) -> None:
            example = self._source[int(rows.records[row])]
            put(batch, row, example, rows.present[row])
            which = int(rows.groups[row]), int(rows.epochs[row])
            batch.sample[row] = sample_number(example.id, *which)

        for _ in self._readers.map(read, range(len(rows.records))):
            pass
        return rows.bucket, batch


class _Endless:
    """A plan as Grain reads it: with a length."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, n: int) -> Rows:
        return self._plan[n]


def _share(batch: int, host: int, hosts: int) -> slice:
    if not 0 <= host < hosts:
        raise InputError(f"Hosts are numbered from 0 to {hosts - 1}, got {host}.")
    if batch % hosts:
        below = batch - batch % hosts
        sizes = " or ".join(str(size) for size in (below, below + hosts) if size)
        numbers = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
        raise InputError(
            f"{hosts} hosts cannot share a batch of {batch} evenly; use a batch of {sizes}, or "
            f"as many hosts as one of {numbers}."
        )
    rows = batch // hosts
    return slice(host * rows, (host + 1) * rows)


def _same_encoders(info: DatasetInfo, wanted: Mapping[str, str]) -> None:
    for name, ours in wanted.items():
        theirs = info.fingerprints.get(name)
        if theirs != ours:
            made = f"made with {theirs}" if theirs else "made without one"
            raise InputError(
                f"The {name} of the model is {ours}, and the records of {info.name!r} were {made}: "
                "run `omnihuman preprocess` again with this model, or train the model that made them."
            )


def _parts(example: Example) -> dict[str, np.ndarray | None]:
    return {
        "text": example.text_features,
        "reference": example.reference,
        "audio": example.audio_features,
        "pose": example.pose,
    }


def _fit(example: Example, name: str, value: np.ndarray, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise InputError(
            f"The {name} of record {example.id!r} ({example.source}) is "
            f"{'x'.join(map(str, value.shape))}, and {'x'.join(map(str, shape))} is read: "
            "the records were made for another model, or are damaged; try `omnihuman data validate`."
        )
