"""Records are read at random, whole and verified, from disk and cloud; damage is an error that says where."""

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grain
import numpy as np
import pytest

from omnihuman_jax import storage
from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.data import info as dataset
from omnihuman_jax.data import source as source_module
from omnihuman_jax.data import tfrecord
from omnihuman_jax.data.info import Shard
from omnihuman_jax.data.records import bucket_name, read_info, serialize
from omnihuman_jax.data.source import RecordSource
from omnihuman_jax.errors import InputError
from tests.cloud import cloud
from tests.data import datasets
from tests.data.datasets import example, flip, same, shard
from tests.faults import Faults, faults

__all__ = ["cloud", "faults"]  # fixtures


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    datasets.write(str(folder))
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "t"))


@pytest.fixture(params=["disk", "cloud"])
def uri(request: pytest.FixtureRequest, whole: Path) -> str:
    """The same data set on disk and in the cloud."""
    if request.param == "disk":
        return str(whole)
    there = storage.join(request.getfixturevalue("cloud"), "whole")
    datasets.copy(str(whole), there)
    return there


def copied(source: RecordSource) -> RecordSource:
    """As another process gets it."""
    return pickle.loads(pickle.dumps(source))  # noqa: S301


def test_every_record_is_read_by_its_number(uri: str):
    source = RecordSource(uri)
    assert len(source) == 12
    for number in [5, 0, 11, 3, np.int64(7), -1]:
        assert same(source[number], example(int(number) % 12))
    for number in (12, -13):
        with pytest.raises(IndexError):
            source[number]


def test_what_is_needed_to_plan_is_known_without_reading(uri: str):
    source = RecordSource(uri)
    for number in range(12):
        one = example(number)
        assert source.buckets[source.bucket[number]] == one.grid
        assert {
            n for n, t in zip(STRENGTH, source.teaches[number], strict=True) if t
        } == one.teaches
        assert source.lengths[number] == len(serialize(one))
    assert source.info.buckets == {"5x16x32": 6, "9x32x32": 6}
    assert source.info.conditions == {"text": 12, "reference": 12, "audio": 8, "pose": 4}


def test_any_thread_and_a_copy_in_another_process_read_the_same(uri: str, monkeypatch):
    monkeypatch.setattr(source_module, "OPEN_FILES", 1)  # files close while others read
    source = copied(RecordSource(uri))
    numbers = np.random.default_rng(0).integers(0, 12, 200)
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(source.__getitem__, numbers))
    assert len(source._open) == 1
    assert all(same(one, example(int(n))) for one, n in zip(read, numbers, strict=True))


def test_grain_shuffles_it(whole: Path):
    source = RecordSource(str(whole))
    shuffled = grain.MapDataset.source(source).shuffle(seed=1)
    ids = [shuffled[i].id for i in range(12)]
    assert sorted(ids) == sorted(example(i).id for i in range(12)) and ids != sorted(ids)


def test_its_name_is_that_of_its_records_wherever_they_are(whole: Path, cloud: str, tmp_path: Path):
    datasets.copy(str(whole), f"{cloud}/elsewhere")
    assert repr(RecordSource(f"{cloud}/elsewhere")) == repr(RecordSource(str(whole)))
    datasets.write(str(tmp_path), records_=9)
    assert repr(RecordSource(str(tmp_path))) != repr(RecordSource(str(whole)))


def test_records_stay_what_they_were_while_others_are_read(whole: Path):
    """Memory is used again only when nothing refers to it."""
    datasets.write(folder := str(whole / "large"), records_=4, shards=1, scale=32)
    source = RecordSource(folder)
    assert source.lengths.max() > storage.REUSED
    latents = [source[i].latents[1:] for i in range(4) for _ in range(3)]
    for i, array in enumerate(latents):
        np.testing.assert_array_equal(array, example(i // 3, scale=32).latents[1:])
    places = {array.ctypes.data for array in latents[-3:]}
    assert len(places) == 3
    del latents, array
    assert source[3].latents[1:].ctypes.data in places


def test_the_cloud_holds_the_bytes_that_the_disk_does(whole: Path, cloud: str):
    there = f"{cloud}/written"
    datasets.write(there)
    names = storage.files(str(whole), deep=False)
    assert storage.files(there) == names
    for name in names:
        assert storage.read_bytes(f"{there}/{name}") == (whole / name).read_bytes()


def edit(folder: Path, **changes: object) -> None:
    """Change what dataset.json says."""
    path = folder / dataset.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder: Path, *, index: bool) -> None:
    """Shard 1 written again with the same sizes and other content, with or without its index."""
    with tfrecord.Writer(str(folder / "new.tfrecord"), flags=STRENGTH) as out:
        for number in range(4, 8):
            one = example(number, scores={"brightness": 1.0, "sync_c": 1.0})
            out.write(serialize(one), bucket=bucket_name(one.grid), flags=one.teaches)
    (folder / "new.tfrecord").replace(folder / shard(1))
    (folder / "new.index").replace(folder / tfrecord.index_path(shard(1 if index else 9)))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"1")


