"""The verb `plan` of the command line: its arguments, and how a plan is told."""

import argparse
import dataclasses
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from omnihuman_jax.ahead import SLICES
from omnihuman_jax.errors import InputError

if TYPE_CHECKING:
    from omnihuman_jax.geometry import Grid
    from omnihuman_jax.planning.generation import Making
    from omnihuman_jax.planning.plan import Plan

DESCRIPTION = (
    "What a config needs on TPU slices, how long a step takes and what it costs, asked of the TPU "
    "compiler on this machine; no TPU is needed."
)
PARTS = {
    "matmul": "matrix products",
    "memory": "memory",
    "attention": "attention",
    "exposed": "exchange",
    "input": "waiting for data",
}
WAYS = {"on_demand": "on demand", "committed": "committed", "spot": "spot"}
# benchmarks/RESULTS.md, `python -m benchmarks.plan`.
ERROR = "estimated: where it could be compared, a step really took 0.9 to 1.45 times as long"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `omnihuman plan`."""
    add = parser.add_argument
    add("config", metavar="CONFIG.py", help="the experiment, a file of configs/")
    add("changes", nargs="*", metavar="a.b=c",
        help="settings to change, mesh.fsdp=64 say (default: as the config says)")  # fmt: skip
    add("--slice", action="append", default=[], metavar="NAME",
        help="v6e-16, v5p-128 …, or a topology such as v5p:4x4x8; may be given several times "
        "(default: none)")  # fmt: skip
    add("--all", action="store_true", help="every slice that is known (default: those of --slice)")
    add("--size", metavar="HxWxF",
        help="height, width and frames of the clips (default: the model's own)")  # fmt: skip
    add("--phase", metavar="NAME",
        help="of a distillation, the phase that is asked about (default: the last)")  # fmt: skip
    add("--stage", metavar="NAME",
        help="the stage whose step is asked about (default: that of most work)")  # fmt: skip
    add("--generate", action="store_true",
        help="plan the making of videos with such a model, in bfloat16 (default: its training)")  # fmt: skip
    add("--videos", type=int, default=1, metavar="N",
        help="with --generate: videos side by side (default: 1)")  # fmt: skip
    add("--steps", type=int, metavar="N",
        help="with --generate: of the sampler (default: the model's own)")  # fmt: skip
    add("--search", action="store_true",
        help="look for the fastest mesh, remat and accumulation (default: the config's)")  # fmt: skip
    add("--tries", type=int, default=6, metavar="N",
        help="compiles that a search may take (default: 6)")  # fmt: skip
    add("--credits", type=float, metavar="DOLLARS",
        help="say how far so much money reaches (default: say nothing)")  # fmt: skip
    add("--prices", metavar="FILE",
        help="your own table of prices (default: prices.toml beside the config, or in configs/)")  # fmt: skip
    add("--jobs", type=int, metavar="N",
        help="compiles side by side (default: as cores and free memory allow)")  # fmt: skip
    add("--json", action="store_true", help="print one JSON object, last (default: lines)")


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for.

    Raises:
        InputError: a config, slice, size or price that cannot be.
        StoppedError: the compiler failed.
    """
    # Imported here: `--help` answers at once.
    from omnihuman_jax.planning import plan, prices
    from omnihuman_jax.planning.chips import slice_of

    names = list(dict.fromkeys([*args.slice, *(SLICES if args.all else ())]))
    if not names:
        raise InputError(f"Say --slice NAME or --all; slices are {', '.join(SLICES)}.")
    slices = [slice_of(name) for name in names]
    _check(args)
    request = plan.Request(
        config=args.config,
        changes=tuple(args.changes),
        size=None if args.size is None else _grid(args.size),
        phase=args.phase,
        stage=args.stage,
        searching=args.search,
        tries=args.tries,
        credits=args.credits,
        prices=prices.load(args.prices, args.config),
    )
    if args.generate:
        _generation(args, request, slices)
        return
    planner = plan.Planner(request, say=_say)
    plans = plan.several(planner, slices, _say, args.jobs)
    if args.json:
        print(json.dumps(_described(planner, plans)))
        return
    grid = planner.grid
    print(
        f"{planner.experiment.name}, stage {planner.stage.name!r}: {planner.stage.batch} clips of "
        f"{grid.height}x{grid.width}, {grid.frames} frames, {grid.tokens:,} tokens each; {ERROR}"
    )
    for one in plans:
        print("\n".join(told(one, args.credits, args.search)))


def _generation(args: argparse.Namespace, request: Any, slices: Any) -> None:
    from omnihuman_jax.planning import generation, plan

    maker = generation.Maker(request, args.videos, args.steps, say=_say)
    found = plan.several(maker, slices, _say, args.jobs)
    grid = maker.grid
    size = f"{grid.height}x{grid.width}x{grid.frames}"
    if args.json:
        told = {one.slice: _finite(dataclasses.asdict(one)) for one in found}
        print(json.dumps({"config": args.config, "size": size, "error": ERROR, "slices": told}))
        return
    print(
        f"{maker.name}: videos of {grid.frames} frames, {grid.height}x{grid.width}, "
        f"{maker.evaluations} evaluations of the network each; {ERROR}"
    )
    for one in found:
        print("\n".join(made(one, args.credits)))


