"""The only place that makes the program of an experiment's step, with nothing but shapes.

No model directory and no records are read: sizes are those of `task.network`, the clip is a Grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from omnihuman_jax import mesh as meshes
from omnihuman_jax.conditions import Batch, Conditions
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.models.building import PRECISIONS
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT
from omnihuman_jax.training import flops, optimizers, parts, state
from omnihuman_jax.training.distill.course import Course
from omnihuman_jax.training.distill.student import Distillation
from omnihuman_jax.training.experiment import Experiment
from omnihuman_jax.training.movers import Mover
from omnihuman_jax.training.stages import OmniStage
from omnihuman_jax.training.step import make_step
from omnihuman_jax.training.task import Trainee, cycle
from omnihuman_jax.training.transformer import TransformerTask


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


def phase_of(experiment: Experiment | Course, name: str | None) -> Experiment:
    """A phase of a distillation, None for the last; any other experiment as it is.

    Raises:
        InputError: there is no such phase.
    """
    if isinstance(experiment, Experiment) and name is None:
        return experiment
    phases = {phase.name: phase for phase in Course.of(experiment).phases}
    if name is not None and name not in phases:
        raise InputError(f"There is no phase {name!r}; there are {', '.join(phases)}.")
    return phases[name or list(phases)[-1]]


def turns_of(experiment: Experiment) -> dict[str, float]:
    """The parts that take turns in the experiment's last stage, and the share of updates of each."""
    if not isinstance(experiment.task, Distillation):
        return {parts.WHOLE: 1.0}
    turns = [turn.part for turn in cycle(experiment.task.turns(stages_of(experiment)[-1]))]
    return {part: turns.count(part) / len(turns) for part in dict.fromkeys(turns)}


def program(
    experiment: Experiment, mesh: Mesh, grid: Grid, stage: OmniStage, part: str | None = None
) -> Program:
    """The training step of one stage, laid out over `mesh` as training would; call under the mesh.

    Args:
        part: of a distillation, whose turn it is; None for the first.

    Raises:
        InputError: the stage's batch cannot be shared by the mesh, or the task is another.
    """
    network = sizes(experiment)
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    unit = ways * experiment.update.accumulate
    if stage.batch % unit:
        below = stage.batch - stage.batch % unit
        raise InputError(
            f"A batch of {stage.batch} cannot be shared by {ways} groups of devices (mesh.data x "
            f"mesh.fsdp) in {experiment.update.accumulate} parts (update.accumulate); use "
            f"{below or unit} or {below + unit}, or other sizes of the mesh (--search finds some)."
        )
    batch = batch_of(network, grid, stage, mesh)
    return _training(experiment, trainee_of(experiment, mesh), stage, part, batch)


def network_call(network: DiTConfig, mesh: Mesh, grid: Grid, videos: int) -> Program:
    """One guidance pass of a denoising step for so many videos, in bfloat16; call under the mesh.

    What is made of the conditions once a video (`denoising.embed`) is in it, a hundredth or so of the work.

    Raises:
        InputError: the devices cannot share the videos.
    """
    rows = tuple(meshes.LOGICAL["batch"])
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if videos % ways:
        raise InputError(f"{videos} videos cannot be shared by {ways} groups of devices.")
    made = nnx.eval_shape(lambda: OmniHumanDiT(network, PRECISIONS["bfloat16"], rngs=nnx.Rngs(0)))
    graph, state = nnx.split(made)
    params = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        state,
        meshes.shardings(state, mesh),
    )
    _, height, width = grid.latent_shape

    def call(params: Any, x: Any, t: Any, conditions: Conditions) -> Any:
        dit = nnx.merge(graph, params)
        tokens = dit.recall(dit.embed(conditions, videos, height, width))
        return dit(meshes.constrain(x, "batch _ rows _ _"), t, tokens)

    def some(dtype: Any, *shape: int) -> Any:
        where = NamedSharding(mesh, PartitionSpec(rows))
        return jax.ShapeDtypeStruct((videos, *shape), dtype, sharding=where)

    half, given = jnp.bfloat16, {}
    given["text"] = some(half, network.text_length, network.text_width)
    given["reference"] = some(half, 1, height, width, network.channels)
    if network.audio is not None:
        given["audio"] = some(half, grid.frames, network.audio.layers, network.audio.width)
    x = some(jnp.float32, *grid.latent_shape, network.channels)
    return Program(call, (params, x, some(jnp.float32), Conditions(**given)), {})


