"""Checkpoints: what comes back is what was saved, to the bit, and only what was saved whole."""

import errno
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from omnihuman_jax import mesh as meshes
from omnihuman_jax import storage
from omnihuman_jax.errors import InputError
from omnihuman_jax.training import checkpoint_rules as rules
from omnihuman_jax.training import optimizers, state
from omnihuman_jax.training.checkpoints import Checkpoints
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.parts import WHOLE
from tests.cloud import cloud
from tests.faults import Faults, faults

__all__ = ["cloud", "faults"]
DATA = {"stage": "audio", "stream": {"batches": 7, "plan": {"seed": 0, "mix": [0.5, None]}}}
CONFIG = {"name": "t", "steps": 3, "nested": {"a": [1, 2.5, True]}}


def made(mesh=None, scale=1.0, width=16):
    """A state with every kind of leaf, and its abstract twin."""
    mesh = mesh or meshes.make_mesh(data=2, fsdp=4)
    shapes = {
        "blocks/up/kernel": jax.ShapeDtypeStruct(
            (2, 8, width), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(None, "fsdp"))
        ),
        "norm/scale": jax.ShapeDtypeStruct(
            (8,), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec())
        ),
    }
    transform = Optimizer().make(shapes, 10)
    opt_shapes = optimizers.state_shapes(transform, shapes)
    source = np.random.default_rng(0)
    params = {
        path: jax.device_put(scale * source.standard_normal(s.shape).astype(np.float32), s.sharding)
        for path, s in shapes.items()
    }
    now = state.create(params, {WHOLE: transform.init}, {WHOLE: opt_shapes}, True)
    return now, state.abstract(shapes, {WHOLE: opt_shapes}, True)


def check_same(one, other):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def saved(folder, steps=(1, 2), keep=3):
    """A folder with checkpoints whose parameters are multiplied by the step."""
    checkpoints = Checkpoints(str(folder), keep=keep)
    for step in steps:
        checkpoints.save(step, made(scale=step)[0], DATA, CONFIG)
    checkpoints.close()


def restored(folder, mesh=None):
    checkpoints = Checkpoints(str(folder))
    try:
        return checkpoints.restore(made(mesh)[1])
    finally:
        checkpoints.close()


def test_everything_comes_back_to_the_bit(tmp_path):
    saved(tmp_path)
    found = restored(tmp_path)
    assert (found.step, found.data, found.config) == (2, DATA, CONFIG)
    check_same(found.state, made(scale=2)[0])


def test_onto_other_devices_and_each_holds_only_its_part(tmp_path):
    saved(tmp_path)
    mesh = meshes.make_mesh(data=1, fsdp=2, devices=jax.devices()[:2])
    found = restored(tmp_path, mesh)
    check_same(found.state, made(scale=2)[0])
    kernel = found.state.opt[WHOLE][0].mu["blocks/up/kernel"]
    assert kernel.addressable_shards[0].data.size * 2 == kernel.size


def test_a_new_folder_has_none(tmp_path):
    assert restored(tmp_path / "new") is None


def test_a_state_may_be_given_away_at_once(tmp_path):
    checkpoints = Checkpoints(str(tmp_path))
    now, abstract = made()
    expected = jax.tree.map(np.asarray, now)
    checkpoints.save(1, now, DATA, CONFIG)
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    jax.block_until_ready(advance(now))
    checkpoints.wait()
    check_same(checkpoints.restore(abstract).state, expected)
    checkpoints.close()


def test_old_ones_go_when_enough_newer_ones_are_whole(tmp_path):
    saved(tmp_path, steps=(1, 2, 3, 4), keep=2)
    checkpoints = Checkpoints(str(tmp_path))
    assert checkpoints.steps() == [3, 4]
    checkpoints.close()


