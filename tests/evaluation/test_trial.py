"""Intermediate models of a run are evaluated on clips of a test set, into metrics.jsonl."""

import dataclasses
import json

import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.evaluation import summary
from omnihuman_jax.puppet_records import Cut, Rehearsal
from omnihuman_jax.training import loop
from omnihuman_jax.training.experiment import Experiment, MeshSizes, Saving
from omnihuman_jax.training.flow_matching import FlowMatching
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.trial import Trial
from tests.training import worlds


def experiment(trial):
    task = FlowMatching(
        model="mini",
        data="",
        network=worlds.tiny_of_mini(),
        start="new",
        compute="float32",
        trial=trial,
    )
    return Experiment(
        name="tried",
        task=task,
        stages=(worlds.stage(steps=4, batch=8, pose=0.0),),
        optimizer=Optimizer(learning_rate=1e-3, warmup=1),
        mesh=MeshSizes(data=2, fsdp=4),
        save=Saving(every=4),
        watch=Watch(every=2, wandb="off", tensorboard=False, trial_every=2),
        rehearsal=Rehearsal(clips=2, size=64, seconds=1.0, cuts=(Cut(frames=9, pieces=4),)),
    )


@pytest.mark.slow
def test_a_run_is_tried_every_so_many_steps(testset, tmp_path):
    """On eight devices, two clips of nine frames in two steps."""
    metrics = ("puppet_look", "puppet_motion", "iqa")
    trial = Trial(testset=str(testset), metrics=metrics, clips=2, frames=9, steps=2)
    loop.train(experiment(trial), str(tmp_path))
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    tried = [line for line in lines if "trial" in line]
    assert [line["step"] for line in tried] == [2, 4]
    for line in tried:
        made = summary.load(str(tmp_path / line["trial"] / "evaluation"))
        assert (
            len(made.clips) == 2 and made.metrics["puppet_look"].value == line["trial/puppet_look"]
        )
        assert line["trial/puppet_motion"] > 0 and "trial/iqa" not in line
        assert (tmp_path / line["trial"] / "evaluation/report.html").is_file()


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="no metric 'beauty'"):
        Trial(testset="x", metrics=("beauty",))
    with pytest.raises(InputError, match="4n"):
        Trial(testset="x", frames=10)
    with pytest.raises(InputError, match="at least one clip"):
        Trial(testset="x", clips=0)
    with pytest.raises(InputError, match=r"watch\.trial_every at least 0"):
        Watch(trial_every=-1)


def test_a_task_without_a_trial_cannot_be_tried(tmp_path):
    run = dataclasses.replace(experiment(None), task=worlds.task(tmp_path), rehearsal=None)
    with pytest.raises(InputError, match="give it a test set"):
        loop.train(run, str(tmp_path))
