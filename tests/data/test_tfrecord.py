"""Shards are TFRecord as others read it, and no damage to them goes unseen."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apache_beam.io.tfrecordio import _TFRecordUtil
from hypothesis import given
from hypothesis import strategies as st

from omnihuman_jax import storage
from omnihuman_jax.data import tfrecord
from omnihuman_jax.errors import InputError

RECORDS = [b"", b"a", b"twelve bytes", bytes(range(256)) * 3]


def write(path: Path | str, records: list[bytes] = RECORDS) -> tfrecord.Index:
    with tfrecord.Writer(str(path), flags=["x", "y"]) as out:
        for i, record in enumerate(records):
            out.write(record, bucket="even" if i % 2 == 0 else "odd", flags={"y"} if i else set())
    assert out.index is not None
    return out.index


def read(shard: Path, index: tfrecord.Index) -> list[bytes]:
    data = np.frombuffer(shard.read_bytes(), np.uint8)
    frames = [data[e["offset"] - 12 : e["offset"] + e["length"] + 4] for e in index.entries]
    return [tfrecord.payload(f, e).tobytes() for f, e in zip(frames, index.entries, strict=True)]


def test_the_checksum_is_the_published_one():
    """crc32c("123456789") is 0xE3069283 (RFC 3720's polynomial); rotated by 15 and shifted by a constant."""
    crc = 0xE3069283
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    assert tfrecord.masked_crc(b"123456789") == (rotated + 0xA282EAD8) % 2**32


def test_others_read_our_shards(tmp_path: Path):
    """Apache Beam's reader verifies both checksums of every frame."""
    write(tmp_path / "s.tfrecord")
    file = io.BytesIO((tmp_path / "s.tfrecord").read_bytes())
    assert [_TFRecordUtil.read_record(file) for _ in RECORDS] == RECORDS
    assert _TFRecordUtil.read_record(file) is None


def test_any_record_is_found_by_the_index_and_all_without_it(tmp_path: Path):
    index = write(tmp_path / "s.tfrecord")
    stored = tfrecord.read_index(str(tmp_path / "s.tfrecord"))
    assert stored.serialize() == index.serialize() and stored.crc == index.crc
    assert read(tmp_path / "s.tfrecord", stored) == RECORDS
    reader = storage.Reader(str(tmp_path / "s.tfrecord"))
    found = list(tfrecord.frames(reader))
    assert [data for _, data in found] == RECORDS
    assert [at for at, _ in found] == stored.entries["offset"].tolist()
    assert stored.bucket_counts() == {"even": 2, "odd": 2}
    assert stored.flag_counts() == {"x": 0, "y": 3}


def test_an_empty_shard_is_a_shard(tmp_path: Path):
    write(tmp_path / "s.tfrecord", [])
    index = tfrecord.read_index(str(tmp_path / "s.tfrecord"))
    assert (index.size, len(index.entries), index.bucket_counts()) == (0, 0, {})


@given(st.integers(0), st.integers(0, 7))
def test_a_flipped_bit_of_a_shard_is_seen(tmp_path_factory, where, bit):
    folder = tmp_path_factory.mktemp("shard")
    index = write(folder / "s.tfrecord")
    data = bytearray((folder / "s.tfrecord").read_bytes())
    where %= len(data)
    data[where] ^= 1 << bit
    (folder / "s.tfrecord").write_bytes(data)
    with pytest.raises(InputError):
        read(folder / "s.tfrecord", index)
    with pytest.raises(InputError):
        list(tfrecord.frames(storage.Reader(str(folder / "s.tfrecord"))))


@given(st.integers(0), st.integers(0, 7), st.booleans())
def test_a_damaged_index_is_never_believed(tmp_path_factory, where, bit, cut):
    folder = tmp_path_factory.mktemp("shard")
    data = bytearray(write(folder / "s.tfrecord").serialize())
    where %= len(data)
    if cut:
        del data[where:]
    else:
        data[where] ^= 1 << bit
    with pytest.raises(InputError, match=r"s\.index"):
        tfrecord.Index.parse(bytes(data), "s.index")


@pytest.mark.parametrize(
    "change, says",
    [
        ({"index": 2}, "version 2"),
        ({"bytes": 5}, "contradicts itself"),
        ({"records": 3}, "contradicts itself"),
        ({"buckets": ["even"]}, "contradicts itself"),
        ({"flags": ["x"]}, "contradicts itself"),
        ({"bytes": None}, "not the index"),
        ({"buckets": 3}, "not the index"),
    ],
)
def test_an_index_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any], says: str):
    """Its checksum is right: it was written so."""
    line, _, rest = write(tmp_path / "s.tfrecord").serialize()[:-4].partition(b"\n")
    body = json.dumps(json.loads(line) | change).encode() + b"\n" + rest
    data = body + struct.pack("<I", tfrecord.masked_crc(body))
    with pytest.raises(InputError, match=says):
        tfrecord.Index.parse(data, "s.index")


def test_both_files_appear_or_neither_and_the_old_ones_stay(tmp_path: Path, monkeypatch):
    path = tmp_path / "s.tfrecord"
    for before in ([], [b"old"]):
        if before:
            write(path, before)
        with pytest.raises(ZeroDivisionError), tfrecord.Writer(str(path)) as out:
            out.write(b"half")
            raise ZeroDivisionError
        assert (
            sorted(p.name for p in tmp_path.iterdir())
            == ["s.index", "s.tfrecord"][: 2 * len(before)]
        )
        assert not before or read(path, tfrecord.read_index(str(path))) == before

    def full(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(storage, "write_bytes", full)  # which writes the index
    with pytest.raises(OSError, match="disk full"):
        write(path)
    assert list(tmp_path.iterdir()) == [], (
        "a shard without an index, or beside an old one, is not left"
    )


def test_the_same_records_make_the_same_bytes(tmp_path: Path):
    for name in "ab":
        write(tmp_path / name / "s.tfrecord")
    for file in ("s.tfrecord", "s.index"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert write(tmp_path / "c.tfrecord", RECORDS[::-1]).crc != write(tmp_path / "d.tfrecord").crc


def test_names_of_shards():
    assert tfrecord.shard_file("talk", 12, 100) == "talk-00012-of-00100.tfrecord"
    assert (
        tfrecord.index_path("gs://b/t-00000-of-00001.tfrecord") == "gs://b/t-00000-of-00001.index"
    )
    for name, number, of in [("a/b", 0, 1), ("", 0, 1), (".a", 0, 1), ("a", 1, 1), ("a", -1, 1)]:
        with pytest.raises(InputError):
            tfrecord.shard_file(name, number, of)
    with pytest.raises(InputError, match=r"\.tfrecord"):
        tfrecord.Writer("shard.bin")
