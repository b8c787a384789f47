"""Two processes make one dump: each writes its clips of every lesson, and all are found where they belong."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from omnihuman_jax import mesh as meshes
from omnihuman_jax import processes
from omnihuman_jax.conditions import Batch, Conditions
from omnihuman_jax.data.dumps import DumpSource
from omnihuman_jax.training.distill import dumping
from omnihuman_jax.training.distill.dumping import Lesson

pytestmark = pytest.mark.slow

BATCH, COUNT, LEVELS = 4, 5, 8
SHAPE = (2, 2, 2, 3)


def lesson(n, mesh):
    """Batch n of a teacher that says what its inputs are; this process's rows, on its devices."""
    rng = np.random.default_rng(n)
    x0, x, velocity = rng.standard_normal((3, BATCH, *SHAPE), np.float32)
    whole = Lesson(
        batch=Batch(
            latents=x0,
            conditions=Conditions(
                text=rng.standard_normal((BATCH, 2, 3), np.float32),
                present={"text": rng.random(BATCH) < 0.5},
            ),
            sample=np.arange(BATCH, dtype=np.uint32) + 10 * n,
        ),
        shown=np.zeros(BATCH, bool),
        level=rng.integers(0, LEVELS, BATCH).astype(np.int32),
        x=x,
        velocity=velocity,
    )
    count, number = jax.process_count(), jax.process_index()
    share = BATCH // count
    mine = jax.tree.map(lambda a: a[number * share : (number + 1) * share], whole)
    return meshes.rows(mine, mesh)


def make(folder):
    mesh = meshes.make_mesh(data=jax.process_count(), devices=jax.devices()[: jax.process_count()])
    with jax.set_mesh(mesh):
        dumping.make(
            str(folder),
            lambda first: (lesson(n, mesh) for n in range(first, COUNT)),
            COUNT,
            channels=SHAPE[-1],
            negative=np.zeros((0, 3), np.float32),
            times=np.linspace(0.1, 1, LEVELS),
            guidance=7.5,
            settings={"batch": BATCH},
            say=lambda line: print(line),
        )


def main(folder):
    """What a process does."""
    dumping.BLOCK = 2
    with processes.joined():
        make(folder)


def test_two_processes_make_one_dump(tmp_path, monkeypatch):
    monkeypatch.setattr(dumping, "BLOCK", 2)
    make(tmp_path / "alone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "XLA_FLAGS": "",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    words = [sys.executable, "-m", "tests.training.distill.test_dumping_processes"]
    running = [
        subprocess.Popen(
            [*words, str(tmp_path / "both")],
            env={**shared, "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert all(text.count("dump: ") == 3 for text in said), "three blocks"
    alone, both = (DumpSource(str(tmp_path / name)) for name in ("alone", "both"))
    assert len(alone) == len(both) == BATCH * COUNT
    assert both.info.settings["hosts"] == 2
    for n in range(COUNT):
        for row in range(BATCH):
            of = dict(batch=BATCH, block=2, count=COUNT)
            one = alone[dumping.place(n, row, hosts=1, **of)]
            other = both[dumping.place(n, row, hosts=2, **of)]
            assert int(one.extras["sample"]) == 10 * n + row == int(other.extras["sample"])
            for name in ("noise", "latents", "v_teacher", "positive_context"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert one.t == other.t
            np.testing.assert_array_equal(one.extras["present"], other.extras["present"])


if __name__ == "__main__":
    main(*sys.argv[1:])
