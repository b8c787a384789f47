"""The distillations on a real, tiny network: who is moved by whom, and what is written in the end."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax import mesh as meshes
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.errors import InputError, StoppedError
from omnihuman_jax.models.building import FLOAT32, arbitrary, flat
from omnihuman_jax.models.directory import open_directory
from omnihuman_jax.models.discriminator import Discriminator
from omnihuman_jax.training import loop, parts, state
from omnihuman_jax.training.collapse import Collapse, Floor
from omnihuman_jax.training.distill.adversarial import Adversarial, Critique
from omnihuman_jax.training.distill.consistency import Consistency
from omnihuman_jax.training.distill.continuous import Continuous
from omnihuman_jax.training.distill.course import Course, export, run
from omnihuman_jax.training.distill.matching import Matching
from omnihuman_jax.training.distill.student import STUDENT
from omnihuman_jax.training.experiment import Experiment, MeshSizes, Part, Saving
from omnihuman_jax.training.movers import Mover
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.step import Update, make_step
from omnihuman_jax.training.task import cycle
from tests.training import worlds

KEY = jax.random.key(3)
RATIOS = dict(text=1.0, reference=0.9, audio=0.8, pose=0.3, motion=0.5)
TASKS = {
    "consistency": (Consistency, {"target": "average"}),
    "adversarial": (
        Adversarial,
        {"critique": Critique(mismatched=0.5), "second": 0.5, "keep": 0.5},
    ),
    "matching": (Matching, {"fake_updates": 1, "gan": 0.1}),
    "continuous": (Continuous, {"fake_updates": 1, "warmup": 2}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the world is; what one run compiled the next one finds."""
    where = tmp_path_factory.mktemp("world")
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(where / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    yield where
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


def task(folder, kind, **changes):
    base = worlds.task(folder)
    settings = dict(model=base.model, data=base.data, compute="float32", remat="none")
    return kind(**(settings | changes))


def prepared(folder, name, **changes):
    """A trainee, its stage, a batch of it, and its parameters, nudged off the zeros that silence them."""
    kind, settings = TASKS[name]
    stage = worlds.stage(batch=4, **RATIOS)
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        trainee = task(folder, kind, **(settings | changes)).prepare((stage,), mesh, 0)
        stream = trainee.stream(stage)
        batch = worlds.on_device(next(stream))
        stream.close()
        return trainee, stage, batch, trainee.init(), mesh


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_every_optimizer_really_steps_and_nobody_else(folder, name):
    """After each turn the part whose turn it is has other parameters, all of them, and no other part has."""
    trainee, stage, batch, params, mesh = prepared(folder, name)
    with jax.set_mesh(mesh):
        optimizer = Optimizer(kind="rmsprop", learning_rate=1e-3, warmup=0)
        movers = {part: Mover.of(part, optimizer, trainee, (stage,)) for part in trainee.parts}
        trained = {p for part, m in movers.items() for p in parts.under(part, m.shapes)}
        frozen = {path: params.pop(path) for path in set(params) - trained}
        init = {part: mover.transform.init for part, mover in movers.items()}
        shapes = {part: mover.opt_shapes for part, mover in movers.items()}
        now = state.create(params, init, shapes, ema=True)
        for turn in dict.fromkeys(cycle(trainee.losses[stage.name])):
            step = make_step(
                turn.loss,
                movers[turn.part].transform,
                Update(ema=0.9, clip=None),
                part=turn.part,
                average=turn.average,
                count=turn.count,
            )
            after, tallies = jax.jit(step)(now, frozen, batch, KEY)
            assert np.isfinite(tallies["loss"][0]) and float(tallies["skipped"][0]) == 0
            for path in now.params:
                moved = not np.array_equal(now.params[path], after.params[path])
                own = path.startswith(f"{turn.part}/")
                assert moved == own, path
            changed = {p for p in now.ema if not np.array_equal(now.ema[p], after.ema[p])}
            assert bool(changed) == (turn.part == STUDENT)
            assert int(after.guard[turn.part].tried) == int(now.guard[turn.part].tried) + 1
            now = after
        assert not any(path.startswith("teacher/") for path in now.params)


@pytest.mark.slow
def test_the_generators_gradient_comes_through_the_discriminator(folder):
    """It reaches every layer, and with a discriminator that says nothing there is none."""
    trainee, stage, batch, params, mesh = prepared(folder, "adversarial", keep=0.0)
    (_, please) = cycle(trainee.losses[stage.name])
    assert please.part == STUDENT

    def loss(student, params):
        return please.loss({**params, **parts.under(STUDENT, student)}, batch, KEY)[0]

    own = parts.own(STUDENT, params)
    with jax.set_mesh(mesh):
        grads = jax.jit(jax.grad(loss))(own, params)
        blocks = [g for path, g in grads.items() if path.startswith("blocks/self_attn/q/kernel")]
        assert all(float(jnp.abs(layer).max()) > 0 for g in blocks for layer in g)
        deaf = {
            path: jnp.zeros_like(value) if path.startswith("critic/logit") else value
            for path, value in params.items()
        }
        none = jax.jit(jax.grad(loss))(own, deaf)
    assert all(float(jnp.abs(g).max()) == 0 for g in none.values())


@pytest.mark.slow
def test_the_discriminator_sees_all_clips_alone_and_all_of_its_eyes_look():
    config = dataclasses.replace(worlds.CONFIG, layers=4)
    critic = arbitrary(lambda rngs: Discriminator(config, FLOAT32, rngs=rngs))
    assert critic.taps == (2, 3, 4) and not any(p.startswith("trunk/head") for p in flat(critic))
    x = jax.random.normal(KEY, (3, 3, 4, 4, 4))
    t = jnp.asarray([0.1, 0.5, 0.9])
    tokens = critic.embed(Conditions(), 3, 4, 4)
    both = critic(x, t, tokens)
    one = critic(x[1:2], t[1:2], critic.embed(Conditions(), 1, 4, 4))
    np.testing.assert_allclose(both[1:2], one, rtol=1e-4, atol=1e-5)
    for eye in range(3):
        changed = critic.eyes.query[...].at[eye].add(1.0)
        before = critic.eyes.query[...]
        critic.eyes.query[...] = changed
        assert not np.allclose(critic(x, t, tokens), both, atol=1e-6)
        critic.eyes.query[...] = before


@pytest.mark.slow
def test_the_tangent_is_that_of_finite_differences(folder):
    """cos a sin a dF/da along the teacher's path, by jax.jvp through the network, against (F' - F) / h."""
    made = task(folder, Continuous, matching=0.0)
    network = worlds.network()
    x = jax.random.normal(KEY, (2, 3, 4, 4, 4))
    taught = jax.random.normal(jax.random.key(4), x.shape)
    angle = jnp.asarray([0.4, 1.1])
    now, change = made.tangent(network, Conditions(), x, angle, taught)
    along, h = jnp.cos(angle) * jnp.sin(angle), 1e-3

    def output(sign):
        moved = x + sign * h * along[:, None, None, None, None] * taught
        return made.tangent(network, Conditions(), moved, angle + sign * h * along, taught)[0]

    differences = (output(1) - output(-1)) / (2 * h)
    error = float(jnp.linalg.norm(change - differences) / jnp.linalg.norm(differences))
    assert error < 2e-2 and float(jnp.linalg.norm(now)) > 0


def phase(folder, name, kind, steps, **changes):
    return Experiment(
        name=name,
        task=task(folder, kind, **changes),
        stages=(worlds.stage(steps=steps, batch=8, **RATIOS),),
        optimizer=Optimizer(kind="rmsprop", learning_rate=1e-3, warmup=0),
        parts=()
        if kind is Consistency
        else (
            Part(name="critic", optimizer=Optimizer(kind="rmsprop", learning_rate=2e-3, warmup=0)),
        ),
        update=Update(ema=0.9, clip=None),
        mesh=MeshSizes(data=-1, fsdp=1),  # eight devices
        save=Saving(every=2),
        watch=Watch(every=1, wandb="off", tensorboard=False),
    )


def course(folder):
    return Course(
        name="c",
        phases=(
            phase(folder, "consistency", Consistency, 4),
            phase(folder, "adversarial", Adversarial, 6, second=0.5),
        ),
    )


def weights(path):
    return {k: np.asarray(v[...]) for k, v in open_directory(str(path)).arrays("dit").items()}


@pytest.fixture(scope="module")
def straight(folder, tmp_path_factory):
    """The course that nobody stopped."""
    workdir = tmp_path_factory.mktemp("straight")
    outcome = run(course(folder), str(workdir))
    assert outcome.finished and outcome.step == 10
    return workdir, weights(outcome.model)


@pytest.mark.slow
@pytest.mark.parametrize(("look", "step"), [(4, 4), (8, 7)])
def test_a_course_that_was_stopped_ends_in_the_same_bits(
    folder, straight, look, step, tmp_path, monkeypatch
):
    """At the last update of the first phase, and in the second behind a discriminator's update."""
    asked = loop._Signals.asked
    seen = []
    monkeypatch.setattr(
        loop._Signals, "asked", lambda self, step: seen.append(step) or len(seen) == look
    )
    first = run(course(folder), str(tmp_path))
    assert first.asked and not first.finished and first.step == step
    monkeypatch.setattr(loop._Signals, "asked", asked)
    second = run(course(folder), str(tmp_path))
    assert second.finished
    for path, value in weights(second.model).items():
        np.testing.assert_array_equal(value, straight[1][path], err_msg=path)
    for name in ("consistency", "adversarial"):
        for path, value in weights(tmp_path / name / "model").items():
            np.testing.assert_array_equal(value, weights(straight[0] / name / "model")[path])


@pytest.mark.slow
def test_a_signal_while_a_phases_model_is_written_stops_the_course(folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        loop._Signals, "asked", lambda self, step: seen.append(step) or len(seen) == 5
    )
    outcome = run(course(folder), str(tmp_path))
    assert (outcome.asked, outcome.finished, outcome.step, outcome.model) == (True, False, 4, None)
    assert (tmp_path / "consistency/model/model.json").exists()
    assert not (tmp_path / "adversarial").exists()


@pytest.mark.slow
def test_a_course_that_is_over_does_nothing_and_its_model_is_for_one_step(folder, straight, capsys):
    workdir, before = straight
    said = []
    outcome = run(course(folder), str(workdir), said.append)
    assert outcome.finished and len(said) == 2 and all("is done" in line for line in said)
    model = open_directory(outcome.model)
    assert model.manifest.sampling["sampler"] == "consistency"
    assert model.manifest.sampling["steps"] == 1 and model.manifest.sampling["guidance"] == 1.0
    assert model.manifest.provenance["distilled"] == "Adversarial"
    teacher = weights(task(folder, Consistency).model)
    assert any(not np.array_equal(before[path], teacher[path]) for path in before)


@pytest.mark.slow
def test_any_phase_can_be_written_and_an_unknown_one_is_named(folder, straight, tmp_path):
    outcome = export(course(folder), str(straight[0]), str(tmp_path / "m"), "consistency")
    assert outcome.step == 4
    with pytest.raises(InputError, match="consistency, adversarial"):
        export(course(folder), str(straight[0]), str(tmp_path / "m"), "other")
    with pytest.raises(InputError, match="No phase"):
        export(course(folder), str(tmp_path / "nothing"), str(tmp_path / "m"))


def test_a_course_of_something_else_is_refused(folder):
    other = dataclasses.replace(phase(folder, "a", Consistency, 1), task=worlds.task(folder))
    with pytest.raises(InputError, match="omnihuman train"):
        Course.of(other)
    alone = Course.of(phase(folder, "a", Consistency, 1))
    assert [each.name for each in alone.phases] == ["a"]


@pytest.mark.slow
def test_a_run_that_collapsed_stops_and_is_set_back(folder, tmp_path):
    """The floor is above what the loss can be, so it breaks as soon as there are numbers enough."""
    floor = Floor(name="critic/adversarial", least=1e9, over=2)
    broken = dataclasses.replace(
        phase(folder, "a", Adversarial, 12), floors=(floor,), save=Saving(every=1, keep=9)
    )
    with pytest.raises(StoppedError, match="set back to the checkpoint of step 1,"):
        loop.train(broken, str(tmp_path))
    lifted = dataclasses.replace(broken, floors=())
    assert loop.train(lifted, str(tmp_path)).step == 12


def test_a_floor_is_broken_by_a_mean_and_says_since_when():
    watch = Collapse((Floor(name="d", least=0.5, over=3),))
    told = [1.0, 0.9, 0.8, 0.7, 0.1, math.nan, 0.1]
    for step, value in enumerate(told[:5], 1):
        found = watch.see(step, {"d": np.array([value, 1.0])})
        assert found is None or step == 5
    assert watch.see(6, {"other": np.array([0.0, 1.0])}) is None
    floor, mean, good = watch.see(7, {"d": np.array([0.1, 1.0])})
    assert floor.name == "d" and mean == pytest.approx(0.3) and good == 3


def test_parts_that_are_not_there_are_named(folder):
    odd = dataclasses.replace(
        phase(folder, "a", Consistency, 1), parts=(Part(name="critc", optimizer=Optimizer()),)
    )
    with pytest.raises(InputError, match="critc"):
        odd.optimizers(("student",))
