"""Two processes on loopback are one run: the same losses, one checkpoint, any number of processes after."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from omnihuman_jax.training.experiment import Saving
from omnihuman_jax.training.loop import train
from tests.training import test_loop, worlds

pytestmark = pytest.mark.slow

STEPS = 8


def experiment(folder):
    """Eight updates on all conditions."""
    return test_loop.experiment(
        folder, stages=(worlds.stage("pose", steps=STEPS, batch=4),), save=Saving(every=3)
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    where = tmp_path_factory.mktemp("world")
    worlds.task(where)
    return where


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """The run of one process with eight devices."""
    workdir = tmp_path_factory.mktemp("alone")
    assert train(experiment(world), str(workdir)).finished
    return workdir


def begin(world, workdir):
    """The same run as two processes with four devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "XLA_FLAGS": "",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_COMPILATION_CACHE_DIR": str(world / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.worker", "4", str(world), str(workdir)],
            env={**shared, "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=(world / f"errors-{number}").open("w"),
            text=True,
        )
        for number in range(2)
    ]


def finish(processes, seconds=240):
    """What each printed, once all have ended well."""
    outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return outputs


def await_step(workdir, step, processes):
    path = workdir / "metrics.jsonl"
    while all(process.poll() is None for process in processes):
        if path.exists() and path.read_text().count("\n") >= step:
            return
        time.sleep(0.02)
    raise AssertionError([process.returncode for process in processes])


def check_same_losses(one, other):
    """To 1e-5: sums over devices are in another order (measured 3e-7)."""
    one, other = (test_loop.losses(workdir) for workdir in (one, other))
    assert one.keys() == other.keys() == set(range(1, STEPS + 1))
    np.testing.assert_allclose([*one.values()], [other[step] for step in one], rtol=1e-5)


def test_two_processes_have_the_losses_of_one(world, alone, tmp_path):
    outputs = finish(begin(world, tmp_path))
    assert all("finished=True" in output for output in outputs)
    check_same_losses(tmp_path, alone)


def test_a_killed_process_stops_the_other_with_a_clear_line_and_a_restart_goes_on(
    world, alone, tmp_path
):
    processes = begin(world, tmp_path)
    await_step(tmp_path, 5, processes)
    processes[1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    assert processes[0].wait(timeout=120) == 1
    assert time.monotonic() - began < 90  # and not for ever
    line = (world / "errors-0").read_text().splitlines()[-1]
    assert "Another process of this run is gone" in line and "same command" in line
    finish(begin(world, tmp_path))
    check_same_losses(tmp_path, alone)


def test_what_two_processes_began_one_ends_with_the_same_batches(world, alone, tmp_path):
    processes = begin(world, tmp_path)
    await_step(tmp_path, 4, processes)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    outputs = finish(processes)
    assert all("finished=False" in output for output in outputs)
    assert train(experiment(world), str(tmp_path)).finished
    check_same_losses(tmp_path, alone)
    run = experiment(world)
    (step, _, place), (there, _, other) = (
        test_loop.state_of(workdir, run) for workdir in (tmp_path, alone)
    )
    assert step == there == STEPS and place == other
