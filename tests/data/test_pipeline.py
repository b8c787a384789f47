"""Batches: what is read does not depend on who reads it, when, or how often it was interrupted."""

import dataclasses
import json
import random
import threading
import time
from collections import Counter

import jax
import ml_dtypes
import numpy as np
import pytest

from omnihuman_jax import storage
from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.data.info import DatasetInfo, Shard
from omnihuman_jax.data.pipeline import Batches, Layout
from omnihuman_jax.data.records import Example, ShardWriter, info_from_shards, write_info
from omnihuman_jax.data.source import RecordSource
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from tests.cloud import cloud  # noqa: F401

BF16 = ml_dtypes.bfloat16
GRIDS = (Grid(5, 16, 16), Grid(9, 16, 32), Grid(5, 32, 16))
ANY, AUDIO, POSE = frozenset(), frozenset({"audio"}), frozenset({"audio", "pose"})
MIX = {ANY: 0.5, AUDIO: 0.25, POSE: 0.25}
LAYOUT = Layout(channels=4, text=(6, 8), audio=(2, 3), joints=17)


def example(number, grid, teaches, **changes):
    """A clip whose latents say its number."""
    rng = np.random.default_rng(number)
    frames, height, width = grid.latent_shape

    def features(*shape):
        return rng.standard_normal(shape).astype(BF16)

    parts = {
        "id": f"clip-{number}",
        "source": f"video-{number}.mp4",
        "text": "a person speaks",
        "latents": np.full((frames, height, width, 4), number, BF16),
        "reference": features(1, height, width, 4),
        "text_features": features(1 + number % 9, 8),
        "audio_features": features(grid.frames, 2, 3),
        "pose": rng.random((grid.frames, 133, 3)).astype(np.float16),
        "fps": 25.0,
        "frames": grid.frames,
        "height": grid.height,
        "width": grid.width,
        "teaches": frozenset(teaches),
        "scores": {},
    }
    return Example(**{**parts, **changes})


def info(name, n):
    return DatasetInfo(
        name=name,
        shards=(Shard(file="few-00000-of-00001.tfrecord", records=n, bytes=0, crc=n),),
        records=n,
        buckets={},
        conditions={},
        fps=25.0,
        channels=4,
        fingerprints={"vae": "aaaa", "text_encoder": "bbbb"},
    )


class Few:
    """A few clips in memory, read as slowly and as unevenly as from a bucket."""

    def __init__(self, n=200, name="few", slow=0.0):
        rng = np.random.default_rng(n)
        self.info = info(name, n)
        self.buckets = GRIDS
        self.bucket = rng.integers(0, 3, n).astype(np.int32)
        self.teaches = np.ones((n, 4), bool)
        self.teaches[:, 2] = rng.random(n) < 0.6
        self.teaches[:, 3] = self.teaches[:, 2] & (rng.random(n) < 0.5)
        self.lengths = np.full(n, 3000, np.int64)
        self.broken: set[int] = set()
        self.started = 0
        self._slow, self._lock = slow, threading.Lock()

    def __len__(self):
        return len(self.bucket)

    def __getitem__(self, index):
        with self._lock:
            self.started += 1
        if self._slow:
            time.sleep(random.random() * self._slow)
        if index in self.broken:
            raise InputError(f"few-00000-of-00001.tfrecord, record {index}: the checksum is wrong.")
        teaches = {name for name, t in zip(STRENGTH, self.teaches[index], strict=True) if t}
        return example(index, GRIDS[self.bucket[index]], teaches)


def batches(source, layout=LAYOUT, **settings):
    return Batches(source, layout, **{"batch": 12, "mix": MIX, "threads": 3, **settings})


def take(iterator, n):
    return [next(iterator) for _ in range(n)]


