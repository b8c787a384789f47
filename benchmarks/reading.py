"""How fast and in how much memory records are read, beside what could not be faster.

python -m benchmarks.reading

Writes records with latents of 81 frames at 480x832 (4.2 MB) into a temporary folder, reads all of them
in turn in every way below, several times, and compares the rates of each round. The machine has the
files in memory. The last line is one JSON object:

- `vs_read` (goal 0.8): `RecordSource` in shuffled order, every checksum verified, every record parsed,
  over plain `file.read()` of as many bytes at a time, from start to end, which no more than copies
  them into the same warm memory again and again. By one or by two threads of one process, whichever
  is faster (`vs_read_threads` has both; training draws with eight). Two need two idle cores.
- `vs_array_record` (goal 1): `RecordSource` with one thread over array_record's own data source with the
  same records, uncompressed and one a group (its best for random reads), shuffled, parsed the same way.
- `gcs_vs_ranged` (goal 0.8): `RecordSource` from a storage server on loopback, one thread, over plain
  ranged reads, neither verified nor parsed, by the fastest of google-cloud-storage
  (`download_as_bytes(start, end)`), gcsfs (`cat_file`) and tensorstore (`byte_range`). `gcs` has the
  records a second of each, with one thread and with four. What is measured is the client: there is no
  network between.
- `rss_gb` (goal < 2): the largest resident memory above what the process had with the data set open,
  reading all records twice with eight threads; and, as `rss_batches_gb`, through `Batches` as
  it is by default, with a consumer that is slower than the reader. `rss_gb` is the larger one.
"""

import argparse
import contextlib
import gc
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import ml_dtypes
import numpy as np

from omnihuman_jax import storage
from omnihuman_jax.data import records, tfrecord
from omnihuman_jax.data.source import RecordSource
from tests import cloud

SIZES = {
    "full": ((81, 480, 832), 120, 24),
    "tiny": ((5, 480, 832), 12, 6),
}  # clip, records, in the cloud
SHARDS = 4
IN_FLIGHT = 4


def example(number: int, size: tuple[int, int, int]) -> records.Example:
    """A clip of noise."""
    frames, height, width = size
    shape = ((frames + 3) // 4, height // 8, width // 8, 16)
    latents = np.random.default_rng(number).standard_normal(shape, np.float32)
    return records.Example(
        id=str(number),
        source="noise",
        text="",
        latents=latents.astype(ml_dtypes.bfloat16),
        reference=latents[:1].astype(ml_dtypes.bfloat16),
        text_features=None,
        audio_features=None,
        pose=None,
        fps=16.0,
        frames=frames,
        height=height,
        width=width,
        teaches=frozenset(["reference"]),
    )


def write(folder: str, size: tuple[int, int, int], count: int) -> None:
    """A data set of `count` records."""
    for shard in range(SHARDS):
        with records.ShardWriter(folder, "noise", shard, SHARDS) as out:
            for number in range(shard, count, SHARDS):
                out.write(example(number, size))
    info = records.info_from_shards(
        folder, "noise", SHARDS, {"vae": "noise"}, fps=16.0, channels=16
    )
    records.write_info(folder, info)


def draw(read: Callable[[int], Any], count: int, threads: int) -> None:
    """Read all in a shuffled order, and let go of each; every thread its part of them."""
    order = random.sample(range(count), count)

    def part(first: int) -> None:
        for number in order[first::threads]:
            read(number)

    if threads == 1:
        part(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, range(threads)))


