"""The verb `evaluate` of the command line: its arguments, and what it prints."""

import argparse
import dataclasses
import json
import sys
from typing import Any

DESCRIPTION = "Score a folder of videos against a test set: metrics with intervals, and a report."
EPILOG = """\
VIDEOS has <id>.mp4 for each clip of the test set; or it is a manifest, a line of JSON a clip:
  {"id": "a", "video": "a.mp4", "reference": "a.png", "audio": "a.wav", "truth": "real/a.mp4"}
--weights has a folder or file each of inception, i3d, resnet3d, syncnet, lpips, faces, qalign, wholebody;
what is not there is "not computed". Results are kept: the same command computes only what is missing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `omnihuman evaluate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add = parser.add_argument
    add("videos", metavar="VIDEOS", help="the generated videos: a folder, or a manifest .jsonl")
    add("--testset", metavar="DIR", help="made by `omnihuman testset` (default: none, a manifest)")
    add("--out", metavar="DIR", help="for results (default: VIDEOS/evaluation)")
    add("--weights", metavar="DIR", help="networks by name (default: none)")
    add(
        "--metrics",
        type=lambda text: tuple(part for part in text.split(",") if part),
        metavar="a,b",
        help="by name (default: all)",
    )
    add(
        "--layout",
        metavar="METHOD",
        help="VIDEOS is as this method writes it: sadtalker, hallo, v_express, echomimic, loopy, hallo3, "
        "diffted, diffgesture_mimicmotion, cyberhost (default: <id>.mp4)",
    )
    add("--name", metavar="NAME", help="of the run in tables (default: VIDEOS' last part)")
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: 0)")
    add(
        "--distributed",
        action="store_true",
        help="this is one process of several, which share the clips (default: alone, or as "
        "JAX_COORDINATOR_ADDRESS says)",
    )
    add("--quiet", action="store_true", help="no line a clip (default: shown)")
    add("--json", action="store_true", help="print one JSON object, last (default: lines)")


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for.

    Raises:
        InputError: see `evaluation.run.evaluate`.
    """
    # Imported here: `--help` answers at once.
    import jax

    from omnihuman_jax import processes
    from omnihuman_jax.evaluation.run import Settings, evaluate, lines

    names = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{key: value for key, value in vars(args).items() if key in names})
    say: Any = (lambda line: None) if args.quiet else lambda line: print(line, file=sys.stderr)
    with processes.joined(everywhere=args.distributed):
        made = evaluate(settings, say)
        if jax.process_index() != 0:
            return
        for name, why in list(made.missing.items())[:10]:
            print(f"clip {name} {why}", file=sys.stderr)
        print(*lines(made), sep="\n")
        print(f"{made.folder}: {len(made.clips) - len(made.missing)} of {len(made.clips)} clips.")
        if args.json:
            told = {n: dataclasses.asdict(f.estimate) for n, f in made.metrics.items()}
            print(
                json.dumps(
                    {"name": made.name, "out": made.folder, "testset": made.testset,
                     "clips": len(made.clips), "missing": dict(made.missing), "metrics": told}
                )
            )  # fmt: skip