def joined(parts):
    """One batch from the hosts' parts of it."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def assert_same(got, expected):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(x, y)


def numbers(batch):
    return batch.latents[:, 0, 0, 0, 0].astype(int)


@pytest.fixture(scope="module")
def whole():
    """What one host reads."""
    return take(batches(Few()), 80)


def test_three_hosts_stop_and_two_go_on(whole):
    """Together they read exactly what one host would have read, to the last bit."""
    three = [batches(Few(slow=0.002), host=host, hosts=3) for host in range(3)]
    parts = list(zip(*[take(host, 50) for host in three], strict=True))
    states = [json.dumps(host.get_state()) for host in three]
    assert len(set(states)) == 1
    two = [batches(Few(slow=0.002), host=host, hosts=2) for host in range(2)]
    for host in two:
        host.set_state(json.loads(states[0]))
    parts += list(zip(*[take(host, 30) for host in two], strict=True))
    assert_same([joined(part) for part in parts], whole)


def test_no_clip_is_lost_or_read_twice_in_an_epoch():
    """Counted on what is delivered, over a stop and a start with other hosts."""
    source, seen = Few(60), Counter()
    hosts, state = 3, None
    for stretch in range(4):
        readers = [batches(Few(60), mix=None, host=h, hosts=hosts) for h in range(hosts)]
        for reader in readers:
            if state:
                reader.set_state(state)
            for batch in take(reader, 10):
                assert len({source.bucket[n] for n in numbers(batch)}) == 1
                seen.update(numbers(batch))
        state, hosts = readers[0].get_state(), (2, 6, 1)[stretch % 3]
    for bucket in range(3):
        times = [seen[n] for n in np.flatnonzero(source.bucket == bucket)]
        assert max(times) - min(times) <= 1
        assert min(times) >= 4  # several epochs


@pytest.mark.parametrize("done", [0, 1, 7])
def test_the_place_is_that_of_the_last_batch_delivered(whole, done):
    """Not of the last one prefetched; and going back in the same iterator works as well."""
    first = batches(Few(slow=0.005))
    assert first.prefetched > 10
    take(first, done)
    state = json.loads(json.dumps(first.get_state()))
    assert state["batches"] == done
    second = batches(Few(slow=0.005))
    second.set_state(state)
    for reader in (first, second):
        assert_same(take(reader, 5), whole[done : done + 5])
    first.set_state(state)
    assert_same(take(first, 5), whole[done : done + 5])


def test_another_seed_is_another_order(whole):
    other = take(batches(Few(), seed=1), 20)
    assert any(
        not np.array_equal(numbers(a), numbers(b)) for a, b in zip(whole, other, strict=False)
    )


@pytest.mark.parametrize("kept", [3, 12])
def test_prefetching_stays_within_its_bytes(kept):
    """However long it is left alone; Grain's own 500 batches would not."""
    source = Few()
    largest = 12 * max(map(LAYOUT.row_bytes, GRIDS))
    allowed = kept * largest + 3 * 3000
    reader = batches(source, prefetch_bytes=allowed)
    for delivered in range(1, 4):
        next(reader)
        settled = -1
        while settled != source.started:
            settled = source.started
            time.sleep(0.1)
        ready = source.started // 12 - delivered
        assert ready == reader.prefetched == kept - 1  # and one more while it is waited for
    assert batches(source, prefetch_bytes=0).prefetched == 1
    assert batches(source, prefetch_bytes=2**40).prefetched < 50


@pytest.mark.parametrize("layout", [LAYOUT, Layout(channels=4, text=None, dtype=np.float32)])
def test_the_bytes_of_a_row_are_those_of_the_arrays(layout):
    for batch in take(batches(Few(), layout), 10):
        frames, height, width = batch.latents.shape[1:4]
        grid = Grid(4 * frames - 3, 8 * height, 8 * width)
        real = sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
        assert layout.row_bytes(grid) * 12 == real


@pytest.mark.parametrize("prefetch_bytes", [0, 2**20])
def test_a_broken_record_stops_the_run_where_it_is_and_can_be_mended(whole, prefetch_bytes):
    """No batch is skipped, none is made up, and nothing hangs."""
    source = Few(slow=0.001)
    reader = batches(source, prefetch_bytes=prefetch_bytes)
    got = take(reader, 6)
    source.broken = {int(numbers(whole[8])[5])}
    with pytest.raises(InputError, match=r"few-00000-of-00001.tfrecord, record \d+: the checksum"):
        while True:
            got.append(next(reader))
    place = len(got)
    assert place <= 8 + reader.prefetched
    for _ in range(2):
        assert reader.get_state()["batches"] == place
        with pytest.raises(InputError, match="checksum"):
            next(reader)
    source.broken = set()
    got += take(reader, 20 - place if place < 20 else 1)
    assert_same(got, whole[: len(got)])


