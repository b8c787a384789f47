"""The only place that makes the videos of a test set with a model, those that are not there yet.

    python -m omnihuman_jax.ablation.making TESTSET OUT --model DIR_OR_NAME

OUT/<id>.mp4 for each clip, as `omnihuman evaluate` reads them, and OUT/done.json behind the last.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnihuman_jax import storage
from omnihuman_jax.ablation.jobs import DONE
from omnihuman_jax.ablation.study import GIVEN
from omnihuman_jax.errors import InputError
from omnihuman_jax.inference.pipeline import Pipeline, load
from omnihuman_jax.testsets.reading import TestClip, TestSet, open_testset


def make(
    testset: TestSet,
    out: Path,
    pipe: Pipeline,
    given: Sequence[str],
    seed: int,
    together: int = 1,
    how: dict[str, Any] | None = None,
) -> int:
    """Videos of all clips that have none in `out`, as long and as large as the clips; how many.

    Args:
        given: of reference, audio, pose and text; what a clip lacks is left out.
        seed: of the noise of clip number 0; number n has `seed * 1000 + n`.
        together: videos made at once, where they are alike.
        how: further settings of a `Wish`.

    Raises:
        InputError: a clip that the model cannot make.
    """
    asked = [
        (
            out / f"{name}.mp4",
            pipe.request(**wish(testset[n], given), seed=seed * 1000 + n, **(how or {})),
        )
        for n, name in enumerate(testset.ids.ids)
        if not (out / f"{name}.mp4").is_file()
    ]
    alike: dict[Any, list[Any]] = {}
    for path, request in asked:
        path.parent.mkdir(parents=True, exist_ok=True)
        alike.setdefault(request.alike, []).append((path, request))
    for group in alike.values():
        for first in range(0, len(group), together):
            some = group[first : first + together]
            pipe.write([request for _, request in some], [str(path) for path, _ in some])
            print(f"{some[-1][0]}", file=sys.stderr, flush=True)
    return len(asked)


def wish(clip: TestClip, given: Sequence[str]) -> dict[str, Any]:
    """What is asked for of a clip.

    Raises:
        InputError: it has none of what is to be given.
    """
    there: dict[str, Any] = {
        "reference": clip.reference,
        "audio": clip.sound,
        "pose": clip.pose,
        "text": clip.text,
    }
    # A clip without sound or words has None or "".
    found = {name: value for name in given if (value := there[name]) is not None and len(value)}
    if not found:
        raise InputError(f"Clip {clip.id} has no {' nor '.join(given)}.")
    size = dict(frames=clip.frames, size=(clip.height, clip.width), fps=float(clip.fps))
    return {**found, **size}


def main(arguments: Sequence[str] | None = None) -> None:
    """Videos of a test set, from a shell."""
    parser = argparse.ArgumentParser(prog="making", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("testset", metavar="TESTSET", help="folder that `omnihuman testset` made")
    add("out", metavar="OUT", help="folder of the videos; those that are there are kept")
    add("--model", default="mini", metavar="DIR_OR_NAME", help="(default: mini)")
    add("--given", default="text,reference,audio", metavar="A,B", type=_names,
        help=f"conditions, of {', '.join(GIVEN)} (default: text,reference,audio)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of the noise (default: 0)")
    add("--together", type=int, default=1, metavar="N", help="videos at once (default: 1)")
    for name, kind in (
        ("steps", int),
        ("shift", float),
        ("text-guidance", float),
        ("audio-guidance", float),
    ):
        add(
            f"--{name}",
            type=kind,
            metavar="X",
            help="as in `omnihuman generate` (default: the model's)",
        )
    args = parser.parse_args(arguments)
    if args.seed < 0 or args.together < 1:
        parser.error(f"--seed is at least 0, --together 1; got {args.seed}, {args.together}.")
    names = ("steps", "shift", "text_guidance", "audio_guidance")
    how = {name: value for name in names if (value := getattr(args, name)) is not None}
    testset, out = open_testset(args.testset), Path(args.out)
    made = make(testset, out, load(args.model), args.given, args.seed, args.together, how)
    about = dict(model=args.model, given=args.given, seed=args.seed, **how, made=made)
    storage.write_bytes(str(out / DONE), json.dumps(about).encode())
    print(json.dumps(about))


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if odd := set(names) - set(GIVEN):
        raise argparse.ArgumentTypeError(f"{min(odd)!r} is none of {', '.join(GIVEN)}")
    return names


if __name__ == "__main__":
    try:
        main()
    except InputError as why:
        print(f"error: {why}", file=sys.stderr)
        sys.exit(2)