def _say(line: str) -> None:
    """Progress, in one piece: several slices are asked about side by side."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _check(args: argparse.Namespace) -> None:
    if args.credits is not None and not 0 <= args.credits < math.inf:
        raise InputError(f"--credits is an amount of dollars, got {args.credits}.")
    if args.generate and (args.search or args.stage):
        raise InputError("--generate goes with neither --search nor --stage; leave those out.")
    if not args.generate and (args.videos != 1 or args.steps is not None):
        raise InputError("--videos and --steps are of --generate; a config says those of training.")
    for name in ("tries", "jobs", "videos", "steps"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} is at least 1, got {value}.")


def _grid(text: str) -> "Grid":
    from omnihuman_jax.geometry import Grid

    try:
        height, width, frames = (int(number) for number in text.split("x"))
    except ValueError:
        raise InputError(f"--size is HEIGHTxWIDTHxFRAMES, 720x1280x81 say; got {text}.") from None
    return Grid(frames, height, width)


def _memory(plan: Any) -> tuple[str, str, str]:
    """Of a device, the largest part of it, and the mesh."""
    have = f"{plan.peak / 2**30:.1f} of {plan.room / 2**30:.1f} GiB a device"
    mesh = " ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
    if plan.largest is None:
        return have, "", mesh
    return have, f", most of it {plan.largest[0] / 2**30:.2f} GiB: {plan.largest[1][:60]}", mesh


def _parts(plan: Any) -> str:
    return ", ".join(f"{name} {_time(plan.parts[part])}" for part, name in PARTS.items())


def made(making: "Making", credits: float | None) -> list[str]:
    """A plan of generation in lines; the first says whether it fits, and with which number."""
    have, most, mesh = _memory(making)
    if making.call_s is None or making.seconds is None or making.per_video is None:
        why = making.why or "no word of the compiler"
        return [f"{making.slice}: does not fit, {have}{most} (mesh {mesh}). {why}"]
    each = "a video" if making.videos == 1 else f"{making.videos} videos"
    lines = [
        f"{making.slice}: fits, {have}{most}",
        f"  mesh {mesh}; an evaluation {_time(making.call_s)}: {_parts(making)}",
        f"  denoising of {each} {_time(making.seconds)}, encoding and decoding not counted",
    ]
    if making.per_video:
        lines.append(f"  a video: {_money(making.per_video)}")
    if making.reach:
        reach = ", ".join(f"{_count(n)} videos {WAYS[way]}" for way, n in making.reach.items())
        lines.append(f"  ${credits:,.0f} pay for {reach}")
    return [*lines, f"  prices: {making.price}"]


def told(plan: "Plan", credits: float | None, searched: bool) -> list[str]:
    """A plan in lines; the first says whether it fits, and with which number."""
    have, most, mesh = _memory(plan)
    how = f"mesh {mesh}, remat {plan.remat}, {plan.accumulate} parts a batch"
    if not plan.fits:
        hint = (
            "; the least of what was tried" if searched else "; --search looks for a way that does"
        )
        why = plan.why or "no word of the compiler"
        return [f"{plan.slice}: does not fit, {have}{most} ({how}{hint}). {why}"]
    assert plan.step_s is not None and plan.parts is not None
    use = "" if plan.mfu is None else f"; MFU {plan.mfu:.0%}"
    lines = [
        f"{plan.slice}: fits, {have}{most}",
        f"  {how}; {plan.clips} clips, {plan.tokens:,} tokens a step on {plan.chips} chips",
        f"  a step {_time(plan.step_s)}: {_parts(plan)}{use}",
    ]
    if plan.per_1000 and plan.whole and plan.hours is not None:
        lines += [
            f"  1,000 steps: {_money(plan.per_1000)}",
            f"  all {plan.steps:,} steps, {plan.hours:,.1f} hours: {_money(plan.whole)}",
        ]
    if plan.reach:
        share = {way: min(1.0, steps / max(1, plan.steps)) for way, steps in plan.reach.items()}
        reach = ", ".join(
            f"{_count(n)} steps {WAYS[way]} ({share[way]:.0%})" for way, n in plan.reach.items()
        )
        lines.append(f"  ${credits:,.0f} pay for {reach}")
    lines.append(f"  prices: {plan.price}")
    return [*lines, f"  train with: {' '.join(plan.overrides)}"]


def _described(planner: Any, plans: "list[Plan]") -> dict[str, Any]:
    from omnihuman_jax import ahead

    grid = planner.grid
    return {
        "config": planner.request.config,
        "changes": planner.request.changes,
        "stage": planner.stage.name,
        "size": f"{grid.height}x{grid.width}x{grid.frames}",
        "credits": planner.request.credits,
        "error": ERROR,
        "libtpu": ahead.version(),
        "slices": {plan.slice: _finite(dataclasses.asdict(plan)) for plan in plans},
    }


def _finite(tree: Any) -> Any:
    """JSON knows no infinity: what costs nothing reaches as far as null."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    return None if isinstance(tree, float) and math.isinf(tree) else tree


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.2g} ms"


def _count(steps: float) -> str:
    return "endless" if math.isinf(steps) else f"{math.floor(steps):,}"


def _money(ways: Any) -> str:
    return ", ".join(f"${dollars:,.2f} {WAYS[way]}" for way, dollars in ways.items())