def test_what_is_delivered_is_counted(whole):
    reader = batches(Few())
    take(reader, 80)
    achieved = reader.achieved
    rows = joined_present(whole)
    assert achieved.samples == 80 * 12 == sum(achieved.buckets.values())
    assert achieved.conditions == {name: int(rows[name].sum()) for name in STRENGTH}
    shares = {name: achieved.conditions[name] / achieved.samples for name in STRENGTH}
    assert shares == pytest.approx(
        {"text": 1, "reference": 1, "audio": 0.5, "pose": 0.25}, abs=0.03
    )
    assert set(achieved.buckets) == {"5x16x16", "9x16x32", "5x32x16"}


def joined_present(parts):
    return {
        name: np.concatenate([part.conditions.present[name] for part in parts]) for name in STRENGTH
    }


def test_a_clip_has_another_number_in_each_epoch_and_group(whole):
    """The same for every host and every run: `whole` against the plan is tested above."""
    plan = batches(Few()).plan
    found = {}
    for n, batch in enumerate(whole):
        rows = plan[n]
        np.testing.assert_array_equal(numbers(batch), rows.records)
        for key in zip(rows.records, rows.groups, rows.epochs, batch.sample, strict=True):
            found.setdefault(key[3], set()).add(tuple(map(int, key[:3])))
    assert all(len(keys) == 1 for keys in found.values())
    assert len(found) == 80 * 12


class Given(Few):
    """One bucket, and the clips given."""

    def __init__(self, *examples):
        super().__init__(len(examples))
        self._examples = examples
        self.bucket[:] = 1
        self.teaches = np.array([[name in e.teaches for name in STRENGTH] for e in examples])

    def __getitem__(self, index):
        return self._examples[index]


def clip(number=0, teaches=STRENGTH, **changes):
    return example(number, GRIDS[1], teaches, **changes)


def read(clip, layout=LAYOUT):
    return next(batches(Given(clip), layout, batch=1, mix=None))


@pytest.mark.parametrize("dtype", [BF16, np.float32])
def test_a_clip_comes_as_it_was_written(dtype):
    full = clip(3)
    batch = read(full, dataclasses.replace(LAYOUT, dtype=dtype))
    given = batch.conditions
    for got, written in [
        (batch.latents, full.latents),
        (given.reference, full.reference),
        (given.audio, full.audio_features),
    ]:
        assert got.dtype == dtype
        np.testing.assert_array_equal(got[0].astype(np.float32), written.astype(np.float32))
    assert given.pose.dtype == np.float32
    np.testing.assert_array_equal(given.pose[0], full.pose[:, :17].astype(np.float32))
    assert {name: p.tolist() for name, p in given.present.items()} == {n: [True] for n in STRENGTH}
    assert given.motion is None


@pytest.mark.parametrize("length", [1, 6, 7, 30])
def test_texts_are_padded_and_cut(length):
    features = np.arange(1, 1 + length * 8).reshape(length, 8).astype(BF16)
    text = read(clip(text_features=features)).conditions.text[0]
    kept = min(length, 6)
    np.testing.assert_array_equal(text[:kept], features[:kept])
    assert not text[kept:].any()


@pytest.mark.parametrize(
    "name, lacking",
    [
        ("text", {"text_features": None, "teaches": frozenset(STRENGTH) - {"text"}}),
        ("reference", {"reference": None, "teaches": frozenset(STRENGTH) - {"reference"}}),
        ("audio", {"audio_features": None, "teaches": frozenset(STRENGTH) - {"audio"}}),
        ("pose", {"pose": np.ones((9, 16, 3), np.float16)}),
        ("audio", {"teaches": frozenset(STRENGTH) - {"audio"}}),
        ("text", {"teaches": frozenset(STRENGTH) - {"text"}}),
    ],
)
def test_what_a_clip_lacks_or_may_not_teach_is_zero_and_not_present(name, lacking):
    given = read(clip(**lacking)).conditions
    assert not getattr(given, name).any()
    assert {n for n, p in given.present.items() if not p[0]} == {name}
    assert all(getattr(given, other).any() for other in set(STRENGTH) - {name})


