"""What the adversarial step of configs/apt_14b.py needs on slices that are not here, by the TPU compiler.

    python -m benchmarks.distill_tpu [--config configs/apt_14b.py] [--phase videos] [--slice v6e-256 ...]

Both updates that take turns are the trainer's own: the discriminator's (three passes of it, forward and
backward, on what the generator made) and the generator's (forward and backward through both), with RMSProp
of each part and the generator's average. Parameters are float32, the batch is accumulated as the config says.
They are compiled and not run. The last line is one JSON object as `benchmarks.step_tpu` has it, by slice and
by whose turn it is; `peak_gb` is a chip's, and it `fits` if the compiler says so.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks.step_tpu import MESHES, batch_of, tell
from omnihuman_jax import ahead, config
from omnihuman_jax import mesh as meshes
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.training import parts, state
from omnihuman_jax.training.distill.course import Course
from omnihuman_jax.training.experiment import Experiment
from omnihuman_jax.training.movers import Mover
from omnihuman_jax.training.step import make_step
from omnihuman_jax.training.task import Turn


def ask(run: Experiment, grid: Grid, mesh: Any, turn: Turn, movers: dict[str, Mover]) -> Any:
    """One kind of update on one slice."""
    task, stage = run.task, run.stages[-1]
    trained = {p: s for part, m in movers.items() for p, s in parts.under(part, m.shapes).items()}
    shapes = task.shapes(mesh)
    frozen = {path: shape for path, shape in shapes.items() if path not in trained}
    opt = {part: mover.opt_shapes for part, mover in movers.items()}
    now = state.abstract(trained, opt, run.update.ema is not None)
    step = make_step(
        turn.loss,
        movers[turn.part].transform,
        run.update,
        part=turn.part,
        average=turn.average,
        count=turn.count,
    )
    where = jax.tree.map(lambda leaf: leaf.sharding, now)
    batch = batch_of(task.sizes(), grid, stage.batch, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        said = ahead.compiled(
            step, now, frozen, batch, key, donate_argnums=0, out_shardings=(where, None)
        )
    except jax.errors.JaxRuntimeError as why:
        if "RESOURCE_EXHAUSTED" not in str(why):
            raise
        print(str(why)[:6000], file=sys.stderr)
        return {"fits": False, "why": str(why).splitlines()[0]}
    return {
        "fits": True,
        "peak_gb": round(said.peak / 1e9, 2),
        "arguments_gb": round(said.arguments / 1e9, 2),
        "compile_s": round(said.seconds, 1),
        "cycles": said.cycles,
        "traffic": {kind: tell(traffic) for kind, traffic in said.traffic.items()},
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config", default="configs/apt_14b.py", help="(default: configs/apt_14b.py)")
    add("--phase", default="videos", help="of the course (default: videos)")
    add("--slice", nargs="+", default=["v6e-256"], metavar="NAME", help="(default: v6e-256)")
    add("--mesh", metavar="FSDPxCONTEXT", help="(default: by slice, as benchmarks.step_tpu)")
    add("--size", default="720x1280x49", metavar="HxWxF", help="(default: 720x1280x49)")
    add("--part", nargs="+", metavar="NAME", help="whose turns (default: all)")
    add("changes", nargs="*", metavar="a.b=c", help="settings of the config to change")
    args = parser.parse_args(arguments)
    for name in ("slice", "part"):  # which take what follows them
        given = getattr(args, name) or []
        args.changes += [word for word in given if "=" in word]
        setattr(args, name, [word for word in given if "=" not in word])
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    course = Course.of(config.load(args.config, args.changes))
    phases = {phase.name: phase for phase in course.phases}
    if args.phase not in phases:
        raise InputError(f"There is no phase {args.phase!r}, but {', '.join(phases)}.")
    run = phases[args.phase]
    height, width, frames = (int(n) for n in args.size.split("x"))
    grid = Grid(frames, height, width)
    found: dict[str, Any] = {}
    for name in args.slice or ["v6e-256"]:
        if args.mesh is None and name not in MESHES:
            raise InputError(f"--mesh FSDPxCONTEXT is needed for {name}.")
        fsdp, context = (
            MESHES[name] if args.mesh is None else (int(n) for n in args.mesh.split("x"))
        )
        mesh = meshes.make_mesh(devices=ahead.devices(name), data=-1, fsdp=fsdp, context=context)
        ways = mesh.shape["data"] * fsdp
        if run.stages[-1].batch % (ways * run.update.accumulate):
            raise InputError(
                f"A batch of {run.stages[-1].batch} in {run.update.accumulate} parts cannot be shared by "
                f"{ways} groups; change stages and update.accumulate so that it can."
            )
        with jax.set_mesh(mesh):
            trainee = run.task.prepare(run.stages, mesh, 0)
            movers = {
                part: Mover.of(part, optimizer, trainee, run.stages)
                for part, optimizer in run.optimizers(trainee.parts).items()
            }
            found[name] = {"mesh": dict(mesh.shape), "batch": run.stages[-1].batch}
            for turn in trainee.losses[run.stages[-1].name]:
                if args.part and turn.part not in args.part:
                    continue
                found[name][turn.part] = ask(run, grid, mesh, turn, movers)
                print(f"{name} {turn.part}: {found[name][turn.part]}", file=sys.stderr, flush=True)
    print(
        json.dumps(
            {
                "config": args.config,
                "phase": args.phase,
                "changes": args.changes,
                "size": args.size,
                "tokens": grid.tokens,
                "accumulate": run.update.accumulate,
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
