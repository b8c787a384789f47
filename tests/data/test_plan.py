"""The plan: shares, epochs, and that batch n depends on n and the seed alone."""

from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.data.plan import BLOCK, Interleaving, Plan
from omnihuman_jax.errors import InputError

ANY, AUDIO, POSE = frozenset(), frozenset({"audio"}), frozenset({"audio", "pose"})
MIX = {ANY: 0.5, AUDIO: 0.3, POSE: 0.2}


def records(n, seed=0, buckets=3):
    """Buckets of unequal size; all teach text and reference, 60 % audio, 40 % of those pose."""
    rng = np.random.default_rng(seed)
    bucket = rng.choice(buckets, n, p=np.arange(1, buckets + 1) / sum(range(buckets + 1)))
    teaches = np.ones((n, 4), bool)
    teaches[:, 2] = rng.random(n) < 0.6
    teaches[:, 3] = teaches[:, 2] & (rng.random(n) < 0.4)
    teaches[0] = True  # at least one of each
    return bucket.astype(np.int32), teaches


def same(a, b):
    return a.bucket == b.bucket and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("records", "present", "groups", "epochs")
    )


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 60),
    batch=st.sampled_from([1, 5, 12, 40]),
    mix=st.sampled_from([None, MIX, {AUDIO: 1.0}, {ANY: 0.999, POSE: 0.001}]),
    seed=st.integers(0, 2**64),
)
def test_a_stream_is_read_whole_before_it_starts_again(n, batch, mix, seed):
    """Also where an epoch ends inside a batch, and where a batch is many epochs."""
    bucket, teaches = records(n, seed % 1000)
    plan = Plan(bucket, teaches, seed=seed, batch=batch, mix=mix)
    read, epochs = defaultdict(list), defaultdict(list)
    for k in range(60):
        rows = plan[k]
        assert (bucket[rows.records] == rows.bucket).all()
        for record, group, epoch in zip(rows.records, rows.groups, rows.epochs, strict=True):
            read[rows.bucket, group].append(record)
            epochs[rows.bucket, group].append(epoch)
    groups = [ANY, AUDIO, POSE] if mix is MIX else [AUDIO] if mix and AUDIO in mix else [ANY, POSE]
    for (b, group), stream in read.items():
        wanted = [STRENGTH.index(name) for name in groups[group]]
        members = np.flatnonzero((bucket == b) & teaches[:, wanted].all(axis=1))
        orders = [stream[i : i + len(members)] for i in range(0, len(stream), len(members))]
        assert epochs[b, group] == [i // len(members) for i in range(len(stream))]
        for order in orders[:-1]:
            assert sorted(order) == members.tolist()
        assert len(set(orders[-1])) == len(orders[-1])
        assert set(orders[-1]) <= set(members.tolist())


def test_each_epoch_stream_and_seed_has_its_own_order():
    bucket, teaches = np.zeros(50, np.int32), np.ones((50, 4), bool)
    plan = Plan(bucket, teaches, seed=1, batch=50)
    other = Plan(bucket, teaches, seed=2, batch=50)
    orders = [tuple(p[k].records) for p in (plan, other) for k in range(4)]
    assert len(set(orders)) == 8
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_any_batch_can_be_asked_for_at_any_time():
    bucket, teaches = records(5000)
    plan = Plan(bucket, teaches, seed=3, batch=24, mix=MIX)
    walked = [plan[k] for k in range(1300)]  # past the first block
    for k in (1299, 0, 1023, 1024, 7):
        assert same(
            Plan(bucket, teaches, seed=3, batch=24, mix=dict(reversed(MIX.items())))[k], walked[k]
        )
    # Far away is not walked to, and is consistent with its neighbours: the streams go on.
    far = 10**7
    jumped = Plan(bucket, teaches, seed=3, batch=24, mix=MIX)
    last = jumped[far + 1]
    for k in range(far, far + 2):
        assert same(plan[k], jumped[k])
    assert same(plan[far + 1], last)
    place = defaultdict(list)
    for k in range(far, far + 3000):
        rows = plan[k]
        for group in np.unique(rows.groups):
            place[rows.bucket, group] += list(
                zip(
                    rows.epochs[rows.groups == group],
                    rows.records[rows.groups == group],
                    strict=True,
                )
            )
    for stream in place.values():
        assert len(set(stream)) == len(stream)
        assert [epoch for epoch, _ in stream] == sorted(epoch for epoch, _ in stream)


@pytest.mark.parametrize("start", [0, 5_000_000])
def test_shares_are_met(start):
    """Over the batches of a block, groups by the mix, buckets by p(b) = sum_g w_g n_bg / n_g."""
    bucket, teaches = records(3000)
    batch, blocks = 8, 2
    plan = Plan(bucket, teaches, seed=0, batch=batch, mix=MIX)
    rows = [plan[k] for k in range(start // BLOCK * BLOCK, start // BLOCK * BLOCK + blocks * BLOCK)]
    groups = np.bincount(np.concatenate([r.groups for r in rows])) / (batch * len(rows))
    np.testing.assert_allclose(groups, list(MIX.values()), atol=0.002)
    members = [np.ones(3000, bool), teaches[:, 2], teaches[:, 2] & teaches[:, 3]]
    expected = sum(
        w * np.bincount(bucket[m]) / m.sum() for w, m in zip(MIX.values(), members, strict=True)
    )
    buckets = np.bincount([r.bucket for r in rows]) / len(rows)
    np.testing.assert_allclose(buckets, expected, atol=2 / BLOCK)
    # Within one batch too the shares are near: no step trains on half of what the mix says.
    # Spread evenly, the deviation is well under that of independent draws, sqrt(8 * .5 * .5) = 1.41.
    assert np.std([(r.groups == 0).sum() for r in rows]) < 1


def test_all_records_of_a_group_are_drawn_alike():
    """Whatever their bucket: epochs of different streams keep pace."""
    bucket, teaches = records(300)
    plan = Plan(bucket, teaches, seed=0, batch=4, mix=MIX)
    counts = np.zeros((3, 300))
    for k in range(8 * BLOCK):
        rows = plan[k]
        np.add.at(counts, (rows.groups, rows.records), 1)
    for group, wanted in enumerate([[], [2], [2, 3]]):
        drawn = counts[group, teaches[:, wanted].all(axis=1)]
        np.testing.assert_allclose(drawn, drawn.mean(), rtol=0.05, atol=1.5)


def test_a_driver_is_used_only_where_the_mix_says_so():
    """Audio and pose that a mix names: only in its groups. What it does not name: as the clip teaches."""
    bucket, teaches = records(500)
    teaches[::3, 1] = False
    for mix, groups, named in [
        (MIX, [ANY, AUDIO, POSE], {"audio", "pose"}),
        ({ANY: 0.5, AUDIO: 0.5}, [ANY, AUDIO], {"audio"}),
        ({ANY: 1.0, AUDIO: 0.0, POSE: 0.0}, [ANY], {"audio", "pose"}),
        (None, [ANY], set()),
    ]:
        plan = Plan(bucket, teaches, seed=0, batch=50, mix=mix)
        for k in range(20):
            rows = plan[k]
            for column, name in enumerate(STRENGTH):
                allowed = [name not in named or name in groups[g] for g in rows.groups]
                expected = teaches[rows.records, column] & allowed
                np.testing.assert_array_equal(rows.present[:, column], expected)


@pytest.mark.parametrize("rare", [Fraction(1, 10_000), Fraction(3, 7), Fraction(1, 2), Fraction(1)])
def test_an_interleaving_has_exact_shares_in_each_block_and_counts_right(rare):
    shares = {3: rare, 8: 1 - rare} if rare < 1 else {3: rare}
    sequence = Interleaving(0, (1,), shares)
    categories, ranks = sequence[0 : 300 * BLOCK]
    found = (categories == 3).reshape(300, BLOCK).sum(axis=1)
    exact = BLOCK * rare
    assert (np.abs(found - float(exact)) < 1).all()
    # Rounded up as often as the fraction says: five standard deviations of a binomial.
    part = float(exact % 1)
    assert abs((found > exact).sum() - 300 * part) <= 5 * np.sqrt(300 * part * (1 - part))
    for category in shares:
        mine = ranks[categories == category]
        np.testing.assert_array_equal(mine, np.arange(len(mine)))
    fresh = Interleaving(0, (1,), shares)[5000:9000]
    np.testing.assert_array_equal(fresh, (categories[5000:9000], ranks[5000:9000]))


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"batch": 0}, "batch size is a whole number from 1, got 0"),
        ({"seed": -1}, "seed is a whole number from 0"),
        ({"mix": {ANY: 0.5, AUDIO: 0.4}}, "add up to 0.9, not to 1"),
        ({"mix": {ANY: 1.5, AUDIO: -0.5}}, "from 0 to 1, got 1.5 for any clip"),
        ({"mix": {ANY: float("nan")}}, "from 0 to 1, got nan"),
        ({"mix": {}}, "add up to 0, not to 1"),
        ({"mix": {frozenset({"sound"}): 1.0}}, "names 'sound'; conditions are text, reference"),
        ({"mix": {POSE: 1.0}}, r"teach audio and pose, and none does: of 2 records 2 teach text"),
        ({"bucket": np.zeros(0, np.int32), "teaches": np.zeros((0, 4), bool)}, "no records"),
    ],
)
def test_what_cannot_be_planned_is_refused(change, reason):
    teaches = np.array([[True, True, True, False], [True, True, False, True]])
    good = {"bucket": np.zeros(2, np.int32), "teaches": teaches, "seed": 0, "batch": 2}
    wanted = {**good, **change}
    with pytest.raises(InputError, match=reason):
        Plan(wanted.pop("bucket"), wanted.pop("teaches"), **wanted)


def test_the_order_is_that_of_every_version():
    """Kept for ever: a run must go on in its order after numpy or we have changed."""
    bucket = (np.arange(1000) % 7 // 3).astype(np.int32)
    teaches = np.arange(1000)[:, None] % [1, 1, 2, 4] == 0
    plan = Plan(bucket, teaches, seed=0, batch=4, mix=MIX)
    assert [plan[k].records.tolist() for k in (0, 1, 10**6)] == [
        [872, 31, 438, 710],
        [114, 86, 602, 960],
        [532, 65, 308, 834],
    ]
