"""Checkpoints, when things go wrong: any byte changed, a full disk, a failing service, other processes."""

import errno
import logging
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from omnihuman_jax import mesh as meshes
from omnihuman_jax import storage
from omnihuman_jax.errors import InputError
from omnihuman_jax.training import checkpoint_rules as rules
from omnihuman_jax.training.checkpoints import Checkpoints
from tests.cloud import cloud
from tests.faults import Faults, faults

__all__ = ["cloud", "faults"]  # fixtures


class Moments(NamedTuple):
    first: dict
    count: jax.Array


def made(step, width=16):
    """A small state whose contents tell the step; parts of it on each of eight devices."""
    mesh = meshes.make_mesh(data=1, fsdp=8)

    def put(value, *axes):
        return jax.device_put(value, NamedSharding(mesh, PartitionSpec(*axes)))

    kernel = step + np.random.default_rng(0).standard_normal((16, width)).astype(np.float32)
    return {
        "step": put(np.int32(step)),
        "params": {"blocks/kernel": put(kernel, "fsdp")},
        "ema": None,
        "opt": (Moments({"blocks/kernel": put(-kernel, None, "fsdp")}, put(np.int32(step))), None),
    }


def abstract(width=16):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), made(0, width)
    )


def check(found, step):
    """That this is the state of the step, laid out as asked; on several processes its part here."""
    assert found.step == step
    wanted = made(step)
    assert jax.tree.structure(found.state) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found.state), jax.tree.leaves(wanted), strict=True):
        assert one.sharding == other.sharding
        for a, b in zip(one.addressable_shards, other.addressable_shards, strict=True):
            np.testing.assert_array_equal(a.data, b.data)


def write(folder, *steps, keep=3):
    checkpoints = Checkpoints(str(folder), keep=keep)
    for step in steps:
        checkpoints.save(step, made(step), {"at": step}, {})
    checkpoints.close()


def files_of(folder, step):
    where = Path(rules.place(str(folder), step))
    return sorted(path for path in where.rglob("*") if path.is_file())


def spoil(path, how):
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[:-1])
    elif how == "flip":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["cut", "flip", "gone"])
def test_damage_to_any_file_is_noticed(tmp_path, how):
    """So a save that was stopped between any two of its files is not whole either."""
    write(tmp_path, 1)
    for path in files_of(tmp_path, 1):
        before = path.read_bytes()
        spoil(path, how)
        where = str(path.parents[len(path.relative_to(tmp_path).parts) - 2])
        with pytest.raises(rules.DamagedError):
            rules.verify(where, rules.open_manifest(where, rules.found(str(tmp_path))[1]), 0, 1)
        path.write_bytes(before)
    rules.verify(where, rules.open_manifest(where, rules.found(str(tmp_path))[1]), 0, 1)


def test_all_kinds_of_leaves_and_of_json_come_back(tmp_path):
    one = jax.devices()[0]
    state = {
        "bfloat16": jax.device_put(jnp.full((3, 2), 1 / 3, jnp.bfloat16), one),
        "flag": jax.device_put(jnp.array(True), one),
        "empty": jax.device_put(jnp.zeros((0, 3)), one),
        "count": np.int64(2**40),
        "numbers": np.arange(5, dtype=np.uint8),
        "python": 0.1,
        "none": (None, [jax.device_put(jnp.uint32(7), one)]),
    }
    data = {"a": [1, -2.5, 1e-300, None, True, "ü"], "b": {"c": {}, "d": []}, "e": 2**60}
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(5, state, data, {"pair": (1, 2)})
    found = checkpoints.restore(state)
    checkpoints.close()
    assert found.data == data
    assert found.config == {"pair": [1, 2]}
    assert jax.tree.structure(found.state) == jax.tree.structure(state)
    for got, wanted in zip(jax.tree.leaves(found.state), jax.tree.leaves(state), strict=True):
        assert np.asarray(got).dtype == np.asarray(wanted).dtype
        np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))