def rates(ways: Mapping[Any, Callable[[], None]], rounds: int) -> dict[Any, list[float]]:
    """Times a second that each way ends, in every round; the first round only warms up."""
    found: dict[Any, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            gc.collect()
            start = time.perf_counter()
            way()
            if number:
                found[name].append(1 / (time.perf_counter() - start))
    return found


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the ratios of the rounds."""
    return round(median(a / b for a, b in zip(over, under, strict=True)), 3)


def local(folder: Path, rounds: int) -> dict[str, Any]:
    """Shuffled reading against sequential `read()`, and against array_record."""
    source = RecordSource(str(folder))
    lengths = [shard.bytes // shard.records for shard in source.info.shards]

    def sequential() -> None:
        for shard, length in zip(source.info.shards, lengths, strict=True):
            with open(folder / shard.file, "rb", buffering=0) as file:
                while file.read(length):
                    pass

    other = array_record(folder.parent / "noise.array_record", source)
    ways = {
        "read": sequential,
        "one": lambda: draw(source.__getitem__, len(source), 1),
        "two": lambda: draw(source.__getitem__, len(source), 2),
        "array_record": lambda: draw(lambda i: records.parse(other[i]), len(source), 1),
    }
    found = rates(ways, rounds)
    by_threads = [ratio(found[threads], found["read"]) for threads in ("one", "two")]
    return {
        "vs_read": max(by_threads),
        "vs_read_threads": by_threads,
        "vs_array_record": ratio(found["one"], found["array_record"]),
        "gigabytes_a_second": {
            name: round(median(each) * source.info.bytes / 1e9, 2) for name, each in found.items()
        },
    }


def array_record(path: Path, source: RecordSource) -> Any:
    """The same records in an array_record file, open."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for number in range(len(source)):
        writer.write(records.serialize(source[number]))
    writer.close()
    return ArrayRecordDataSource([str(path)])


def plain_readers(uri: str) -> dict[str, Callable[[str, int, int], Any]]:
    """Ranged reads as the libraries offer them: of an object, from, to."""
    import gcsfs
    import tensorstore

    bucket, _, prefix = uri.removeprefix(storage.GCS).partition("/")
    server = os.environ["STORAGE_EMULATOR_HOST"]
    system = gcsfs.GCSFileSystem(endpoint_url=server, token="anon")
    store = tensorstore.KvStore.open({"driver": "gcs", "bucket": bucket}).result()
    client = storage._client().bucket(bucket)
    return {
        "google-cloud-storage": lambda file, start, end: client.blob(
            f"{prefix}/{file}"
        ).download_as_bytes(start=start, end=end - 1),
        "gcsfs": lambda file, start, end: system.cat_file(
            f"{bucket}/{prefix}/{file}", start=start, end=end
        ),
        "tensorstore": lambda file, start, end: (
            store.read(f"{prefix}/{file}", byte_range=slice(start, end)).result().value
        ),
    }


def remote(size: tuple[int, int, int], count: int, rounds: int) -> dict[str, Any]:
    """Reading from a storage server, against plain ranged reads of the same frames."""
    with contextlib.contextmanager(cloud.cloud.__wrapped__)() as bucket:
        write(uri := f"{bucket}/noise", size, count)
        source = RecordSource(uri)
        places = []
        for shard in source.info.shards:
            for entry in tfrecord.read_index(f"{uri}/{shard.file}").entries:
                places.append((shard.file, entry["offset"], entry["offset"] + entry["length"]))
        places = [(file, int(start) - 12, int(end) + 4) for file, start, end in places]
        readers: dict[str, Callable[[int], Any]] = {"RecordSource": source.__getitem__}
        for name, read in plain_readers(uri).items():
            readers[name] = lambda i, read=read: read(*places[i])
        ways = {
            (name, threads): lambda read=read, threads=threads: draw(read, count, threads)
            for name, read in readers.items()
            for threads in (1, IN_FLIGHT)
        }
        found = rates(ways, rounds)
    fastest = max(
        (name for name in readers if name != "RecordSource"), key=lambda n: median(found[n, 1])
    )
    return {
        "gcs_vs_ranged": ratio(found["RecordSource", 1], found[fastest, 1]),
        "gcs_plain": fastest,
        "gcs": {
            name: [round(median(found[name, threads]) * count) for threads in (1, IN_FLIGHT)]
            for name in readers
        },
    }


def memory(folder: Path) -> dict[str, Any]:
    """Resident memory above the baseline, each in a process of its own."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        alone = pool.apply(peak, (str(folder), False))
        batches = pool.apply(peak, (str(folder), True))
    return {
        "rss_gb": round(max(alone, batches), 3),
        "rss_source_gb": round(alone, 3),
        "rss_batches_gb": round(batches, 3),
    }


def peak(folder: str, batches: bool) -> float:
    """Gigabytes above the baseline while all records are read, one by one or in batches."""
    from omnihuman_jax.data.pipeline import Batches, Layout

    source = RecordSource(folder)
    reading: Iterator[Any]
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forgets the largest so far
    before = resident("VmRSS")
    if batches:
        reading = Batches(source, Layout(text=None), batch=8)
        for _ in range(40):
            next(reading)
            time.sleep(0.1)
    else:
        for _ in range(2):
            draw(source.__getitem__, len(source), 8)
    return resident("VmHWM") - before


def resident(what: str) -> float:
    """A line of Linux's account of this process, in gigabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", help="where to work (default: the system's temporary folder)")
    args = parser.parse_args()
    size, count, in_cloud = SIZES[args.size]
    with tempfile.TemporaryDirectory(dir=args.folder) as root:
        folder = Path(root, "noise")
        write(str(folder), size, count)
        result: dict[str, Any] = {"benchmark": "reading", "size": args.size, "records": count}
        result |= {"record_mb": round(RecordSource(str(folder)).info.bytes / count / 1e6, 2)}
        for part in (
            lambda: local(folder, args.rounds),
            lambda: remote(size, in_cloud, args.rounds),
            lambda: memory(folder),
        ):
            result |= part()
            print(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
