"""What the adversarial step of configs/apt_14b.py needs on slices that are not here, by the TPU compiler.

    python -m benchmarks.distill_tpu [--config configs/apt_14b.py] [--phase videos] [--slice v6e-256 ...]

Both updates that take turns are the trainer's own: the discriminator's (three passes of it, forward and
backward, on what the generator made) and the generator's (forward and backward through both), with RMSProp
of each part and the generator's average. Parameters are float32, the batch is accumulated as the config says.
The compiler is stopped when memory is laid out, before machine code (planning/compiler.py); nothing is run.
The last line is one JSON object, by slice and by whose turn it is: whether it `fits`, `peak_gb` of a chip,
the largest part of it, and `traffic` by kind of collective (GB that a device receives in a step, and GB that
nothing hides).
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.step_tpu import MESHES
from omnihuman_jax import ahead, config
from omnihuman_jax.errors import InputError
from omnihuman_jax.planning import compiler
from omnihuman_jax.planning.compiler import Answer, Job
from omnihuman_jax.planning.program import phase_of, turns_of


def told(answer: Answer) -> dict[str, Any]:
    """An answer as JSON."""
    if answer.reading is None:
        return {"fits": False, "peak_gb": round(answer.peak / 1e9, 2), "why": answer.words}
    traffic: dict[str, dict[str, float]] = defaultdict(lambda: {"gb": 0.0, "exposed_gb": 0.0})
    for sent in answer.reading.sent:
        traffic[sent.kind]["gb"] += sent.times * sent.bytes / 1e9
        traffic[sent.kind]["exposed_gb"] += sent.times * sent.bytes / 1e9 * sent.exposed
    largest = answer.largest or (0, "")
    return {
        "fits": True,
        "peak_gb": round(answer.peak / 1e9, 2),
        "largest": {"gb": round(largest[0] / 1e9, 2), "what": largest[1][:80]},
        "compile_s": answer.seconds,
        "traffic": {k: {n: round(x, 2) for n, x in v.items()} for k, v in traffic.items()},
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config", default="configs/apt_14b.py", help="(default: configs/apt_14b.py)")
    add("--phase", default="videos", help="of the course (default: videos)")
    add("--slice", action="append", metavar="NAME", help="(default: v6e-256)")
    add("--mesh", metavar="FSDPxCONTEXT", help="(default: by slice, as benchmarks.step_tpu)")
    add("--size", default="720x1280x49", metavar="HxWxF", help="(default: 720x1280x49)")
    add("changes", nargs="*", metavar="a.b=c", help="settings of the config to change")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    height, width, frames = (int(n) for n in args.size.split("x"))
    run = phase_of(config.load(args.config, args.changes), args.phase)
    found: dict[str, Any] = {}
    for name in args.slice or ["v6e-256"]:
        if args.mesh is None and name not in MESHES:
            raise InputError(f"--mesh FSDPxCONTEXT is needed for {name}.")
        fsdp, context = (
            MESHES[name] if args.mesh is None else (int(n) for n in args.mesh.split("x"))
        )
        own = f"phases.{args.phase}.mesh"
        changes = (*args.changes, f"{own}.fsdp={fsdp}", f"{own}.context={context}")
        found[name] = {"mesh": {"fsdp": fsdp, "context": context}, "batch": run.stages[-1].batch}
        for part in turns_of(run):
            job = Job(
                config=args.config,
                changes=changes,
                slice=name,
                size=(frames, height, width),
                stage=run.stages[-1].name,
                phase=args.phase,
                part=part,
            )
            found[name][part] = told(compiler.ask(job))
            print(f"{name} {part}: {found[name][part]}", file=sys.stderr, flush=True)
    print(
        json.dumps(
            {
                "config": args.config,
                "phase": args.phase,
                "changes": args.changes,
                "size": args.size,
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
