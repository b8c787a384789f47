"""The only place that makes the program of an experiment's step, with nothing but shapes.

No model directory and no records are read: sizes are those of `task.network`, the clip is a Grid.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from omnihuman_jax import mesh as meshes
from omnihuman_jax.conditions import Batch, Conditions
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.models.building import Precision
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT
from omnihuman_jax.models.mini import find
from omnihuman_jax.training import flops, lora, networks, optimizers, stages, state
from omnihuman_jax.training.experiment import Experiment
from omnihuman_jax.training.flow_matching import FlowMatching
from omnihuman_jax.training.stages import OmniStage
from omnihuman_jax.training.step import make_step


@dataclass(frozen=True)
class Program:
    """A program that is compiled and never run.

    Attributes:
        step: the function.
        arguments: abstract, each with its place on the mesh.
        options: of `jax.jit`.
    """

    step: Any
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]


def program(experiment: Experiment, mesh: Mesh, grid: Grid, stage: OmniStage) -> Program:
    """The training step of one stage, laid out over `mesh` as training would; call under the mesh.

    Raises:
        InputError: the stage's batch cannot be shared by the mesh, or the task is another.
    """
    network, task = sizes(experiment), experiment.task
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    parts = experiment.update.accumulate
    if stage.batch % (ways * parts):
        unit = ways * parts
        below = stage.batch - stage.batch % unit
        raise InputError(
            f"A batch of {stage.batch} cannot be shared by {ways} groups of devices (mesh.data x "
            f"mesh.fsdp) in {parts} parts (update.accumulate); use {below or unit} or {below + unit}, "
            "or other sizes of the mesh (--search finds some)."
        )
    precision = Precision(jnp.float32, jnp.dtype(task.compute))
    make = functools.partial(_network, network, precision, task)
    shapes = {path: task._kept(path, shape) for path, shape in networks.shapes(make, mesh).items()}
    trains = task.lora.trains if task.lora is not None else None
    batch = batch_of(network, grid, stage, mesh)
    loss = functools.partial(task.loss, make, stage)
    return _training(experiment, shapes, trains, loss, batch)


def _training(experiment: Experiment, shapes: Any, trains: Any, loss: Any, batch: Any) -> Program:
    """All contact with the trainer's step and state, as `training.loop` puts them together."""
    optimizer, update = experiment.optimizer, experiment.update
    trained, fixed = optimizers.split(optimizer, shapes, trains)
    transform = optimizer.make(trained, stages.total(experiment.stages))
    opt = optimizers.state_shapes(transform, trained)
    now = state.abstract(trained, opt, update.ema is not None)
    where = jax.tree.map(lambda leaf: leaf.sharding, now)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return Program(
        step=make_step(loss, transform, update),
        arguments=(now, fixed, batch, key),
        options=dict(donate_argnums=0, out_shardings=(where, None)),
    )


def sizes(experiment: Experiment) -> DiTConfig:
    """Of the transformer that is trained.

    Raises:
        InputError: the experiment trains something else, or neither it nor a model says the sizes.
    """
    task = experiment.task
    if not isinstance(task, FlowMatching):
        raise InputError(
            f"A plan is made for the transformer (task FlowMatching); {experiment.name} trains "
            f"{type(task).__name__}, which fits on one device."
        )
    return task.network or find(task.model).config("dit")


def stages_of(experiment: Experiment) -> tuple[OmniStage, ...]:
    """Its stages, which are the transformer's.

    Raises:
        InputError: see `sizes`.
    """
    sizes(experiment)
    return cast(tuple[OmniStage, ...], experiment.stages)


def batch_of(network: DiTConfig, grid: Grid, stage: OmniStage, mesh: Mesh) -> Batch:
    """An abstract batch of the stage, with the conditions that it may be given."""
    rows = NamedSharding(mesh, PartitionSpec(tuple(meshes.LOGICAL["batch"])))

    def some(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((stage.batch, *shape), dtype, sharding=rows)

    _, *size = latents = grid.latent_shape
    half, given = jnp.bfloat16, {}
    if stage.ratios.text:
        given["text"] = some(half, network.text_length, network.text_width)
    if stage.ratios.reference:
        given["reference"] = some(half, 1, *size, network.channels)
    if stage.ratios.audio and network.audio is not None:
        given["audio"] = some(half, grid.frames, network.audio.layers, network.audio.width)
    if stage.ratios.pose and network.pose is not None:
        given["pose"] = some(jnp.float32, grid.frames, network.pose.joints, 3)
    present = {name: some(jnp.bool_) for name in given}
    return Batch(
        latents=some(half, *latents, network.channels),
        conditions=Conditions(**given, present=present),
        sample=some(jnp.uint32),
    )


def work(network: DiTConfig, grid: Grid, stage: OmniStage) -> flops.Flops:
    """Floating-point operations of a forward pass for one clip of the stage."""
    ratios = stage.ratios
    return flops.dit_flops(
        network,
        grid,
        reference=ratios.reference > 0,
        audio=ratios.audio > 0,
        pose=ratios.pose > 0,
        motion=ratios.motion > 0,
    )


def _network(config: DiTConfig, precision: Precision, task: FlowMatching, rngs: Any) -> Any:
    network = OmniHumanDiT(config, precision, rngs=rngs, remat=task.remat)
    return network if task.lora is None else lora.adapt(network, task.lora, rngs)


@dataclass(frozen=True)
class Held:
    """Bytes of all devices together: the state between two steps, what is frozen, and a gradient."""

    state: float
    frozen: float
    gradient: float
    parameters: float  # how many


def held(experiment: Experiment) -> Held:
    """What a run of the experiment has in memory besides activations."""
    network, task = sizes(experiment), experiment.task
    mesh = meshes.make_mesh(devices=jax.local_devices(backend="cpu")[:1])
    make = functools.partial(_network, network, Precision(jnp.float32), task)
    found = networks.shapes(make, mesh)
    shapes = {path: task._kept(path, shape) for path, shape in found.items()}
    trains = task.lora.trains if task.lora is not None else None
    trained, fixed = optimizers.split(experiment.optimizer, shapes, trains)

    def size(leaves: Mapping[str, Any]) -> float:
        return float(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values()))

    copies = 1 if experiment.update.ema is None else 2
    state = copies * size(trained) + optimizers.state_bytes(experiment.optimizer, trained)
    count = float(sum(shape.size for shape in shapes.values()))
    return Held(state, size(fixed), size(trained), count)
