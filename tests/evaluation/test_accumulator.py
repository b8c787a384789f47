"""Results of clips add up to the same however they were shared out; intervals hold what they promise."""

import numpy as np
import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.evaluation import accumulator, of_pictures
from omnihuman_jax.evaluation.accumulator import Accumulator
from omnihuman_jax.evaluation.metric import ClipMetric, SetMetric
from omnihuman_jax.evaluation.of_puppets import METRICS as PUPPETS

MEAN = ClipMetric(name="a", better="higher", definition="", measure=lambda case, network: 0.0)
FRECHET = SetMetric(
    name="f",
    better="lower",
    definition="",
    features=lambda case, network: {},
    value=of_pictures.frechet,
    resamples=100,
)


def numbers(count=40, seed=0):
    random = np.random.default_rng(seed)
    return {f"clip{k:02}": float(v) for k, v in enumerate(random.normal(0.3, 1e3, count))}


def features(count=12, shift=0.5, seed=0):
    random = np.random.default_rng(seed)
    draw = lambda: random.standard_normal((int(random.integers(5, 9)), 6)).astype(np.float32)
    return {f"clip{k:02}": {"made": draw() + shift, "truth": draw()} for k in range(count)}


@pytest.mark.parametrize("shards", [1, 2, 8])
@pytest.mark.parametrize(
    "metric, results",
    [(MEAN, numbers()), (FRECHET, features()), (PUPPETS[-1], features(seed=3))],
    ids=lambda x: getattr(x, "name", ""),
)
def test_merging_shards_in_any_order_gives_the_same(metric, results, shards):
    whole = Accumulator(metric).add(results)
    names = list(results)
    np.random.default_rng(shards).shuffle(names)
    merged = Accumulator(metric)
    for part in range(shards):
        part = Accumulator(metric).add({n: results[n] for n in names[part::shards]})
        merged = part.merged(merged)
    assert merged.value() == pytest.approx(whole.value(), abs=1e-10)
    one, other = whole.estimate(), merged.estimate()
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-10)
    assert one.count == len(results)


def test_a_set_is_at_no_distance_from_itself():
    same = {n: {"made": p["truth"], "truth": p["truth"]} for n, p in features(shift=0).items()}
    assert Accumulator(FRECHET, same).value() == pytest.approx(0, abs=1e-9)
    assert Accumulator(PUPPETS[-1], same).value() == pytest.approx(0, abs=1e-9)


def test_an_interval_holds_the_true_mean_about_19_times_in_20():
    held = 0
    for seed in range(200):
        found = Accumulator(MEAN, numbers(30, seed)).estimate(seed)
        held += found.low <= 0.3 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_intervals_repeat_and_lie_about_the_value():
    kept = Accumulator(FRECHET, features())
    one, other = kept.estimate(seed=1), kept.estimate(seed=1)
    assert one == other and one.low < one.value < one.high
    assert kept.estimate(seed=2).low != one.low


def test_few_clips_and_few_samples_are_warned_of():
    few = Accumulator(FRECHET, features(count=1)).estimate()
    assert "1 clips are few" in few.warning and few.low is None
    thin = {f"{k}": {"made": np.eye(6)[:1] * k, "truth": np.eye(6)[1:2]} for k in range(4)}
    assert "biased upwards" in Accumulator(FRECHET, thin).estimate().warning
    assert Accumulator(MEAN, numbers()).estimate().warning == ""
    assert Accumulator(FRECHET, features(count=20)).estimate().warning == ""


def test_a_clip_counts_once_and_only_finite_numbers_do():
    kept = Accumulator(MEAN, {"a": 1.0})
    with pytest.raises(InputError, match="Clip a has two results"):
        kept.merged(Accumulator(MEAN, {"a": 2.0}))
    with pytest.raises(InputError, match="cannot be added"):
        kept.merged(Accumulator(FRECHET))
    with pytest.raises(InputError, match="of clip b is nan"):
        accumulator.of(MEAN, {"b": float("nan")})
