"""The only place that looks through a whole data set: what is in it, and everything that is wrong with it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from omnihuman_jax import storage
from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.data import info as dataset
from omnihuman_jax.data import records, tfrecord
from omnihuman_jax.data.info import DatasetInfo
from omnihuman_jax.data.records import Example
from omnihuman_jax.data.source import RecordSource
from omnihuman_jax.errors import InputError

QUANTILES = {"min": 0.0, "10 %": 0.1, "median": 0.5, "90 %": 0.9, "max": 1.0}
ENCODERS = {
    "vae": "latents",
    "text_encoder": "text_features",
    "audio_encoder": "audio_features",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: in which file, and if it is about one record, its number and id."""

    file: str
    what: str
    record: int | None = None
    id: str | None = None

    def __str__(self) -> str:
        number = "" if self.record is None else f", record {self.record}"
        name = "" if self.id is None else f" ({self.id})"
        return f"{self.file}{number}{name}: {self.what}"


def validate(folder: str, *, progress: bool = False) -> list[Problem]:
    """Everything that is wrong with a data set: every byte of every shard is read.

    Checked are all checksums, that indexes are of their shards, that every clip's arrays fit its grid,
    that they are finite and of one width throughout, that ids are unique, that the indexes' buckets
    and flags are those of the records, and that `dataset.json` says what is there. Of a teacher's
    dump, whose records have a reader of their own, the files are checked and not the arrays.

    Args:
        progress: whether to show a bar.

    Raises:
        InputError: there is no data set at all, finished or not.
    """
    found = storage.files(folder, deep=False)
    problems: list[Problem] = []
    info: DatasetInfo | None = None
    try:
        info = dataset.read_info(folder)
    except InputError as why:
        if not any(map(dataset.is_shard, found)) and dataset.FILE not in found:
            raise
        problems.append(Problem(dataset.FILE, str(why)))
    listed = [shard.file for shard in info.shards] if info else []
    present = sorted(file for file in found if dataset.is_shard(file))
    if info:
        problems += [
            Problem(file, f"{dataset.FILE} does not list this shard")
            for file in present
            if file not in listed
        ]
    files = list(dict.fromkeys([*listed, *present]))
    total = sum(found.get(file, 0) for file in files)
    with (
        tqdm(total=total, unit="B", unit_scale=True, disable=not progress) as bar,
        ThreadPoolExecutor(dataset.IN_FLIGHT if storage.is_remote(folder) else 2) as threads,
    ):
        looks = [_Look(folder, file, found.get(file), info, bar.update) for file in files]
        list(threads.map(_Look.run, looks))
    problems += [problem for look in looks for problem in look.problems]
    if info:
        by_file = {look.file: look for look in looks}
        indexes = [by_file[file].index for file in listed]
        problems += [Problem(file, what) for file, what in dataset.disagreements(info, indexes)]
        looks = [by_file[file] for file in dict.fromkeys(listed)]
        problems += _fingerprint_problems(info, looks)
        problems += _repeated_ids(looks) + _other_widths(looks)
    return problems


@dataclass
class _Look:
    """One look through a shard."""

    folder: str
    file: str
    size: int | None
    info: DatasetInfo | None
    progress: Callable[[int], object]
    index: tfrecord.Index | None = None
    problems: list[Problem] = field(default_factory=list)
    ids: list[tuple[int, str]] = field(default_factory=list)
    widths: dict[str, tuple[tuple[int, ...], int, str]] = field(default_factory=dict)

    def run(self) -> None:
        if self.size is None:
            self._note("this shard is missing")
            return
        path = storage.join(self.folder, self.file)
        try:
            self.index = tfrecord.read_index(path)
            dataset.check_size(path, self.size, self.index)
        except InputError as why:
            self._note(str(why))
        try:
            reader = storage.Reader(path)
            for number, (data, entry) in enumerate(self._payloads(reader)):
                if data is not None:
                    self._check(number, data, entry)
            reader.close()
        except InputError as why:
            self._note(str(why))

    def _note(self, what: str, record: int | None = None, id: str | None = None) -> None:
        self.problems.append(Problem(self.file, what.rstrip("."), record, id))

    def _payloads(self, reader: storage.Reader) -> Iterator[tuple[Any, np.void | None]]:
        """Payload and index entry of every record; None for a payload that is damaged (noted)."""
        if self.index is None:
            for _, whole in tfrecord.frames(reader):
                yield whole, None
                self.progress(len(whole) + tfrecord.HEADER + tfrecord.FOOTER)
            return
        for number, entry in enumerate(self.index.entries):
            start, length = tfrecord.frame_place(entry)
            if start + length > reader.size:
                missing = len(self.index.entries) - number
                self._note(f"the last {missing} of {len(self.index.entries)} records are cut off")
                return
            data: np.ndarray | None = None
            try:
                data = tfrecord.payload(reader.view(start, length), entry)
            except InputError as why:
                self._note(str(why), number)
            yield data, entry
            self.progress(length)

    def _check(self, number: int, data: Any, entry: np.void | None) -> None:
        if self.info is None or self.info.kind != "clips":
            return
        try:
            example = records.parse(data)
        except InputError as why:
            self._note(str(why), number)
            return
        self.ids.append((number, example.id))
        for what in self._wrong(example, entry):
            self._note(what, number, example.id)
        for name in ("text_features", "audio_features"):
            array = getattr(example, name)
            if array is not None:
                self.widths.setdefault(name, (array.shape[1:], number, example.id))
                if self.widths[name][0] != array.shape[1:]:
                    self._note(_width(name, array.shape[1:], self.widths[name]), number, example.id)

    def _wrong(self, example: Example, entry: np.void | None) -> Iterator[str]:
        info, index = self.info, self.index
        assert info is not None
        if example.latents.shape[-1] != info.channels:
            yield f"its latents have {example.latents.shape[-1]} channels, not {info.channels}"
        if np.float32(example.fps) != np.float32(info.fps):
            yield f"it has {example.fps:g} frames a second, not {info.fps:g}"
        for name in records.ARRAYS:
            array = getattr(example, name)
            if array is not None and not _finite(array):
                yield f"its {name} are not all finite numbers"
        pose = example.pose
        if pose is not None and not ((pose[..., 2] >= 0) & (pose[..., 2] <= 1)).all():
            yield "its pose has confidences outside 0 to 1"
        if entry is None or index is None:
            return
        bucket, name = index.buckets[entry["bucket"]], records.bucket_name(example.grid)
        if bucket != name:
            yield f"it is of {name}, and the index says {bucket}"
        flags = {flag for i, flag in enumerate(index.flags) if int(entry["flags"]) >> i & 1}
        if flags != example.teaches:
            yield f"it teaches {sorted(example.teaches)}, and the index says {sorted(flags)}"


