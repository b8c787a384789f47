"""Without a cloud: processes on loopback, one is killed, and the run ends in the same bits."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from omnihuman_jax import config
from omnihuman_jax.training.health import FILE
from tests.tpu.launcher import LAUNCH
from tests.training import test_loop

pytestmark = pytest.mark.slow

SMALL = "tests/tpu/small.py"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Where the world is, and the environment of whoever uses it."""
    where = tmp_path_factory.mktemp("world")
    patch = pytest.MonkeyPatch()
    patch.setenv("SMALL_WORLD", str(where))
    experiment = config.load(SMALL, [])
    yield where, experiment
    patch.undo()


def environment(world):
    return {
        **os.environ,
        "SMALL_WORLD": str(world),
        "LAUNCH_STATE": str(world / "launch"),
        "LAUNCH_PAUSE": "0.5",
        "OMNIHUMAN_PYTHON": sys.executable,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(world / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }


def launch(world, *words, **options):
    return subprocess.run(
        [LAUNCH, *words],
        env=environment(world),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=600,
        **options,
    )


def undisturbed(world, workdir, count):
    """The run, start to end, without anybody who watches."""
    name = f"calm-{count}"
    for subcommand in ("create", "run"):
        words = (subcommand, name, "--type", f"local-{count}", "--workdir", str(workdir))
        done = launch(world, *words, "--", SMALL)
        assert done.returncode == 0, done.stdout + done.stderr
    while "state=running" in (said := launch(world, "status", name).stdout):
        time.sleep(0.5)
    assert said.count("state=ended code=0") == count, said
    launch(world, "delete", name)


def kill_one(world, name, number, workdir, step):
    """The training process of a worker, by its own number, once the run has made so many steps."""
    metrics = Path(workdir) / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < step:
        time.sleep(0.01)
    parent = int((world / f"launch/{name}/workers/{number}/process").read_text())
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (training,) = [
        c for c in children if b"omnihuman_jax" in Path(f"/proc/{c}/cmdline").read_bytes()
    ]
    os.kill(int(training), signal.SIGKILL)


@pytest.mark.parametrize("count", [2, 4])
def test_a_killed_worker_is_replaced_and_the_run_ends_in_the_same_bits(world, tmp_path, count):
    folder, experiment = world
    undisturbed(folder, tmp_path / "calm", count)
    workdir = tmp_path / "shaken"
    name = f"shaken-{count}"
    words = (
        "babysit",
        name,
        "--type",
        f"local-{count}",
        "--workdir",
        workdir,
        "--keep",
        "--",
        SMALL,
    )
    with subprocess.Popen(
        [LAUNCH, *map(str, words)],
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as babysitter:
        kill_one(folder, name, count - 1, workdir, 12)
        said = babysitter.communicate(timeout=600)[0]
    assert babysitter.returncode == 0, said
    assert f"host=worker-{count - 1} state=ended code=137" in re.sub(r"; *", " ", said)
    assert "finished at step 60" in said
    # The others have said who is missing, and nobody had to kill them.
    logs = "".join(path.read_text() for path in (workdir / "logs").glob("*worker-0.log"))
    assert f"process {count - 1} on worker-{count - 1}" in logs, logs
    assert "Going on from step" in logs
    assert '"state": "finished"' in (workdir / FILE).read_text()
    assert test_loop.losses(workdir) == test_loop.losses(tmp_path / "calm")
    calm, shaken = (test_loop.state_of(where, experiment) for where in (tmp_path / "calm", workdir))
    test_loop.check_equal(calm, shaken)
    launch(folder, "delete", name)
