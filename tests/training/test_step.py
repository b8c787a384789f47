"""The step: an update is what mathematics says, whatever the parts, and bad numbers change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from omnihuman_jax import mesh as meshes
from omnihuman_jax.errors import InputError
from omnihuman_jax.training import state
from omnihuman_jax.training.parts import WHOLE
from omnihuman_jax.training.step import Update, make_step, part_of
from omnihuman_jax.training.task import tally

KEY = jax.random.key(0)


def loss(params, batch, key):
    noise = jax.vmap(lambda s: jax.random.normal(jax.random.fold_in(key, s), ()))(batch["sample"])
    values = (batch["x"] @ params["w"] + params["b"] - batch["y"] - 0.1 * noise) ** 2
    return jnp.mean(values), {"error": tally(values)}


def batch(rows=8, seed=0):
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, 3)).astype(np.float32)
    return {"x": x, "y": x @ np.float32([1, -2, 3]), "sample": np.arange(rows, dtype=np.uint32)}


def begin(transform, ema=True):
    where = NamedSharding(meshes.make_mesh(), PartitionSpec())
    params = {"w": np.zeros(3, np.float32), "b": np.zeros((), np.float32)}
    params = {name: jax.device_put(value, where) for name, value in params.items()}
    shapes = jax.eval_shape(transform.init, params)
    shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes)
    return state.create(params, {WHOLE: transform.init}, {WHOLE: shapes}, ema)


def run(update, steps, transform=None, data=None):
    transform = transform or optax.sgd(0.1)
    now, step = (
        begin(transform, update.ema is not None),
        jax.jit(make_step(loss, transform, update)),
    )
    seen = []
    for n in range(steps):
        now, tallies = step(now, {}, batch(seed=n) if data is None else data(n), KEY)
        seen.append(tallies)
    return now, seen


def test_a_loss_falls():
    now, seen = run(Update(clip=10.0), 60)
    assert seen[-1]["loss"][0] < 0.05 * seen[0]["loss"][0]
    np.testing.assert_allclose(now.params["w"], [1, -2, 3], atol=0.3)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_batch_in_parts_gives_the_same_update(parts):
    whole, _ = run(Update(), 3)
    cut, _ = run(Update(accumulate=parts), 3)
    for name in whole.params:
        np.testing.assert_allclose(cut.params[name], whole.params[name], rtol=1e-5, atol=1e-6)


def test_a_batch_that_cannot_be_cut_says_so():
    with pytest.raises(InputError, match="cannot be cut into 3 parts"):
        run(Update(accumulate=3), 1)


def test_clipping_keeps_the_direction_and_bounds_the_length():
    big, _ = run(Update(clip=1e9, ema=None), 1)
    small, _ = run(Update(clip=0.01, ema=None), 1)
    a, b = np.asarray(big.params["w"]), np.asarray(small.params["w"])
    length = np.sqrt(np.sum(b**2) + np.asarray(small.params["b"]) ** 2)
    assert length == pytest.approx(0.1 * 0.01, rel=1e-4)  # the learning rate times the clip
    np.testing.assert_allclose(a / np.linalg.norm(a), b / np.linalg.norm(b), rtol=1e-4)


def poisoned(n):
    data = batch(seed=n)
    if n == 2:
        data["y"] = data["y"] * np.float32(np.nan)
    return data


def test_a_batch_with_nan_changes_nothing_but_the_counters():
    two, _ = run(Update(), 2, optax.adam(0.1))
    three, seen = run(Update(), 3, optax.adam(0.1), poisoned)
    for a, b in zip(
        jax.tree.leaves((two.params, two.ema, two.opt)),
        jax.tree.leaves((three.params, three.ema, three.opt)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert int(three.step) == 3
    assert int(three.guard[WHOLE].row) == int(three.guard[WHOLE].skipped) == 1
    assert np.isnan(seen[2]["loss"][0])  # and it is reported as it was
    four, _ = run(Update(), 4, optax.adam(0.1), poisoned)
    assert int(four.guard[WHOLE].row) == 0
    assert int(four.guard[WHOLE].skipped) == 1


def test_a_spike_is_skipped_once_the_usual_is_known():
    def spiked(n):
        data = batch(seed=n)
        return {**data, "y": data["y"] * 1000} if n == 5 else data

    now, seen = run(Update(settle=3, spike=5.0), 7, data=spiked)
    assert [float(t["skipped"][0]) for t in seen] == [0, 0, 0, 0, 0, 1, 0]
    assert np.isfinite(now.params["w"]).all()
    early, _ = run(Update(settle=100, spike=5.0), 7, data=spiked)
    assert int(early.guard[WHOLE].skipped) == 0


def test_the_average_follows_the_parameters():
    """With a decay of d it is d a + (1 - d) p, reached from (1 + n) / (10 + n)."""
    _, _ = run(Update(ema=0.5), 1)
    transform, update = optax.sgd(0.1), Update(ema=0.5)
    step, now = jax.jit(make_step(loss, transform, update)), begin(transform)
    average = np.zeros(3)
    for n in range(4):
        now, _ = step(now, {}, batch(seed=n), KEY)
        keep = min(0.5, (1 + n) / (10 + n))
        average = keep * average + (1 - keep) * np.asarray(now.params["w"])
    np.testing.assert_allclose(now.ema["w"], average, rtol=1e-5)


def test_randomness_is_of_the_step_and_the_sample_not_of_the_place():
    transform = optax.sgd(0.1)
    step = jax.jit(make_step(loss, transform, Update()))
    one, _ = step(begin(transform), {}, batch(), KEY)
    order = np.random.default_rng(1).permutation(8)
    two, _ = step(begin(transform), {}, {k: v[order] for k, v in batch().items()}, KEY)
    np.testing.assert_allclose(one.params["w"], two.params["w"], rtol=1e-5)


def test_frozen_parameters_are_used_and_not_changed():
    transform = optax.sgd(0.1)
    step = jax.jit(make_step(loss, transform, Update()))
    now = begin(transform)
    bias = {"b": jnp.float32(2.0)}
    only = state.State(now.step, {"w": now.params["w"]}, {"w": now.params["w"]},
                       {WHOLE: transform.init({"w": now.params["w"]})}, now.guard)  # fmt: skip
    after, tallies = step(only, bias, batch(), KEY)
    assert set(after.params) == {"w"}
    free, other = step(now, {}, batch(), KEY)
    assert float(tallies["loss"][0]) != pytest.approx(float(other["loss"][0]), rel=1e-3)
    del free


def test_parts_of_a_network_are_named_by_their_blocks():
    assert part_of("blocks/self_attn/q/kernel") == "blocks/self_attn"
    assert part_of("text_in/kernel") == "text_in"


@pytest.mark.parametrize("wrong", [{"clip": 0}, {"ema": 1.0}, {"accumulate": 0}, {"spike": -1}])
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(InputError):
        Update(**wrong)