def _finite(array: np.ndarray) -> bool:
    """Whether no element is infinite or no number: these have all exponent bits set."""
    exponent = 0x7F80 if array.dtype == records.BFLOAT16 else 0x7C00
    return not ((array.view(np.uint16) & exponent) == exponent).any()


def _width(name: str, shape: tuple[int, ...], first: tuple[tuple[int, ...], int, str]) -> str:
    return f"its {name} are {list(shape)} wide, those of record {first[1]} ({first[2]}) {list(first[0])}"


def _other_widths(looks: Sequence[_Look]) -> list[Problem]:
    """Shards whose features are of another width than the first shard's."""
    problems: list[Problem] = []
    first: dict[str, tuple[str, Any]] = {}
    for look in looks:
        for name, seen in look.widths.items():
            file, known = first.setdefault(name, (look.file, seen))
            if known[0] != seen[0]:
                what = f"{_width(name, seen[0], known)} in {file}"
                problems.append(Problem(look.file, what, seen[1], seen[2]))
    return problems


def _repeated_ids(looks: Sequence[_Look]) -> list[Problem]:
    problems: list[Problem] = []
    seen: dict[str, tuple[str, int]] = {}
    for look in looks:
        for number, id in look.ids:
            file, first = seen.setdefault(id, (look.file, number))
            if (file, first) != (look.file, number):
                what = f"record {first} of {file} has the same id"
                problems.append(Problem(look.file, what, number, id))
    return problems


def _fingerprint_problems(info: DatasetInfo, looks: Sequence[_Look]) -> list[Problem]:
    if info.kind != "clips":
        return []
    there = {"latents"} | {name for look in looks for name in look.widths}
    return [
        Problem(
            dataset.FILE, f"it has no fingerprint of the {network}, and the records have its {name}"
        )
        for network, name in ENCODERS.items()
        if name in there and not info.fingerprints.get(network)
    ]


def inspect(folder: str, *, samples: int = 256) -> dict[str, Any]:
    """What is in a data set, as plain numbers and words. Only some records are read.

    Args:
        samples: records, spread evenly, whose scores are summed up.

    Raises:
        InputError: no data set, or one that cannot be read.
    """
    info = dataset.read_info(folder)
    summary: dict[str, Any] = {
        "uri": folder,
        "name": info.name,
        "kind": info.kind,
        "records": info.records,
        "shards": len(info.shards),
        "bytes": info.bytes,
        "fps": info.fps,
        "channels": info.channels,
        "buckets": dict(info.buckets),
        "conditions": {
            name: {"records": count, "share": round(count / max(info.records, 1), 4)}
            for name, count in info.conditions.items()
        },
        "fingerprints": dict(info.fingerprints),
        "settings": dict(info.settings),
    }
    if info.kind != "clips":
        return summary
    frames = sum(records.parse_bucket(name).frames * n for name, n in info.buckets.items())
    source = RecordSource(folder)
    step = max(1, math.ceil(len(source) / samples))
    numbers = range(0, len(source), step)
    with ThreadPoolExecutor(8) as threads:
        examples = threads.map(source.__getitem__, numbers)
        scores: dict[str, list[float]] = {}
        first: Example | None = None
        for example in examples:
            first = first or example
            for name, score in example.scores.items():
                scores.setdefault(name, []).append(score)
    return {
        **summary,
        "hours": round(frames / info.fps / 3600, 6),
        "sampled": len(numbers),
        "scores": {name: _quantiles(values) for name, values in sorted(scores.items())},
        "example": first and _described(first),
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    numbers = np.quantile(values, list(QUANTILES.values()))
    named = {name: float(f"{x:.4g}") for name, x in zip(QUANTILES, numbers, strict=True)}
    return {"records": len(values), **named}


def _described(example: Example) -> Mapping[str, str]:
    """Every field of an example in a few words."""

    def words(value: Any) -> str:
        if isinstance(value, np.ndarray):
            return f"{value.dtype}{list(value.shape)}"
        return "not there" if value is None else str(value)

    fields = {name: words(getattr(example, name)) for name in example.__dataclass_fields__}
    fields["teaches"] = ", ".join(name for name in STRENGTH if name in example.teaches)
    fields["scores"] = ", ".join(f"{k} {v:.4g}" for k, v in sorted(example.scores.items()))
    return fields
