"""The verb `puppets` of the command line: its arguments, and what it prints."""

import argparse
import json
import re

from omnihuman_jax.errors import InputError

DESCRIPTION = "Write raw clips of the procedural world of talking figures (mp4, wav, json)."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `omnihuman puppets`."""
    parser.add_argument("out", metavar="OUT", help="the folder for the clips, local or gs://")
    parser.add_argument("--clips", type=int, default=64, help="how many (default: %(default)s)")
    parser.add_argument(
        "--start",
        type=int,
        default=0,
        help="number of the first clip; every number is another person with another voice, so a range "
        "that starts after the training clips is held out (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="which world (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="length of a clip (default: %(default)g)"
    )
    parser.add_argument(
        "--size", default="256x256", metavar="HxW", help="height x width (default: %(default)s)"
    )
    parser.add_argument(
        "--fps", type=int, default=25, help="frames a second (default: %(default)s)"
    )
    parser.add_argument(
        "--voices",
        default="auto",
        choices=["auto", "espeak", "formant"],
        help="espeak: espeak-ng, in eight languages; formant: our own, in six invented ones; auto: "
        "espeak where it is installed (default: %(default)s)",
    )
    parser.add_argument(
        "--processes", type=int, help="clips made at the same time (default: one a core)"
    )
    parser.add_argument(
        "--sheet", metavar="FILE.png", help="also draw a poster of 12 puppets (default: none)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar (default: shown)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, last (default: lines)"
    )


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for.

    Raises:
        InputError: see `world.Settings` and `files.write_clips`.
    """
    # Imported here: `--help` answers at once.
    from omnihuman_jax.puppets.files import write_clips
    from omnihuman_jax.puppets.sheet import write_sheet
    from omnihuman_jax.puppets.world import Settings

    height, width = _size(args.size)
    if args.sheet and not args.sheet.endswith(".png"):
        raise InputError(f"--sheet must end in .png, got {args.sheet}.")
    settings = Settings(
        seed=args.seed,
        seconds=args.seconds,
        height=height,
        width=width,
        fps=args.fps,
        voices=args.voices,
    )
    result = write_clips(
        args.out, settings, args.clips, args.start, args.processes, progress=not args.quiet
    )
    if args.sheet:
        write_sheet(args.sheet, settings, args.start)
    counted = lambda counts: ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
    print(
        f"Wrote {args.out}: {result['written']} clips, {result['there_before']} were there before.",
        f"teach: {counted(result['teaches'])}",
        f"faults: {counted(result['faults'])}",
        f"voices: {', '.join(result['voices'])}",
        sep="\n  ",
    )
    if args.json:
        print(json.dumps({"out": args.out, **result}))


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match:
        raise InputError(f"--size is HEIGHTxWIDTH such as 256x256, got {text}.")
    return int(match[1]), int(match[2])
