"""Two processes make the shards of one folder: the bytes of one alone; who fails is named by the other."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from omnihuman_jax import health, processes
from omnihuman_jax.data import job
from tests.data import test_job

pytestmark = pytest.mark.slow


def main(raw: str, out: str, fails: str) -> None:
    """What a process of the run does; shards of videos whose names begin with `fails` fail."""
    steps = {"steps": test_job.steps(fails)} if fails else {}
    with processes.joined():
        job.run(test_job.make(raw, out, **steps), test_job.quiet)


def begin(raw: Path, out: Path, fails: tuple[str, str] = ("", "")) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "OMNIHUMAN_WORKDIR": f"{out}-watched",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.data.test_job_processes", str(raw), str(out), fails[i]],
            env={**shared, "JAX_PROCESS_ID": str(i), "OMNIHUMAN_WORKER": f"w-{i}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]


def test_two_processes_make_the_bytes_of_one(tmp_path: Path) -> None:
    raw = test_job.videos(tmp_path / "raw", test_job.NAMES)
    alone, both = tmp_path / "alone", tmp_path / "both"
    job.run(test_job.make(raw, alone), test_job.quiet)
    for process in (running := begin(raw, both)):
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 0, said
    assert len(running) == 2
    assert test_job.contents(str(both)) == test_job.contents(str(alone))
    told = json.loads((tmp_path / "both-watched" / health.FILE).read_text())
    assert told["state"] == "finished" and [h["host"] for h in told["hosts"]] == ["w-0", "w-1"]


def test_one_that_fails_is_named_and_the_same_command_goes_on(tmp_path: Path) -> None:
    raw = test_job.videos(tmp_path / "raw", test_job.NAMES)
    out = tmp_path / "out"
    began = time.monotonic()
    first, second = begin(raw, out, ("", "a/v4"))  # of the second shard
    said = first.communicate(timeout=120)[0]
    assert first.returncode == 1 and "Process 1 of this run has failed, on w-1" in said, said
    assert second.wait(timeout=60) != 0 and time.monotonic() - began < 60
    assert not (out / "dataset.json").exists()
    for process in begin(raw, out):
        assert process.wait(timeout=120) == 0
    assert (out / "dataset.json").exists()


if __name__ == "__main__":
    main(*sys.argv[1:])