def list_twice(folder: Path) -> None:
    shards = [dataclasses.asdict(s) for s in read_info(str(folder)).shards]
    edit(folder, shards=[*shards, shards[0]], records=16)


def twin(folder: Path) -> None:
    """Shard 2 is a copy of shard 0, with its index and rightly listed."""
    for end in (".tfrecord", ".index"):
        source = (folder / shard(0)).with_suffix(end)
        shutil.copy(source, (folder / shard(2)).with_suffix(end))
    info = read_info(str(folder))
    shards = [*info.shards[:2], dataclasses.replace(info.shards[0], file=shard(2))]
    edit(folder, shards=[dataclasses.asdict(s) for s in shards])


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda f: (f / shard(1)).unlink(), f"{shard(1)} is missing"),
        (lambda f: (f / tfrecord.index_path(shard(1))).unlink(), "t-00001-of-00003.index"),
        (lambda f: cut(f / shard(1)), f"{shard(1)} is cut short"),
        (lambda f: grow(f / shard(1)), "another version of the shard"),
        (lambda f: flip(f / tfrecord.index_path(shard(2)), 200), "00002-of-00003.index is damaged"),
        (lambda f: cut(f / tfrecord.index_path(shard(2))), "00002-of-00003.index is damaged"),
        (lambda f: rewrite(f, index=True), f"{shard(1)}: its index has 4 records"),
        (list_twice, f"{shard(0)}: it is listed twice"),
        (twin, f"{shard(2)}: it is the same shard as {shard(0)}"),
        (lambda f: edit(f, records=13), "its records are 13, and the shards have 12"),
        (lambda f: edit(f, buckets={"5x16x32": 12}), "its buckets are"),
        (lambda f: edit(f, conditions={"text": 12}), "its conditions are"),
        (lambda f: edit(f, shards=[]), "its records are 12, and the shards have 0"),
        (lambda f: edit(f, schema=2), "schema 2, this program reads 1"),
        (lambda f: edit(f, schema=None), "no schema number"),
        (lambda f: edit(f, kind="teacher"), "clips to train on are needed"),
        (lambda f: edit(f, kind="cats"), "its kind cannot be"),
        (lambda f: edit(f, fps=0), "its fps cannot be"),
        (lambda f: edit(f, fingerprints={"vae": 1}), "its fingerprints cannot be"),
        (lambda f: edit(f, shards=[{"file": "x"}]), "its shards cannot be"),
        (lambda f: edit(f, extra=1), "fields missing or unknown: extra"),
        (
            lambda f: edit(f, shards=[dict(file="../x.tfrecord", records=0, bytes=0, crc=0)]),
            "shards",
        ),
        (lambda f: cut(f / dataset.FILE) or cut(f / dataset.FILE), "is damaged"),
        (lambda f: (f / dataset.FILE).write_text("[]"), "is damaged"),
        (lambda f: (f / dataset.FILE).unlink(), "preprocessing did not finish"),
        (lambda f: shutil.rmtree(f), "no data set in"),
    ],
)
def test_a_damaged_data_set_is_not_opened(
    folder: Path, damage: Callable[[Path], object], says: str
):
    damage(folder)
    with pytest.raises(InputError) as caught:
        RecordSource(str(folder))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_flipped_bit_costs_its_record_and_no_other(folder: Path):
    source = RecordSource(str(folder))
    entry = tfrecord.read_index(str(folder / shard(1))).entries[2]
    flip(folder / shard(1), int(entry["offset"]) + 100)
    source = RecordSource(str(folder))
    for number in range(12):
        if number == 6:
            with pytest.raises(InputError, match=rf"Record 2 of .*{shard(1)}.*checksum"):
                source[number]
        else:
            assert same(source[number], example(number))


def test_a_shard_that_was_written_again_is_not_read_by_the_old_index(folder: Path):
    """Its size is the same: only its content says so."""
    rewrite(folder, index=False)
    source = RecordSource(str(folder))
    assert same(source[0], example(0))
    with pytest.raises(InputError, match=f"{shard(1)}.*written again or is damaged"):
        source[4]


def test_a_shard_replaced_after_opening_is_never_mixed_in(folder: Path):
    source = RecordSource(str(folder))
    assert same(source[4], example(4))
    assert same(copied(source)[4], example(4))
    rewrite(folder, index=True)
    assert same(source[5], example(5)), "an open file stays the old one"
    with pytest.raises(InputError, match="was replaced"):
        copied(source)[5]


def test_a_data_set_without_a_clip_is_one(tmp_path: Path):
    datasets.write(str(tmp_path), records_=0, shards=2)
    source = RecordSource(str(tmp_path))
    assert (len(source), source.buckets, source.bucket.shape) == (0, (), (0,))
    assert source.teaches.shape == (0, 4)


