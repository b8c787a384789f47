"""Several processes share the clips and come to what one comes to; a killed one goes on where it was."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from omnihuman_jax.testsets import open_testset
from tests.evaluation.conftest import film, noisy

pytestmark = pytest.mark.slow


def started(videos, testset, out, **environment):
    """`omnihuman evaluate` as a process of its own."""
    command = ["evaluate", str(videos), "--testset", str(testset), "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "omnihuman_jax", *command,
         "--metrics", "puppet_look,puppet_identity,puppet_frechet"],
        env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def measured(said):
    """The clips that a process did something for."""
    return {name for name, what in re.findall(r"of \d, (\S+): (.*)", said) if "nothing" not in what}


def test_two_processes_share_the_clips_and_a_killed_one_goes_on(testset, tmp_path):
    videos, ids = film(tmp_path / "v", testset, noisy(9)), set(open_testset(testset).ids.ids)
    alone = started(videos, testset, tmp_path / "alone")
    clips = tmp_path / "alone/clips"
    deadline = time.monotonic() + 900
    while len(list(clips.glob("*.json"))) < 2 and alone.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    alone.send_signal(signal.SIGKILL)
    before = measured(alone.communicate()[0])
    assert not (tmp_path / "alone/summary.json").exists()
    again = started(videos, testset, tmp_path / "alone")
    said = again.communicate(timeout=900)[0]
    assert again.returncode == 0, said
    assert before and not before & measured(said) and measured(said) < ids

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    of_all = {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}"}
    both = [
        started(videos, testset, tmp_path / "both", **of_all, JAX_PROCESS_ID=str(number))
        for number in range(2)
    ]
    told = [process.communicate(timeout=900)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    shares = [measured(each) for each in told]
    assert len(shares[0]) == len(shares[1]) == 2 and shares[0] | shares[1] == ids
    one, two = (
        json.loads((tmp_path / name / "summary.json").read_bytes()) for name in ("alone", "both")
    )
    assert one == two
    assert (tmp_path / "both/report.html").is_file()
