"""The only place that makes the videos of a test set with a model, those that are not there yet.

    python -m omnihuman_jax.ablation.making TESTSET OUT --model DIR_OR_NAME

OUT/<id>.mp4 for each clip, as `omnihuman evaluate` reads them, and OUT/done.json behind the last.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omnihuman_jax import storage
from omnihuman_jax.ablation.jobs import DONE
from omnihuman_jax.ablation.study import GIVEN
from omnihuman_jax.errors import InputError
from omnihuman_jax.evaluation.asking import wishes
from omnihuman_jax.inference.generator import Request
from omnihuman_jax.inference.pipeline import Pipeline, load
from omnihuman_jax.inference.request import prepare


def make(
    testset: str,
    out: Path,
    pipe: Pipeline,
    given: Sequence[str],
    seed: int,
    together: int = 1,
    how: dict[str, Any] | None = None,
) -> int:
    """Videos of all clips that have none in `out`; how many were made.

    Args:
        given: of reference, audio, pose and text; what a clip lacks is left out.
        seed: number n of the set has `seed * 1000 + n` for its noise.
        together: videos made at once, where they are alike.
        how: further settings of a `Wish`.

    Raises:
        InputError: no such test set, or a clip that the model cannot make.
    """
    alike: dict[Any, list[tuple[str, Request]]] = {}
    for file, request in _asked(testset, pipe, given, seed, how or {}):
        path = out / file
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            alike.setdefault(request.alike, []).append((str(path), request))
    for group in alike.values():
        for first in range(0, len(group), together):
            some = group[first : first + together]
            pipe.write([request for _, request in some], [path for path, _ in some])
            print(some[-1][0], file=sys.stderr, flush=True)
    return sum(map(len, alike.values()))


def _asked(
    testset: str, pipe: Pipeline, given: Sequence[str], seed: int, how: dict[str, Any]
) -> Iterator[tuple[str, Request]]:
    """File and request of each clip, as `generate --testset` asks, but for what is not given."""
    common = {**how, "seed": seed * 1000, "drive": "audio+pose" if "pose" in given else "auto"}
    left: dict[str, Any] = {name: None for name in GIVEN if name not in given}
    for each in wishes(testset, pipe.model, common):
        wish = dataclasses.replace(each.wish, drive="auto", **left)
        if all(getattr(wish, name) is None for name in given):
            raise InputError(f"Clip {each.id} has no {' nor '.join(given)}.")
        yield each.file, prepare(wish, pipe.model)


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
    out = Path(args.out)
    made = make(args.testset, out, load(args.model), args.given, args.seed, args.together, how)
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
