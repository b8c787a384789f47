"""tpu/worker.sh as ssh calls it: from the home folder, by a relative path; training outlives the call."""

import os
import signal
import subprocess
import time

import pytest

from tests.tpu.launcher import ROOT

# In place of Python: says what it was given, saves when asked to stop, ends as it is told.
PYTHON = """#!/bin/bash
printf '<%s>' "$@"; echo " run=$OMNIHUMAN_RUN_ID flags=$LIBTPU_INIT_ARGS watched=$OMNIHUMAN_WORKDIR"
trap 'echo saved; exit 0' TERM
for arg; do case $arg in code=*) exit "${arg#code=}" ;; esac; done
while :; do sleep 0.05; done
"""


@pytest.fixture
def worker(tmp_path):
    """Calls worker.sh of the run r in a home folder of its own."""
    home = tmp_path / "home"
    (home / "omnihuman/r").mkdir(parents=True)
    (home / "omnihuman/r/source").symlink_to(ROOT)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    names = {"HOME": str(home), "OMNIHUMAN_PYTHON": str(python), "OMNIHUMAN_WORKER": "w-3"}

    def call(*words):
        return subprocess.run(
            ["bash", "omnihuman/r/source/tpu/worker.sh", *map(str, words)],
            cwd=home,
            env={**os.environ, **names},
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout

    yield call
    call("stop")


def start(call, workdir, *more):
    return call("start", "r-1", workdir, "v6e", "--", "configs/my run.py", 'x=\'"a b"', *more)


def ended(call):
    while "state=running" in (said := call("state")):
        time.sleep(0.05)
    return said


def test_training_gets_its_words_and_is_told_from_its_end(worker, tmp_path):
    assert "state=idle" in worker("state")
    assert "omnihuman: started host=w-3 process=" in start(worker, tmp_path / "w", "code=7")
    assert "state=ended code=7" in ended(worker)
    log = worker("logs", 9)
    assert '<train><configs/my run.py><x=\'"a b"><code=7><--workdir>' in log and "[w-3]" in log
    assert "<--distributed>" in log and "run=r-1 flags=--xla_tpu" in log
    while not list(tmp_path.glob("w/logs/*-w-3.log")):  # sent where the run is
        time.sleep(0.05)


@pytest.mark.parametrize(
    "words, given",
    [
        (("distill", "c.py", "code=0"), "<distill><c.py><code=0><--workdir><{}><--distributed>"),
        (("preprocess", "raw", "out", "code=0"), "<preprocess><raw><out><code=0><--distributed>"),
        (("generate", "--seed", "3", "code=0"), "<generate><--seed><3><code=0><--distributed>"),
    ],
)
def test_other_verbs_begin_from_the_same_line(worker, tmp_path, words, given):
    worker("start", "r-1", tmp_path / "w", "cpu", "--", *words)
    assert "state=ended code=0" in ended(worker)
    log = worker("logs", 9)
    assert given.format(tmp_path / "w") in log and f"watched={tmp_path / 'w'}" in log


def test_it_is_started_once_and_stopped_with_a_checkpoint(worker, tmp_path):
    first = start(worker, tmp_path / "w")
    assert "again=yes" in start(worker, tmp_path / "w")
    while "<train>" not in worker("logs", 9):
        time.sleep(0.05)
    assert "omnihuman: stopped" in worker("stop")
    assert "saved" in worker("logs", 9) and "state=idle" in worker("state")
    process = int(first.rsplit("process=")[-1])
    until = time.monotonic() + 10  # it sends its log yet
    while os.path.exists(f"/proc/{process}/cmdline") and time.monotonic() < until:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{process}/cmdline")


def test_one_that_was_killed_with_all_its_processes_has_ended(worker, tmp_path):
    process = int(start(worker, tmp_path / "w").rsplit("process=")[-1])
    while "<train>" not in worker("logs", 9):
        time.sleep(0.05)
    os.killpg(process, signal.SIGKILL)
    assert "state=ended code=137" in ended(worker)
    assert "again=yes" not in start(worker, tmp_path / "w", "code=0")
    assert "state=ended code=0" in ended(worker)
