"""The loop: a run that was stopped anywhere ends in the same bits as one that was not."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from omnihuman_jax import mesh as meshes
from omnihuman_jax.data import pipeline
from omnihuman_jax.errors import InputError, StoppedError
from omnihuman_jax.models.directory import open_directory
from omnihuman_jax.training.checkpoints import Checkpoints
from omnihuman_jax.training.experiment import Experiment, MeshSizes, Saving
from omnihuman_jax.training.loop import _Run, export, train
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.step import Update
from tests.training import worlds

STEPS = (6, 7, 7)


def experiment(folder, **changes):
    """20 steps through the three stages of the paper on records with all conditions."""
    stages = (
        worlds.stage("text and reference", steps=STEPS[0], batch=4, audio=0.0, pose=0.0),
        worlds.stage("audio", steps=STEPS[1], batch=4, pose=0.0),
        worlds.stage("pose", steps=STEPS[2], batch=4),
    )
    settings = dict(
        name="t",
        task=worlds.task(folder),
        stages=stages,
        optimizer=Optimizer(learning_rate=1e-3, warmup=2),
        update=Update(ema=0.9),
        mesh=MeshSizes(data=2, fsdp=2, context=2),
        save=Saving(every=4),
        watch=Watch(every=1, wandb="off", tensorboard=False),
    )
    return Experiment(**(settings | changes))


def state_of(workdir, run):
    """All arrays of the newest checkpoint, and the place in the data."""
    loop = _Run(run, str(workdir), meshes.make_mesh(**vars(run.mesh)))
    checkpoints = Checkpoints(str(workdir / "checkpoints"))
    found = checkpoints.restore(loop._abstract())
    loop.close()
    checkpoints.close()
    return found.step, jax.tree.map(np.asarray, found.state), found.data


def check_equal(one, other):
    assert one[0] == other[0]
    assert one[2] == other[2]
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one[1]), jax.tree.leaves(other[1]), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the world is; programs compiled once are shared with the processes that are started."""
    where = tmp_path_factory.mktemp("world")
    patch = pytest.MonkeyPatch()
    patch.setenv("JAX_COMPILATION_CACHE_DIR", str(where / "compiled"))
    jax.config.update("jax_compilation_cache_dir", str(where / "compiled"))
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    yield where
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
    patch.undo()


@pytest.fixture(scope="module")
def straight(folder, tmp_path_factory):
    """The run that nobody stopped."""
    workdir = tmp_path_factory.mktemp("straight")
    outcome = train(experiment(folder), str(workdir))
    assert outcome.finished and outcome.step == sum(STEPS)
    return workdir


COMMAND = """
import sys
from pathlib import Path
import tests.conftest
from omnihuman_jax.training.loop import train
from tests.training.test_loop import experiment
print(train(experiment(Path(sys.argv[1])), sys.argv[2]), flush=True)
"""


def begin(folder, workdir):
    """The same run in a process of its own."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(folder), str(workdir)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_step(workdir, step, process):
    path = workdir / "metrics.jsonl"
    while process.poll() is None:
        if path.exists() and path.read_text().count("\n") >= step:
            return
        time.sleep(0.02)
    raise AssertionError(process.stderr.read())


@pytest.mark.slow
def test_the_model_at_the_end_is_a_model_directory(straight):
    made = open_directory(str(straight / "model"))
    assert made.manifest.provenance["trained"]["steps"] == sum(STEPS)
    assert sorted(losses(straight)) == list(range(1, sum(STEPS) + 1))


@pytest.mark.slow
def test_the_newest_checkpoint_can_be_exported_and_the_run_is_left_alone(
    folder, straight, tmp_path
):
    before = {p: p.stat().st_mtime_ns for p in straight.rglob("*") if p.is_file()}
    outcome = export(experiment(folder), str(straight), str(tmp_path / "model"))
    assert (outcome.step, outcome.model) == (sum(STEPS), str(tmp_path / "model"))
    made, usual = (open_directory(str(p / "model")).arrays("dit") for p in (tmp_path, straight))
    for path in usual:
        np.testing.assert_array_equal(made[path][...], usual[path][...])
    assert {p: p.stat().st_mtime_ns for p in straight.rglob("*") if p.is_file()} == before
    with pytest.raises(InputError, match="no finished checkpoint"):
        export(experiment(folder), str(tmp_path / "empty"), str(tmp_path / "model"))


@pytest.mark.slow
def test_kill_9_at_a_random_moment_and_a_restart_end_in_the_same_bits(folder, straight, tmp_path):
    process = begin(folder, tmp_path)
    await_step(tmp_path, random.SystemRandom().randint(3, 17), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert train(experiment(folder), str(tmp_path)).finished
    run = experiment(folder)
    check_equal(state_of(tmp_path, run), state_of(straight, run))
    assert losses(tmp_path) == losses(straight)


@pytest.mark.slow
def test_sigterm_saves_and_leaves_and_the_rest_ends_in_the_same_bits(folder, straight, tmp_path):
    process = begin(folder, tmp_path)
    await_step(tmp_path, 5, process)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "finished=False" in output
    assert train(experiment(folder), str(tmp_path)).finished
    run = experiment(folder)
    check_equal(state_of(tmp_path, run), state_of(straight, run))


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(folder, straight):
    before = losses(straight)
    assert train(experiment(folder), str(straight)).finished
    assert losses(straight) == before


@pytest.mark.slow
def test_a_cut_checkpoint_costs_the_interval_and_no_more(folder, straight, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(straight, workdir)
    newest = workdir / "checkpoints" / f"step_{sum(STEPS):08d}"
    file = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[:-9])
    assert train(experiment(folder), str(workdir)).finished
    run = experiment(folder)
    check_equal(state_of(workdir, run), state_of(straight, run))


@pytest.mark.slow
def test_too_many_bad_updates_stop_the_run_and_the_last_checkpoint_is_good(
    folder, tmp_path, monkeypatch
):
    good = pipeline.Batches.__next__

    def poisoned(self):
        batch = good(self)
        if self._done > 3:
            batch.latents[:] = np.nan
        return batch

    monkeypatch.setattr(pipeline.Batches, "__next__", poisoned)
    run = experiment(folder, update=Update(ema=0.9, patience=3), save=Saving(every=2))
    with pytest.raises(StoppedError, match=r"3 updates in a row .* step 4"):
        train(run, str(tmp_path))
    step, state, _ = state_of(tmp_path, run)
    assert step == 4
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.slow
def test_a_batch_that_devices_cannot_share_says_what_they_can(folder, tmp_path):
    run = experiment(folder, mesh=MeshSizes(data=8, fsdp=1))
    with pytest.raises(InputError, match="A batch of 4 cannot be shared by 8 devices"):
        train(run, str(tmp_path))
