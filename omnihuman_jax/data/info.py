"""The only place that knows `dataset.json`: which shards a data set has, and what is in them."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from omnihuman_jax import storage
from omnihuman_jax.data import tfrecord
from omnihuman_jax.errors import InputError

FILE = "dataset.json"
SCHEMA = 1  # of dataset.json and of the records
KINDS = {"clips": "clips to train on", "teacher": "a dump of a teacher's outputs"}
IN_FLIGHT = 16  # indexes read at a time


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file: its name, records and bytes, and a number that changes with its records."""

    file: str
    records: int
    bytes: int
    crc: int


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What `dataset.json` says. It is written last: where it is missing, preprocessing did not end.

    Attributes:
        kind: "clips" or "teacher".
        records: of all shards.
        buckets: records of every size of clip, "FxHxW".
        conditions: records that may train each condition.
        fps: frames a second of all clips.
        channels: of a latent.
        fingerprints: what tells the networks that made the records: "vae", "text_encoder", ….
        settings: all that the records depend on besides, for people.
    """

    schema: int = SCHEMA
    name: str
    kind: str = "clips"
    shards: tuple[Shard, ...]
    records: int
    buckets: Mapping[str, int]
    conditions: Mapping[str, int]
    fps: float
    channels: int
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def crc(self) -> int:
        """A number that differs between data sets whose records or their order differ."""
        return tfrecord.masked_crc("".join(f"{s.records} {s.crc}\n" for s in self.shards).encode())


def write_info(folder: str, info: DatasetInfo) -> None:
    """Write `dataset.json`; with it the data set is whole."""
    text = json.dumps(dataclasses.asdict(info), indent=1, ensure_ascii=False) + "\n"
    storage.write_bytes(storage.join(folder, FILE), text.encode())


def read_info(folder: str, *, kind: str | None = None) -> DatasetInfo:
    """What the data set in `folder` says of itself.

    Args:
        kind: the kind that the caller can read; None for any.

    Raises:
        InputError: no data set, an unfinished one, one of another kind or from the future.
    """
    path = storage.join(folder, FILE)
    if not storage.is_file(path):
        shards = [name for name in storage.files(folder, deep=False) if is_shard(name)]
        if shards:
            raise InputError(
                f"{folder} has {len(shards)} shards and no {FILE}: preprocessing did not finish. "
                "Run it again; it goes on where it stopped."
            )
        raise InputError(f"There is no data set in {folder}: it has no {FILE}.")
    try:
        stored = json.loads(storage.read_bytes(path))
        schema = stored.get("schema")
    except (AttributeError, UnicodeDecodeError, json.JSONDecodeError) as why:
        raise InputError(f"{path} is damaged: it is not the JSON of a data set.") from why
    if type(schema) is not int or schema < 1:
        raise InputError(f"{path} has no schema number: it is not of omnihuman_jax, or damaged.")
    if schema > SCHEMA:
        raise InputError(
            f"{path} has schema {schema}, this program reads {SCHEMA}; update omnihuman_jax."
        )
    info = _parse(stored, path)
    if kind is not None and info.kind != kind:
        raise InputError(f"{folder} holds {KINDS[info.kind]}; {KINDS[kind]} are needed.")
    return info


def _parse(stored: dict[str, Any], path: str) -> DatasetInfo:
    fields = {f.name for f in dataclasses.fields(DatasetInfo)}
    if stored.keys() != fields:
        wrong = ", ".join(sorted(stored.keys() ^ fields))
        raise InputError(f"{path} is damaged: fields missing or unknown: {wrong}.")
    problem = _mistyped(stored)
    if problem:
        raise InputError(f"{path} is damaged: {problem}.")
    shards = tuple(Shard(**shard) for shard in stored["shards"])
    return DatasetInfo(**{**stored, "shards": shards})


def _mistyped(stored: dict[str, Any]) -> str:
    """Which field is of the wrong type, or cannot be; "" if none."""

    def whole(value: Any) -> bool:
        return type(value) is int and value >= 0

    def counts(value: Any) -> bool:
        return isinstance(value, dict) and all(map(whole, value.values()))

    def shard(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and value.keys() == {f.name for f in dataclasses.fields(Shard)}
            and isinstance(value["file"], str)
            and is_shard(value["file"])
            and "/" not in value["file"]
            and all(whole(number) for name, number in value.items() if name != "file")
        )

    fps, prints = stored["fps"], stored["fingerprints"]
    good = {
        "name": isinstance(stored["name"], str),
        "kind": isinstance(stored["kind"], str) and stored["kind"] in KINDS,
        "records": whole(stored["records"]),
        "channels": whole(stored["channels"]),
        "fps": isinstance(fps, int | float) and 0 < fps < math.inf,
        "shards": isinstance(stored["shards"], list) and all(map(shard, stored["shards"])),
        "settings": isinstance(stored["settings"], dict),
        "buckets": counts(stored["buckets"]),
        "conditions": counts(stored["conditions"]),
        "fingerprints": isinstance(prints, dict)
        and all(isinstance(value, str) for value in prints.values()),
    }
    return next((f"its {name} cannot be" for name, yes in good.items() if not yes), "")


def is_shard(name: str) -> bool:
    """Whether a file name is a shard's."""
    return name.endswith(".tfrecord") and not name.startswith(".")