def test_what_the_model_does_not_read_is_not_there():
    given = read(clip(), Layout(channels=4, reference=False, text=None)).conditions
    assert given.given() == frozenset()
    assert given.present == {}


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"text_features": np.zeros((5, 9), BF16)}, "text of record 'clip-0' .* 5x9, and 5x8 is"),
        ({"audio_features": np.zeros((9, 2, 4), BF16)}, "audio of .* 9x2x4, and 9x2x3 is read"),
        ({"audio_features": np.zeros((9, 3, 3), BF16)}, "audio of .* 9x3x3"),
    ],
)
def test_a_part_of_the_wrong_size_is_refused(wrong, reason):
    with pytest.raises(InputError, match=reason):
        read(clip(**wrong))


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"hosts": 5}, "5 hosts .* batch of 12 .* batch of 10 or 15, .* one of 1, 2, 3, 4, 6, 12"),
        ({"hosts": 24}, "use a batch of 24, or as many"),
        ({"host": 2, "hosts": 2}, "numbered from 0 to 1, got 2"),
        ({"fingerprints": {"vae": "ffff"}}, "vae of the model is ffff.*made with aaaa.*preprocess"),
        ({"fingerprints": {"lips": "ffff"}}, "lips of the model is ffff.*made without one"),
    ],
)
def test_what_cannot_work_is_refused(settings, reason):
    with pytest.raises(InputError, match=reason) as caught:
        batches(Few(), **settings)
    assert "\n" not in str(caught.value)


def test_a_clip_of_another_size_than_its_index_says_is_refused():
    with pytest.raises(
        InputError, match=r"latents of record 'clip-7' .* is 2x4x2x4, and 3x2x4x4 is"
    ):
        read(example(7, GRIDS[2], STRENGTH))


def test_latents_of_another_vae_are_refused():
    with pytest.raises(InputError, match="of 16 channels, the records of 'few' have 4"):
        batches(Few(), Layout())


def test_the_right_encoders_are_taken():
    next(batches(Few(), fingerprints={"vae": "aaaa"}))


@pytest.mark.parametrize(
    "source, settings, reason",
    [
        (Few(201), {}, "data was few 200 .*, is few 201"),
        (Few(name="other"), {}, "data was few 200"),
        (Few(), {"seed": 1}, "seed was 0, is 1"),
        (Few(), {"batch": 24}, "batch was 12, is 24"),
        (Few(), {"mix": None}, "mix was .*audio.*, is {'any': 1.0}"),
    ],
)
def test_a_place_in_something_else_is_refused(source, settings, reason):
    state = batches(Few()).get_state()
    with pytest.raises(InputError, match=reason):
        batches(source, **settings).set_state(json.loads(json.dumps(state)))


def test_after_closing_its_threads_end():
    reader = batches(Few(slow=0.01))
    next(reader)
    reader.close()
    deadline = time.monotonic() + 10
    while any(t.is_alive() for t in reader._readers._threads):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def write(folder, source, shards=3):
    """The clips of `source` as a real data set."""
    for shard in range(shards):
        with ShardWriter(folder, "few", shard, shards) as out:
            for index in range(shard, len(source), shards):
                out.write(source[index])
    made = info_from_shards(folder, "few", shards, source.info.fingerprints, fps=25.0, channels=4)
    write_info(folder, made)


def test_real_records_come_the_same_from_disk_and_from_the_cloud(tmp_path, cloud):  # noqa: F811
    """And from the cloud with several hosts and a restart, as from disk with one."""
    write(str(tmp_path), Few(60))
    for name in storage.files(str(tmp_path)):
        storage.write_bytes(f"{cloud}/few/{name}", (tmp_path / name).read_bytes())
    expected = take(batches(RecordSource(str(tmp_path)), threads=8), 12)
    hosts = [batches(RecordSource(f"{cloud}/few"), host=h, hosts=2, threads=8) for h in range(2)]
    parts = [take(host, 8) for host in hosts]
    late = batches(RecordSource(f"{cloud}/few"), host=1, hosts=2)
    late.set_state(hosts[1].get_state())
    parts[0] += take(hosts[0], 4)
    parts[1] += take(late, 4)
    assert_same([joined(pair) for pair in zip(*parts, strict=True)], expected)


def test_a_flipped_bit_in_a_real_shard_stops_the_run(tmp_path):
    write(str(tmp_path), Few(12))
    path = tmp_path / "few-00001-of-00003.tfrecord"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    reader = batches(RecordSource(str(tmp_path)), mix=None)
    with pytest.raises(InputError, match=r"Record \d of .*few-00001-of-00003.*checksum is wrong"):
        take(reader, 12)
