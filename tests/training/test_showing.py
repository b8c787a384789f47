"""Sample videos of a run: made by its transformer, with a puppet's lips scored against the truth."""

import dataclasses
import json

import numpy as np
import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.models import mini
from omnihuman_jax.puppet_records import Cut, Rehearsal
from omnihuman_jax.puppets.world import Settings, preview
from omnihuman_jax.training import loop, showing
from omnihuman_jax.training.experiment import Experiment, MeshSizes, Saving
from omnihuman_jax.training.flow_matching import FlowMatching
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.showing import Scene
from omnihuman_jax.training.step import Update
from tests.training import worlds

SMALL = Scene(puppet=50_002, frames=9, height=64, width=64)


def test_a_scene_is_a_puppet_or_what_a_user_has():
    with pytest.raises(InputError, match="puppet=None and none of these"):
        Scene()
    with pytest.raises(InputError, match="puppet=1 and text"):
        Scene(puppet=1, text="hello")
    with pytest.raises(InputError, match="4n"):
        Scene(puppet=1, frames=10)


def test_the_truth_is_that_of_the_sound_and_the_reference_of_another_moment():
    request, truth = showing._request(SMALL, mini.SAMPLING)
    clip = preview(Settings(height=64, width=64, seconds=4.0), 50_002)
    start = (len(clip.motion.poses) - 9) // 2
    assert truth.tolist() == [
        np.float32(p.look.opening) for p in clip.motion.poses[start : start + 9]
    ]
    assert len(request.audio) == round(9 / 25 * 16_000)
    np.testing.assert_array_equal(request.audio, clip.sound[round(start / 25 * 16_000) :][:5760])
    np.testing.assert_array_equal(request.reference, clip.frame(0))


def test_files_are_read_and_nothing_is_scored():
    scene = Scene(text="a woman nods", frames=9, height=64, width=64)
    request, truth = showing._request(scene, mini.SAMPLING)
    assert request.text == "a woman nods" and truth is None and request.audio is None


def experiment(task, every):
    return Experiment(
        name="shown",
        task=task,
        stages=(worlds.stage(steps=2, batch=8, pose=0.0),),
        optimizer=Optimizer(learning_rate=1e-3, warmup=1),
        update=Update(ema=0.9),
        mesh=MeshSizes(data=2, fsdp=4),
        save=Saving(every=2),
        watch=Watch(every=1, wandb="off", tensorboard=False, sample_every=every),
        rehearsal=Rehearsal(clips=2, size=64, seconds=1.0, cuts=(Cut(frames=9, pieces=4),)),
    )


def test_a_task_without_a_scene_cannot_be_watched(tmp_path):
    task = worlds.task(tmp_path)
    run = dataclasses.replace(experiment(task, 1), rehearsal=None)
    with pytest.raises(InputError, match="give it a scene"):
        loop.train(run, str(tmp_path / "run"))


@pytest.mark.slow
def test_a_run_leaves_videos_and_their_scores(tmp_path):
    """On eight devices; with the encoders of the built-in model."""
    network = worlds.tiny_of_mini()
    task = FlowMatching(
        model="mini", data="", network=network, start="new", compute="float32", scene=SMALL
    )
    loop.train(experiment(task, 2), str(tmp_path))
    assert (tmp_path / "samples/step-00000002.mp4").stat().st_size > 500
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    [line] = [line for line in lines if "sample" in line]
    assert line["step"] == 2 and -1 <= line["sample/lip_corr"] <= 1