def test_if_the_first_save_was_stopped_the_run_starts_anew(tmp_path, caplog):
    write(tmp_path, 1)
    (tmp_path / "step_00000001" / rules.MANIFEST).unlink()
    checkpoints = Checkpoints(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert checkpoints.restore(abstract()) is None
    assert "step_00000001: it was never finished" in caplog.text
    checkpoints.save(1, made(1), {}, {})  # in the place of what was left
    check(checkpoints.restore(abstract()), 1)
    checkpoints.close()


def test_a_damaged_one_is_never_kept_in_the_place_of_a_whole_one(tmp_path):
    """keep=1, the newest damaged: the one before it stays until a newer one is whole."""
    write(tmp_path, 1, 2, keep=2)
    spoil(max(files_of(tmp_path, 2), key=lambda p: p.stat().st_size), "flip")
    checkpoints = Checkpoints(str(tmp_path), keep=1)
    check(checkpoints.restore(abstract()), 1)
    checkpoints.save(2, made(2), {}, {})  # the run comes by again
    checkpoints.wait()
    assert checkpoints.steps() == [2]
    check(checkpoints.restore(abstract()), 2)
    checkpoints.close()


def test_another_run_is_not_overwritten(tmp_path):
    write(tmp_path, 3)
    checkpoints = Checkpoints(str(tmp_path))
    with pytest.raises(InputError, match="checkpoint of step 3 of a run that is not this one"):
        checkpoints.save(2, made(2), {}, {})
    checkpoints.close()
    assert len(files_of(tmp_path, 3)) > 3


def test_that_of_another_optimizer_stops_the_run_and_names_what_differs(tmp_path):
    write(tmp_path, 1, 2)
    checkpoints = Checkpoints(str(tmp_path))
    other = abstract() | {"ema": abstract()["params"]}
    with pytest.raises(InputError, match=r"ema/blocks/kernel: nothing there, float32\[16, 16\]"):
        checkpoints.restore(other)
    checkpoints.close()


def test_a_disk_that_takes_no_more_leaves_the_earlier_ones_and_nothing_else(tmp_path):
    """The kernel itself refuses: files may not grow, while arrays are written by the real writer."""
    write(tmp_path, 1)
    checkpoints = Checkpoints(str(tmp_path))
    check(checkpoints.restore(abstract()), 1)
    large = {"noise": jnp.asarray(np.random.default_rng(0).standard_normal((512, 512), np.float32))}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        checkpoints.save(2, large, {}, {})
        with pytest.raises(
            InputError, match=r"step_00000002 could not .* up to 0.00105 GB, .* free"
        ):
            checkpoints.save(3, large, {}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    checkpoints.wait()  # it was told once
    assert os.listdir(tmp_path) == ["step_00000001"]
    check(checkpoints.restore(abstract()), 1)
    checkpoints.save(4, made(4), {}, {})
    checkpoints.close()
    assert checkpoints.steps() == [1, 4]


def test_old_ones_that_cannot_be_removed_are_no_failed_save(tmp_path, monkeypatch, caplog):
    def refuse(where):
        if where.endswith("step_00000001"):
            raise PermissionError(errno.EACCES, "Permission denied", where)

    write(tmp_path, 1)
    checkpoints = Checkpoints(str(tmp_path), keep=1)
    check(checkpoints.restore(abstract()), 1)
    monkeypatch.setattr(rules, "remove", refuse)
    with caplog.at_level(logging.WARNING):
        checkpoints.save(2, made(2), {}, {})
        checkpoints.close()
    assert "Permission denied" in caplog.text
    assert checkpoints.steps() == [1, 2]


@pytest.fixture
def flaky(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> Faults:
    """The proxy, also before what Orbax reads and writes arrays through."""
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", faults.url)
    return faults


@pytest.mark.slow  # each client waits a second or more before it asks again
@pytest.mark.parametrize("failure", [{"status": 503}, {"drop": True}], ids=["503", "reset"])
def test_a_service_that_fails_now_and_then_costs_only_time(flaky, cloud, failure):
    folder = f"{cloud}/{next(iter(failure))}"
    # Arrays, Orbax's notes, our manifest; and what lists folders.
    for match in ("o?uploadType=media", "resumable&name", "manifest.json", "GET /storage"):
        flaky.add(match, **failure)
    write(folder, 1)
    for match in ("ocdbt", "GET /storage", "GET /download", "config.json"):
        flaky.add(match, **failure)
    checkpoints = Checkpoints(folder)
    found = checkpoints.restore(abstract())
    checkpoints.close()
    check(found, 1)
    assert found.data == {"at": 1}
    assert not flaky.left()  # all of it happened


def test_a_truncated_object_is_noticed(cloud):
    write(f"{cloud}/cut", 1, 2)
    where = rules.place(f"{cloud}/cut", 2)
    sizes = storage.files(where)
    largest = storage.join(where, max(sizes, key=sizes.__getitem__))
    storage.write_bytes(largest, storage.read_bytes(largest)[:-1])
    checkpoints = Checkpoints(f"{cloud}/cut")
    check(checkpoints.restore(abstract()), 1)
    checkpoints.close()


PEER = """
import errno, os, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
from omnihuman_jax import storage
from omnihuman_jax.errors import InputError
from tests.training import test_checkpoint_faults as t

first = jax.process_index() == 0
checkpoints = t.Checkpoints(sys.argv[1], keep=2)
found = checkpoints.restore(t.abstract())
t.check(found, 1)  # of step 2 one process read a damaged file
assert found.data == {"at": 1}
checkpoints.save(3, t.made(3), {"of": "first" if first else "second"}, {})
checkpoints.wait()
assert checkpoints.steps() == [1, 3], checkpoints.steps()

write_bytes = storage.write_bytes
def full(path, data):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
if first:
    storage.write_bytes = full
checkpoints.save(4, t.made(4), {}, {})
try:
    checkpoints.wait()
    sys.exit("nothing was raised")
except InputError as why:
    assert ("No space left" if first else "Another process") in str(why), why
storage.write_bytes = write_bytes
checkpoints.save(5, t.made(5), {"of": "first" if first else "second"}, {})
checkpoints.close()
"""


@pytest.mark.slow
def test_two_processes_and_one_read_each_others(tmp_path):
    """Both take the same one though only one sees the damage, fail together, and write one."""
    write(tmp_path, 1, 2)
    spoil(files_of(tmp_path, 2)[-1], "flip")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    peers = [
        subprocess.Popen(
            [sys.executable, "-c", PEER, str(tmp_path), address, str(index)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        said = [peer.communicate(timeout=100)[1] for peer in peers]
    finally:
        for peer in peers:
            peer.kill()
    assert [peer.returncode for peer in peers] == [0, 0], said
    checkpoints = Checkpoints(str(tmp_path))
    assert checkpoints.steps() == [3, 5]
    found = checkpoints.restore(abstract())
    checkpoints.close()
    check(found, 5)
    assert found.data == {"of": "first"}