def test_a_shard_that_is_not_listed_is_not_data(folder: Path):
    info = read_info(str(folder))
    assert all(isinstance(each, Shard) for each in info.shards)
    shutil.copy(folder / shard(0), folder / "t-00003-of-00004.tfrecord")
    assert len(RecordSource(str(folder))) == 12


# Failures of the network and the service.


DOWNLOAD = "/download/storage/v1/b/bucket/o/far%2F"  # what other tests ask for is not meant


@pytest.fixture
def far(whole: Path, cloud: str, faults: Faults, monkeypatch) -> Iterator[RecordSource]:
    """The data set in the cloud, behind a proxy that can fail; waits are short."""
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)
    datasets.copy(str(whole), f"{cloud}/far")
    source = RecordSource(f"{cloud}/far")
    faults.seen.clear()
    yield source
    assert faults.left() == 0, "all faults happened"


def reads(faults: Faults) -> list[str]:
    return [ranges for request, ranges in faults.seen if DOWNLOAD in request]


def test_a_record_is_one_ranged_read(far: RecordSource, faults: Faults):
    assert same(far[6], example(6))
    entry = tfrecord.read_index(f"{far.uri}/{shard(1)}").entries[2]
    start, end = int(entry["offset"]) - 12, int(entry["offset"] + entry["length"]) + 4
    assert reads(faults)[0] == f"bytes={start}-{end - 1}"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_service_that_is_busy_is_asked_again(far: RecordSource, faults: Faults, status: int):
    faults.add(DOWNLOAD, times=3, status=status)
    assert same(far[6], example(6))
    assert len(reads(faults)) == 4


def test_a_read_that_breaks_off_goes_on_from_there(far: RecordSource, faults: Faults, monkeypatch):
    monkeypatch.setattr(storage, "CHUNK", 250)  # what has arrived is counted in these
    faults.add(DOWNLOAD, cut=0)
    faults.add(DOWNLOAD, cut=500, polite=True)
    faults.add(DOWNLOAD, status=503)
    faults.add(DOWNLOAD, cut=250, polite=True)
    assert same(far[7], example(7))
    first, *_, last = (int(r.removeprefix("bytes=").partition("-")[0]) for r in reads(faults))
    assert last == first + 750, "what had arrived is not read again"


def test_a_service_that_stays_away_is_an_error_that_names_the_file(
    far: RecordSource, faults: Faults
):
    faults.add(DOWNLOAD, times=storage.TRIES, status=503)
    with pytest.raises(ConnectionError, match=rf"{shard(1)}, after {storage.TRIES} tries: 503"):
        far[6]
    assert len(reads(faults)) == storage.TRIES, faults.seen
    faults.add(DOWNLOAD, times=storage.TRIES, cut=0)
    with pytest.raises(ConnectionError, match=rf"{shard(1)}, after"):
        far[6]
    assert len(reads(faults)) == 2 * storage.TRIES, faults.seen
    assert same(far[6], example(6)), "and can be tried again"


def test_a_slow_answer_is_not_a_failure_and_a_missing_one_is_asked_for_again(
    far: RecordSource, faults: Faults, monkeypatch
):
    faults.add(DOWNLOAD, delay=0.2)
    assert same(far[6], example(6)) and len(reads(faults)) == 1
    monkeypatch.setattr(storage, "TIMEOUT", (1, 0.1))
    faults.add(DOWNLOAD, delay=0.3)
    assert same(far[7], example(7)) and len(reads(faults)) == 3


def test_a_refusal_is_not_repeated(far: RecordSource, faults: Faults):
    faults.add(DOWNLOAD, status=403)
    with pytest.raises(InputError, match="No access to"):
        far[6]
    assert len(reads(faults)) == 1


def test_an_object_replaced_while_being_read_is_an_error_and_never_mixed(
    far: RecordSource, faults: Faults
):
    """It breaks off in the middle, and what is there afterwards has the same size."""
    path = f"{far.uri}/{shard(1)}"
    new = bytes(len(storage.read_bytes(path)))
    faults.add(f"o/far%2F{shard(1)}", cut=300, then=lambda: storage.write_bytes(path, new))
    with pytest.raises(InputError, match=f"{shard(1)} was replaced or removed"):
        far[6]
    with pytest.raises(InputError, match=f"{shard(1)} was replaced or removed"):
        far[7]
    assert same(far[0], example(0)), "other shards are still there"


def test_writing_survives_a_busy_service_and_broken_connections(
    whole: Path, cloud: str, faults: Faults
):
    for fault in ({"status": 503}, {"drop": True}):
        faults.add("POST /upload/", **fault)
        faults.add("PUT /", **fault)
    datasets.write(f"{cloud}/hard", records_=4, shards=1)
    assert faults.left() == 0
    datasets.write(local := str(whole / "easy"), records_=4, shards=1)
    for name in storage.files(local):
        assert storage.read_bytes(f"{cloud}/hard/{name}") == (Path(local) / name).read_bytes()