def damage(folder, how):
    """Damage the largest file of the arrays of step 2."""
    files = [p for p in (Path(folder) / "step_00000002/state").rglob("*") if p.is_file()]
    file = max(files, key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    if how == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif how == "flip":
        data[len(data) // 2] ^= 16
        file.write_bytes(data)
    elif how == "gone":
        file.unlink()


@pytest.mark.parametrize("how", ["cut", "flip", "gone"])
def test_a_damaged_one_is_passed_over_with_a_warning(tmp_path, how, caplog):
    saved(tmp_path)
    damage(tmp_path, how)
    with caplog.at_level(logging.WARNING):
        found = restored(tmp_path)
    assert found.step == 1
    check_same(found.state, made(scale=1)[0])
    assert "step_00000002" in caplog.text


def test_an_unfinished_one_is_passed_over(tmp_path):
    saved(tmp_path)
    (tmp_path / "step_00000002" / rules.MANIFEST).unlink()
    assert restored(tmp_path).step == 1


def test_if_all_are_damaged_the_run_does_not_start_anew(tmp_path):
    saved(tmp_path, steps=(2,))
    damage(tmp_path, "cut")
    with pytest.raises(InputError, match="None of the 1 checkpoints"):
        restored(tmp_path)


def test_that_of_another_network_is_not_damaged_but_another(tmp_path):
    saved(tmp_path)
    checkpoints = Checkpoints(str(tmp_path))
    with pytest.raises(InputError, match=r"blocks/up/kernel: float32\[2, 8, 16\] there"):
        checkpoints.restore(made(width=32)[1])
    checkpoints.close()


def test_a_full_disk_is_one_line_and_costs_no_earlier_checkpoint(tmp_path, monkeypatch):
    saved(tmp_path, steps=(1,))
    checkpoints = Checkpoints(str(tmp_path))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*_, **__):
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", refuse)
        checkpoints.save(2, made(scale=2)[0], DATA, CONFIG)
        with pytest.raises(InputError, match=r"step_00000002 could not be saved: .*No space left"):
            checkpoints.wait()
    assert checkpoints.steps() == [1]
    assert not (tmp_path / "step_00000002").exists()
    checkpoints.save(2, made(scale=2)[0], DATA, CONFIG)  # there is room again
    checkpoints.close()
    assert restored(tmp_path).step == 2


def test_what_is_no_json_is_refused_before_anything_is_written(tmp_path):
    checkpoints = Checkpoints(str(tmp_path))
    with pytest.raises(InputError, match="data/stream"):
        checkpoints.save(1, made()[0], {"stream": object()}, CONFIG)
    assert not rules.found(str(tmp_path))
    checkpoints.close()


def test_on_a_bucket(cloud):
    saved(f"{cloud}/run", steps=(1, 2, 3), keep=2)
    found = restored(f"{cloud}/run")
    assert (found.step, found.data) == (3, DATA)
    check_same(found.state, made(scale=3)[0])


def test_a_bucket_that_fails_now_and_then(faults: Faults, cloud):
    for match in ("POST /upload", "GET /storage"):
        for _ in range(2):
            faults.add(match, status=503)
    saved(f"{cloud}/shaky", steps=(1,))
    for _ in range(2):
        faults.add("GET /", status=503)
    check_same(restored(f"{cloud}/shaky").state, made(scale=1)[0])


WRITER = """
import sys
from tests.training import test_checkpoints as t
from omnihuman_jax.training.checkpoints import Checkpoints
c = Checkpoints(sys.argv[1], keep=2)
for step in range(1, 1000):
    c.save(step, t.made(scale=step)[0], t.DATA, t.CONFIG)
    print(step, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_plug_pulled_at_any_moment_leaves_a_whole_one(tmp_path, seed):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, **flags},
    )
    for _ in range(3):
        assert process.stdout.readline()
    time.sleep(random.Random(seed).uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = restored(tmp_path)
    assert found.step >= 2
    check_same(found.state, made(scale=found.step)[0])
