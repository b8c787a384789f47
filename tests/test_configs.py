"""Every file of configs/ builds an experiment whose parts fit together; nothing of it is run."""

import functools
from pathlib import Path

import pytest

from omnihuman_jax import config
from omnihuman_jax import mesh as meshes
from omnihuman_jax.errors import InputError
from omnihuman_jax.models.building import Precision
from omnihuman_jax.models.vae import CausalVAE
from omnihuman_jax.training import networks, optimizers
from omnihuman_jax.training.autoencoder import Autoencoder
from omnihuman_jax.training.distill.course import Course
from omnihuman_jax.training.flow_matching import FlowMatching, _network
from omnihuman_jax.training.movers import Mover
from omnihuman_jax.training.transformer import check

CONFIGS = sorted(p for p in Path("configs").glob("*.py") if not p.stem.startswith("ablate"))


def shapes(task):
    """Of every parameter of the network that the task trains; None for the small encoders."""
    mesh = meshes.make_mesh(data=1, fsdp=-1, context=1, tensor=1)
    if isinstance(task, FlowMatching):
        make = functools.partial(_network, task.network, Precision(), "none", task.lora)
    elif isinstance(task, Autoencoder):
        make = functools.partial(_vae, task.config)
    else:
        return None
    return networks.shapes(make, mesh)


def _vae(sizes, rngs):
    return CausalVAE(sizes, rngs=rngs)


COURSES = ("tiny_apt", "mini_apt", "apt_1_3b", "apt_14b")
STUDENTS = ("mini_cd", "mini_dmd2", "mini_rcm")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_distillation_builds_and_everybody_has_an_optimizer(path):
    """Every phase, and every part that takes turns in it."""
    loaded = config.load(str(path))
    assert isinstance(loaded, Course) == (path.stem in COURSES)
    if path.stem not in (*COURSES, *STUDENTS):
        return
    assert loaded.name == path.stem
    mesh = meshes.make_mesh(data=1, fsdp=-1, context=1, tensor=1)
    for phase in Course.of(loaded).phases:
        trainee = phase.task.prepare(phase.stages, mesh, 0)
        assert trainee.parts[0] == "student"
        for part, optimizer in phase.optimizers(trainee.parts).items():
            assert Mover.of(part, optimizer, trainee, phase.stages).shapes
        told = {"critic/loss", "critic/adversarial", "loss", "diversity"}
        assert {floor.name for floor in phase.floors} <= told


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_builds_and_its_patterns_fit(path):
    experiment = config.load(str(path))
    if isinstance(experiment, Course):
        return
    assert experiment.name == path.stem
    if found := shapes(experiment.task):
        lora = getattr(experiment.task, "lora", None)
        trained, fixed = optimizers.split(
            experiment.optimizer, found, lora.trains if lora else None
        )
        assert trained and bool(fixed) == bool(lora)
        experiment.optimizer.make(trained, 10)
    if isinstance(experiment.task, FlowMatching):
        for stage in experiment.stages:
            check(stage, experiment.task.network)


def count(name, keep=lambda path: True):
    found = shapes(config.load(f"configs/{name}.py").task)
    return sum(leaf.size for path, leaf in found.items() if keep(path))


def test_what_omni_adds_to_wan_is_a_fraction_of_it():
    """Wan2.1 1.3B has 1,418,996,800 parameters (peers.md); ours has audio and pose as well."""

    def is_new(path):
        return path.startswith(("audio/", "pose", "blocks/audio_"))

    wan = count("omni_1_3b", lambda path: not is_new(path))
    assert 1.41e9 < wan < 1.43e9
    assert 0.15 < count("omni_1_3b", is_new) / wan < 0.35
    assert 14.2e9 < count("omni_14b", lambda path: not is_new(path)) < 14.4e9


def test_a_change_by_name_and_what_is_wrong_with_one():
    changed = config.load("configs/omni_1_3b.py", ["seed=3"])
    assert changed.seed == 3
    with pytest.raises(InputError, match=r"omni_1_3b\.py"):
        config.load("configs/omni_1_3.py")
