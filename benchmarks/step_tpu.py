"""What a training step of configs/omni_14b.py needs on slices that are not here, by the TPU compiler.

python -m benchmarks.step_tpu [--config configs/omni_14b.py] [--slice v5p-256 ...] [--size 720x1280x81]

The step is the trainer's own: the loss of the last stage (all conditions), backward, optimizer and moving
average, parameters in float32 and compute in bfloat16, laid out over the mesh as training would. It is
compiled and not run, so there is no time here; what the compiler estimates for its own operations
(`cycles`) leaves out our attention kernels and the waiting for collectives.

The last line is one JSON object, by slice: `peak_gb` a device and whether it `fits`, `compile_s`,
`traffic` by kind of collective (how many a step, GB that a device receives, how many of them and GB
nothing computes beside: `exposed`), the `mesh`, and `mfu_at_peak_s`: seconds that the model's FLOPs take at
the chip's peak, the least that any step could.

`ring` is the same with attention by ring instead of Ulysses: its permutes travel while the kernel runs.
`peer` is maxdiffusion's layout as its documentation has it (research/jax_stack.md, 1.4 and 1.7): the same
mesh and parameters over fsdp and context, tokens over context, keys and values of all tokens on every
device, and everything computed again in the backward pass. It is our network and our kernel in that
layout, not its code; it publishes no such compile.
"""

import argparse
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from omnihuman_jax import ahead, config
from omnihuman_jax import mesh as meshes
from omnihuman_jax.conditions import Batch, Conditions
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.models.building import Precision
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT
from omnihuman_jax.training import flops, networks, optimizers, state
from omnihuman_jax.training.experiment import Experiment
from omnihuman_jax.training.parts import WHOLE
from omnihuman_jax.training.step import make_step

# What else is compiled, as changes of the config.
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "ours": (),
    "ring": ("task.sharing=ring",),
    "peer": ("task.sharing=everywhere", "task.remat=full"),
}

# (fsdp, context) by slice; the batch is one clip for every fsdp group.
MESHES: Mapping[str, tuple[int, int]] = {
    "v5p-256": (32, 4),
    "v6e-256": (64, 4),
    "v6e-64": (16, 4),
    "v5p-64": (16, 2),
}


def batch_of(network: DiTConfig, grid: Grid, clips: int, mesh: Any) -> Batch:
    """An abstract batch with all conditions."""
    rows = NamedSharding(mesh, PartitionSpec(tuple(meshes.LOGICAL["batch"])))

    def some(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((clips, *shape), dtype, sharding=rows)

    _, *size = latents = grid.latent_shape
    half = jnp.bfloat16
    assert network.audio is not None and network.pose is not None
    given = {
        "text": some(half, network.text_length, network.text_width),
        "reference": some(half, 1, *size, network.channels),
        "audio": some(half, grid.frames, network.audio.layers, network.audio.width),
        "pose": some(jnp.float32, grid.frames, network.pose.joints, 3),
    }
    present = {name: some(jnp.bool_) for name in given}
    return Batch(
        latents=some(half, *latents, network.channels),
        conditions=Conditions(**given, present=present),
        sample=some(jnp.uint32),
    )


def ask(run: Experiment, grid: Grid, name: str, fsdp: int, context: int) -> dict[str, Any]:
    """The step on one slice."""
    mesh = meshes.make_mesh(devices=ahead.devices(name), data=-1, fsdp=fsdp, context=context)
    task, stage = run.task, run.stages[-1]
    network = task.network
    precision = Precision(jnp.float32, jnp.dtype(task.compute))

    def make(rngs: Any) -> OmniHumanDiT:
        return OmniHumanDiT(network, precision, rngs=rngs, remat=task.remat)

    clips = mesh.shape["data"] * fsdp
    with jax.set_mesh(mesh):
        shapes = networks.shapes(make, mesh)
        transform = run.optimizer.make(shapes, 1000)
        opt = optimizers.state_shapes(transform, shapes)
        now = state.abstract(shapes, {WHOLE: opt}, run.update.ema is not None)
        step = make_step(functools.partial(task.loss, make, stage), transform, run.update)
        key = jax.eval_shape(lambda: jax.random.key(0))
        where = jax.tree.map(lambda leaf: leaf.sharding, now)
        arguments = (now, {}, batch_of(network, grid, clips, mesh), key)
        options = dict(donate_argnums=0, out_shardings=(where, None))
        try:
            said = ahead.compiled(step, *arguments, **options)
        except jax.errors.JaxRuntimeError as why:
            if "RESOURCE_EXHAUSTED" not in str(why):
                raise
            return {"mesh": dict(mesh.shape), "fits": False, "why": str(why).splitlines()[0]}
    kind = mesh.devices.flat[0].device_kind
    count = flops.dit_flops(network, grid, reference=True, audio=True, pose=True).training * clips
    top = flops.peak(kind)
    return {
        "mesh": dict(mesh.shape),
        "batch": clips,
        "device": kind,
        "fits": True,
        "peak_gb": round(said.peak / 1e9, 2),
        "arguments_gb": round(said.arguments / 1e9, 2),
        "compile_s": round(said.seconds, 1),
        "cycles": said.cycles,
        "mfu_at_peak_s": None if top is None else round(count / mesh.size / top, 3),
        "traffic": {kind: tell(traffic) for kind, traffic in said.traffic.items()},
    }


def tell(traffic: ahead.Traffic) -> dict[str, Any]:
    return {
        "count": traffic.count,
        "gb": round(traffic.bytes / 1e9, 3),
        "exposed": traffic.exposed,
        "exposed_gb": round(traffic.exposed_bytes / 1e9, 3),
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config", default="configs/omni_14b.py", help="(default: configs/omni_14b.py)")
    add("--slice", nargs="+", default=["v5p-256", "v6e-256"], metavar="NAME",
        help="(default: v5p-256, which is 128 chips, and v6e-256)")  # fmt: skip
    add("--size", default="720x1280x81", metavar="HxWxF", help="(default: 720x1280x81)")
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME",
        help="(default: ours, ring and peer)")  # fmt: skip
    add("--mesh", metavar="FSDPxCONTEXT", help="(default: by slice, see MESHES)")
    add("changes", nargs="*", metavar="a.b=c", help="settings of the config to change")
    args = parser.parse_args(arguments)
    args.changes += [word for word in args.slice if "=" in word]
    args.slice = [word for word in args.slice if "=" not in word] or parser.get_default("slice")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    height, width, frames = (int(n) for n in args.size.split("x"))
    grid = Grid(frames, height, width)
    found: dict[str, dict[str, Any]] = {}
    for name in args.slice:
        if args.mesh is None and name not in MESHES:
            raise InputError(
                f"--mesh FSDPxCONTEXT is needed for {name}; known: {', '.join(MESHES)}."
            )
        fsdp, context = (
            MESHES[name] if args.mesh is None else (int(n) for n in args.mesh.split("x"))
        )
        for variant in args.variants:
            run = config.load(args.config, [*args.changes, *VARIANTS[variant]])
            said = ask(run, grid, name, fsdp, context)
            found.setdefault(name, {})[variant] = said
            print(f"{name} {variant}: {said}", file=sys.stderr, flush=True)
    print(
        json.dumps(
            {
                "config": args.config,
                "changes": args.changes,
                "size": args.size,
                "tokens": grid.tokens,
                "libtpu": ahead.version(),
                "slices": found,
            }
        )
    )


if __name__ == "__main__":
    try:
        main()
    except InputError as why:
        sys.exit(f"error: {why}")