def trainee_of(experiment: Experiment, mesh: Mesh) -> Trainee:
    """What the experiment trains, as the loop sees it; nothing of it is read or made here."""
    return experiment.task.prepare(experiment.stages, mesh, experiment.seed)


def _training(
    experiment: Experiment, trainee: Trainee, stage: OmniStage, part: str | None, batch: Any
) -> Program:
    """All contact with the trainer's step and state, as `training.loop` puts them together."""
    update = experiment.update
    movers = movers_of(experiment, trainee)
    turns = {turn.part: turn for turn in cycle(trainee.losses[stage.name])}
    if part is not None and part not in turns:
        raise InputError(f"It is never {part!r}'s turn, but {', '.join(turns)}'s.")
    turn = turns[part or next(iter(turns))]
    trained = {p: s for name, m in movers.items() for p, s in parts.under(name, m.shapes).items()}
    frozen = {path: shape for path, shape in trainee.shapes.items() if path not in trained}
    opt = {name: mover.opt_shapes for name, mover in movers.items()}
    now = state.abstract(trained, opt, update.ema is not None)
    where = jax.tree.map(lambda leaf: leaf.sharding, now)
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = make_step(
        turn.loss,
        movers[turn.part].transform,
        update,
        part=turn.part,
        average=turn.average,
        count=turn.count,
    )
    return Program(
        step=step,
        arguments=(now, frozen, batch, key),
        options=dict(donate_argnums=0, out_shardings=(where, None)),
    )


def movers_of(experiment: Experiment, trainee: Trainee) -> dict[str, Mover]:
    """The optimizer of each part."""
    return {
        name: Mover.of(name, optimizer, trainee, experiment.stages)
        for name, optimizer in experiment.optimizers(trainee.parts).items()
    }


def sizes(experiment: Experiment) -> DiTConfig:
    """Of the transformer that is trained.

    Raises:
        InputError: the experiment trains something else, or neither it nor a model says the sizes.
    """
    task = experiment.task
    if not isinstance(task, TransformerTask):
        raise InputError(
            f"A plan is made for the transformer; {experiment.name} trains {type(task).__name__}, "
            "which fits on one device."
        )
    return task.sizes()


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


@dataclass(frozen=True)
class Held:
    """Bytes of all devices together: the state between two steps, what is frozen, and a gradient."""

    state: float
    frozen: float
    gradient: float
    parameters: float  # how many


def held(experiment: Experiment) -> Held:
    """What a run of the experiment has in memory besides activations."""
    mesh = meshes.make_mesh(devices=jax.local_devices(backend="cpu")[:1])
    trainee = trainee_of(experiment, mesh)
    movers = movers_of(experiment, trainee)
    trained = {p: s for name, m in movers.items() for p, s in parts.under(name, m.shapes).items()}
    fixed = {path: shape for path, shape in trainee.shapes.items() if path not in trained}

    def size(leaves: Mapping[str, Any]) -> float:
        return float(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values()))

    state = size(trained) + sum(
        optimizers.state_bytes(m.optimizer, m.shapes) for m in movers.values()
    )
    first = next(iter(movers.values()))
    state += 0 if experiment.update.ema is None else size(first.shapes)
    gradient = max(size(mover.shapes) for mover in movers.values())
    count = float(sum(shape.size for shape in trainee.shapes.values()))
    return Held(state, size(fixed), gradient, count)
