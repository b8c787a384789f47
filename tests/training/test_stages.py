"""Stages: the ratios asked for are met by counting, and the paper's two principles hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax.conditions import STRENGTH, Conditions
from omnihuman_jax.data.plan import Plan
from omnihuman_jax.errors import InputError
from omnihuman_jax.training import stages
from omnihuman_jax.training.stages import AND_AUDIO, AND_POSE, TEXT_AND_REFERENCE, Ratios, Stage

PAPER = {"text": 0.9, "reference": 0.7, "audio": 0.5, "pose": 0.25}


def conditions(clips, present):
    return Conditions(
        text=np.ones((clips, 3, 4), np.float32),
        reference=np.ones((clips, 1, 2, 2, 4), np.float32),
        audio=np.ones((clips, 5, 2, 3), np.float32),
        pose=np.ones((clips, 5, 3, 3), np.float32),
        present={name: jnp.asarray(present[:, i]) for i, name in enumerate(STRENGTH)},
    )


def achieved(ratios, clips=4096, pools=(0.5, 0.35)):
    """Shares of samples with each condition, counted after drawing and dropping."""
    random = np.random.default_rng(0)
    teaches = np.ones((300, 4), bool)
    teaches[:, 2] = random.random(300) < pools[0]
    teaches[:, 3] = random.random(300) < pools[1]
    plan = Plan(np.zeros(300, np.int32), teaches, seed=0, batch=clips, mix=ratios.mix())
    rows = plan[0]
    sample = jnp.arange(clips, dtype=jnp.uint32)
    given = stages.drop(conditions(clips, rows.present), ratios, jax.random.key(0), sample)
    return {name: float(np.mean(given.present[name])) for name in STRENGTH}, rows


def test_the_last_stage_gives_conditions_as_often_as_the_paper():
    found, _ = achieved(AND_POSE)
    for name, share in PAPER.items():
        assert found[name] == pytest.approx(share, abs=0.02), name


@pytest.mark.parametrize(
    "ratios, absent", [(TEXT_AND_REFERENCE, {"audio", "pose"}), (AND_AUDIO, {"pose"})]
)
def test_an_earlier_stage_never_gives_a_later_condition(ratios, absent):
    found, _ = achieved(ratios)
    for name, share in PAPER.items():
        assert found[name] == pytest.approx(0 if name in absent else share, abs=0.02), name


def test_clips_that_cannot_teach_audio_train_the_weaker_conditions():
    """Principle 1: about half of the samples without audio are clips that could not give it."""
    _, rows = achieved(AND_POSE)
    without = ~rows.present[:, 2]
    assert len(np.unique(rows.records[without])) > 250  # all 300 records, not only the good ones


@pytest.mark.parametrize(
    "wrong", [{"audio": 0.8}, {"reference": 0.95}, {"pose": 0.6}, {"text": 0.4}]
)
def test_a_stronger_condition_may_not_have_the_higher_ratio(wrong):
    with pytest.raises(InputError, match=r"lower its ratio|cannot be more"):
        Ratios(**wrong)


def test_unless_it_is_said_out_loud():
    assert Ratios(audio=0.8, unordered=True).audio == 0.8


@pytest.mark.parametrize("wrong", [{"text": 1.2}, {"motion": -0.1}, {"audio": float("nan")}])
def test_a_ratio_is_a_share(wrong):
    with pytest.raises(InputError, match="share between 0 and 1"):
        Ratios(**wrong)


def test_what_is_dropped_depends_on_the_sample_and_not_on_its_place():
    clips, key = 64, jax.random.key(3)
    given = conditions(clips, np.ones((clips, 4), bool))
    sample = jnp.arange(100, 100 + clips, dtype=jnp.uint32)
    one = stages.drop(given, Ratios(), key, sample).present
    order = np.random.default_rng(0).permutation(clips)
    two = stages.drop(given, Ratios(), key, sample[order]).present
    for name in ("text", "reference"):
        np.testing.assert_array_equal(np.asarray(one[name])[order], two[name])


def test_text_and_reference_are_dropped_independently():
    clips = 4096
    given = stages.drop(
        conditions(clips, np.ones((clips, 4), bool)),
        Ratios(text=0.7, reference=0.5, audio=0.2, pose=0.1),
        jax.random.key(0),
        jnp.arange(clips, dtype=jnp.uint32),
    ).present
    both = np.mean(np.asarray(given["text"]) & np.asarray(given["reference"]))
    assert both == pytest.approx(0.35, abs=0.03)


def test_each_sample_is_of_one_subset():
    present = np.random.default_rng(0).random((256, 4)) < 0.5
    named = {name: jnp.asarray(present[:, i]) for i, name in enumerate(STRENGTH)}
    found = stages.subset(named, 256)
    counts = np.sum([np.asarray(rows) for rows in found.values()], axis=0)
    assert (counts == 1).all()
    assert np.array_equal(
        np.asarray(found["reference+audio"]), present[:, 1] & present[:, 2] & ~present[:, 3]
    )


def test_every_step_belongs_to_one_stage():
    run = [Stage(name="a", steps=3, batch=1), Stage(name="b", steps=2, batch=1)]
    assert [stages.at(run, step) for step in range(5)] == [(0, 0)] * 3 + [(1, 3)] * 2
    with pytest.raises(IndexError):
        stages.at(run, stages.total(run))
