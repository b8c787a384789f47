"""Commands of a study: each once, in order, side by side, and on from wherever somebody pulled the plug."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from omnihuman_jax.ablation import running
from omnihuman_jax.ablation.running import Job
from omnihuman_jax.errors import InputError

# Appends its name to a log, waits, writes what it makes.
WORK = """
import os, sys, time, pathlib
name, made, log, wait = sys.argv[1:5]
with open(log, "a") as out: out.write(name + " " + os.environ.get("CUDA_VISIBLE_DEVICES", "") + "\\n")
until = time.time() + float(wait)
while time.time() < until and not pathlib.Path(log + ".go").exists(): time.sleep(0.01)
if name.startswith("bad"): sys.exit("error: it is bad")
pathlib.Path(made).write_text(name)
"""


def job(folder, name, *after, wait=0.0, **more):
    made = folder / f"{name}.made"
    command = ("python", "-c", WORK, name, str(made), str(folder / "log"), str(wait))
    settings = dict(
        name=name, kind="train", point=name, command=command, makes=(made,), after=after
    )
    return Job(**(settings | more))


def ran(folder):
    """Names in the order in which they began."""
    log = folder / "log"
    return [line.split(" ")[0] for line in log.read_text().splitlines()] if log.is_file() else []


def quiet(line):
    pass


def test_each_runs_once_behind_what_it_needs(tmp_path):
    jobs = [
        job(tmp_path, "a"),
        job(tmp_path, "b", "a"),
        job(tmp_path, "c", "b"),
        job(tmp_path, "d", "a"),
    ]
    found = running.run(jobs, tmp_path, side_by_side=2, say=quiet)
    assert sorted(found.ran) == ["a", "b", "c", "d"] and not found.failed and not found.stopped
    order = ran(tmp_path)
    assert order[0] == "a" and order.index("b") < order.index("c")
    again = running.run(jobs, tmp_path, say=quiet)
    assert again.ran == () and ran(tmp_path) == order, "what is finished is not done again"
    (tmp_path / "c.made").unlink()
    assert running.run(jobs, tmp_path, say=quiet).ran == ("c",)


def test_what_needs_a_failed_one_waits_and_all_else_is_done(tmp_path):
    jobs = [job(tmp_path, "bad"), job(tmp_path, "after", "bad"), job(tmp_path, "other")]
    found = running.run(jobs, tmp_path, say=quiet)
    assert found.ran == ("other",) and found.waiting == ("after",)
    assert found.failed == {"bad": "error: it is bad"}


def test_so_many_run_at_a_time_and_share_the_devices(tmp_path):
    jobs = [job(tmp_path, name, wait=20) for name in "abc"]
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), "abc", "2", "0,1,2,3"])
    try:
        until(lambda: len(ran(tmp_path)) == 2)
        time.sleep(0.3)
        assert len(ran(tmp_path)) == 2, "the third waits for a place"
        lines = (tmp_path / "log").read_text().splitlines()
        assert sorted(line.split(" ")[1] for line in lines) == ["0,1", "2,3"]
        with pytest.raises(InputError, match="is at work"):
            running.run(jobs, tmp_path, say=quiet)
        (tmp_path / "log.go").touch()
        assert process.wait(30) == 0 and len(ran(tmp_path)) == 3
    finally:
        process.kill()
    for devices, parts in ((("0", "1", "2"), 2), (("0", "0"), 2), ((), 0)):
        with pytest.raises(InputError):
            running.shared(devices, parts)


# Runs jobs of these names, each of which waits.
DRIVER = """
import pathlib, sys
from omnihuman_jax.ablation import running
from tests.ablation.test_running import job
folder, names, parts, devices = sys.argv[1:5]
folder = pathlib.Path(folder)
jobs = [job(folder, name, wait=20) for name in names]
devices = devices.split(",") if devices else ()
found = running.run(jobs, folder, side_by_side=int(parts), devices=devices, say=lambda line: None)
sys.exit(130 if found.stopped else 0)
"""


def until(true, seconds=60):
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_whoever_pulls_the_plug_loses_only_what_was_under_way(tmp_path, how):
    (tmp_path / "a.made").write_text("a")  # finished before
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), "abc", "1", ""])
    try:
        until(lambda: ran(tmp_path) == ["b"])
        process.send_signal(how)
        code = process.wait(30)
    finally:
        process.kill()
    jobs = [job(tmp_path, name, wait=20) for name in "abc"]
    if how == signal.SIGTERM:
        assert code == 130
    else:  # its command lives on, and keeps all others out
        with pytest.raises(InputError, match="is at work"):
            running.run(jobs, tmp_path, say=quiet)
    (tmp_path / "log.go").touch()
    until(lambda: free(tmp_path))
    found = running.run(jobs, tmp_path, say=quiet)
    assert found.ran == ("b", "c"), "b was begun and not seen to end well"
    assert ran(tmp_path) == ["b", "b", "c"]


def free(folder):
    file = os.open(folder / running.LOCK, os.O_RDWR)
    try:
        running.fcntl.flock(file, running.fcntl.LOCK_EX | running.fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(file)


def test_nobody_goes_on_with_what_other_settings_began(tmp_path):
    running.run([job(tmp_path, "a")], tmp_path, about={"a": {"steps": 3}}, say=quiet)
    for changed, about in [
        (job(tmp_path, "a"), {"a": {"steps": 4}}),
        (job(tmp_path, "a", wait=0.1), {"a": {"steps": 3}}),
    ]:
        with pytest.raises(InputError, match="was begun in"):
            running.run([changed], tmp_path, about=about, say=quiet)
    assert json.loads((tmp_path / "logs/a.json").read_text())["about"] == {"steps": 3}
