"""Without a cloud: processes on loopback, one is killed, and the run ends in the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from omnihuman_jax.health import FILE
from tests.tpu import small
from tests.tpu.launcher import LAUNCH
from tests.tpu.small import STEPS
from tests.training import test_loop

pytestmark = pytest.mark.slow

SMALL = "tests/tpu/small.py"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    world = tmp_path_factory.mktemp("world")
    return {
        **os.environ,
        "LAUNCH_STATE": str(world / "launch"),
        "LAUNCH_PAUSE": "0.5",
        "OMNIHUMAN_PYTHON": sys.executable,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
    }


def launch(environment, *words):
    return subprocess.run(
        [LAUNCH, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=600,
    )


def undisturbed(environment, workdir, count):
    """The run, start to end, without anybody who watches."""
    name = f"calm-{count}"
    for subcommand in ("create", "run"):
        words = (subcommand, name, "--type", f"local-{count}", "--workdir", workdir)
        done = launch(environment, *words, "--", SMALL)
        assert done.returncode == 0, done.stdout + done.stderr
    while "state=running" in (said := launch(environment, "status", name).stdout):
        time.sleep(0.5)
    assert said.count("state=ended code=0") == count, said
    assert launch(environment, "delete", name).returncode == 0


def kill_one(environment, name, number, workdir, step):
    """The training process of a worker, by its own number, once the run has made so many steps."""
    metrics = Path(workdir) / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < step:
        time.sleep(0.01)
    folder = Path(environment["LAUNCH_STATE"]) / name / "workers" / str(number)
    parent = int((folder / "process").read_text())
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (training,) = [
        c for c in children if b"omnihuman_jax" in Path(f"/proc/{c}/cmdline").read_bytes()
    ]
    os.kill(int(training), signal.SIGKILL)


@pytest.mark.parametrize("count", [2, 4])
def test_a_killed_worker_is_replaced_and_the_run_ends_in_the_same_bits(
    environment, tmp_path, count
):
    undisturbed(environment, tmp_path / "calm", count)
    workdir, name = tmp_path / "shaken", f"shaken-{count}"
    options = ("--type", f"local-{count}", "--workdir", workdir, "--keep")
    with subprocess.Popen(
        [LAUNCH, *map(str, ("babysit", name, *options, "--", SMALL))],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as babysitter:
        kill_one(environment, name, count - 1, workdir, 12)
        said = babysitter.communicate(timeout=600)[0]
    assert babysitter.returncode == 0, said
    assert f"run {name} goes on from its last checkpoint" in said, said
    assert f"finished at step {STEPS}" in said
    # The others have said who is missing, and nobody had to kill them.
    logs = "".join(path.read_text() for path in (workdir / "logs").glob("*worker-0.log"))
    assert f"process {count - 1} on worker-{count - 1}" in logs, logs
    assert "Going on from step" in logs
    assert json.loads((workdir / FILE).read_text())["state"] == "finished"
    calm = test_loop.losses(tmp_path / "calm")
    assert len(calm) == STEPS and test_loop.losses(workdir) == calm
    calm, shaken = (test_loop.state_of(f, small.experiment) for f in (tmp_path / "calm", workdir))
    assert calm[0] == STEPS
    test_loop.check_equal(calm, shaken)
    assert launch(environment, "delete", name).returncode == 0