def info_from_shards(
    folder: str,
    name: str,
    shards: int,
    fingerprints: Mapping[str, str],
    *,
    fps: float,
    channels: int,
    kind: str = "clips",
    settings: Mapping[str, Any] | None = None,
) -> DatasetInfo:
    """What `dataset.json` will say of the shards in `folder`, from their indexes alone.

    Raises:
        InputError: a shard or its index is missing or damaged, or the shard is not as long as its
            index says.
    """
    files = [tfrecord.shard_file(name, i, shards) for i in range(shards)]
    indexes = read_indexes(folder, files)
    return DatasetInfo(
        name=name,
        kind=kind,
        shards=tuple(
            Shard(file=file, records=len(index.entries), bytes=index.size, crc=index.crc)
            for file, index in zip(files, indexes, strict=True)
        ),
        **_counts(indexes),
        fps=fps,
        channels=channels,
        fingerprints=dict(fingerprints),
        settings=dict(settings or {}),
    )


def check_agreement(folder: str, info: DatasetInfo, indexes: list[tfrecord.Index]) -> None:
    """Check what `dataset.json` says against the indexes of its shards.

    Raises:
        InputError: for the first thing in which they differ.
    """
    for file, what in disagreements(info, indexes):
        raise InputError(f"{storage.join(folder, FILE)} disagrees with its shards: {file}: {what}.")


def disagreements(
    info: DatasetInfo, indexes: Sequence[tfrecord.Index | None]
) -> Iterator[tuple[str, str]]:
    """Everything in which `dataset.json` differs from the indexes of its shards: file, what.

    Args:
        indexes: one a shard; None for one that cannot be read, after which totals are not compared.
    """
    seen: dict[int, str] = {}
    for shard, index in zip(info.shards, indexes, strict=True):
        if shard.file in seen.values():
            yield shard.file, "it is listed twice"
        elif shard.records and shard.crc in seen:
            yield shard.file, f"it is the same shard as {seen[shard.crc]}"
        seen.setdefault(shard.crc, shard.file)
        found = index and (len(index.entries), index.size, index.crc)
        if found and found != (shard.records, shard.bytes, shard.crc):
            yield (
                shard.file,
                f"its index has {found[0]} records, {found[1]} bytes, checksum {found[2]:#x}, and "
                f"{FILE} says {shard.records}, {shard.bytes}, {shard.crc:#x}",
            )
    whole = [index for index in indexes if index is not None]
    if len(whole) < len(indexes):
        return
    for name, counted in _counts(whole).items():
        said = getattr(info, name)
        if said != counted:
            yield FILE, f"its {name} are {said}, and the shards have {counted}"


def _counts(indexes: Sequence[tfrecord.Index]) -> dict[str, Any]:
    """`records`, `buckets` and `conditions` of all shards together."""
    buckets: Counter[str] = Counter()
    conditions: Counter[str] = Counter()
    for index in indexes:
        buckets.update(index.bucket_counts())
        conditions.update(index.flag_counts())
    records = sum(len(index.entries) for index in indexes)
    return {
        "records": records,
        "buckets": dict(sorted(buckets.items())),
        "conditions": dict(conditions),
    }


def read_indexes(folder: str, files: list[str]) -> list[tfrecord.Index]:
    """The index of each of the shards `files`, checked against the shard's size.

    Raises:
        InputError: for the first shard that is missing, unfinished, damaged or cut short.
    """
    found = storage.files(folder, deep=False)

    def read(file: str) -> tfrecord.Index:
        path = storage.join(folder, file)
        if file not in found:
            raise InputError(f"The shard {path} is missing. Copy it again or run preprocess again.")
        index = tfrecord.read_index(path)
        check_size(path, found[file], index)
        return index

    with ThreadPoolExecutor(IN_FLIGHT if storage.is_remote(folder) else 1) as threads:
        return list(threads.map(read, files))


def check_size(path: str, size: int, index: tfrecord.Index) -> None:
    """Raises: InputError: the shard does not have the bytes that its index says."""
    if size < index.size:
        raise InputError(
            f"{path} is cut short: {size} bytes of {index.size}. Copy it again, with its index."
        )
    if size > index.size:
        raise InputError(
            f"{path} has {size} bytes, its index is of a shard of {index.size}: the index is of "
            "another version of the shard. Copy both again."
        )
