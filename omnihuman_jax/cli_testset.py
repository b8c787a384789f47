"""The verb `testset` of the command line: its arguments, and what it prints."""

import argparse
import json
import sys
from collections.abc import Mapping

DESCRIPTION = "Build an evaluation set from your own copy of its videos."
EPILOG = """\
sets, and what --source is:
  celebv_hq  a folder with celebvhq_info.json and, in any folder below, the publisher's <clip id>.mp4 or
             the whole <YouTube id>.mp4 to cut and crop; non-commercial research only
  ravdess    a folder with Actor_01/01-01-…mp4 or Video_Speech_Actor_01/…; CC BY-NC-SA 4.0
  half_body  a folder with manifest.jsonl, or such a file: a line {"video", "id", "start", "end", "pose",
             "identity", "text"} a clip
  puppets    a folder written by `omnihuman puppets`

Nothing is downloaded. OUT/NAME/1.0.0 is a data set of TensorFlow Datasets, which needs no TensorFlow; its
ids.json says which clips it has and builds the same set anywhere: --ids ids.json."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `omnihuman testset`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add = parser.add_argument
    add("name", choices=["celebv_hq", "ravdess", "half_body", "puppets"], help="the set")
    add("out", help="a folder of data sets, in which this one is made")
    add("--source", required=True, metavar="DIR", help="your copy of the videos (no default)")
    add("--count", type=int, metavar="N", help="clips to draw, at most (default: 100)")
    add("--seconds", type=float, metavar="S", help="longest a clip may be (default: 5)")
    add("--seed", type=int, metavar="N", help="of the draw (default: 0)")
    add("--fps", type=float, metavar="N", help="frames a second of all clips (default: 25)")
    add(
        "--size",
        metavar="HxW|native",
        help="height x width that all clips are fitted to, or each its own (default: native)",
    )
    add(
        "--ids",
        metavar="FILE",
        help="the ids.json of a set to build again, with its settings unless given (default: draw)",
    )
    add(
        "--allow-missing",
        action="store_true",
        help="with --ids, leave out clips that are not there or damaged (default: refuse)",
    )
    add(
        "--allow-changed",
        action="store_true",
        help="with --ids, take files whose sha256 is another (default: refuse)",
    )
    add("--overwrite", action="store_true", help="replace a set of that name (default: refuse)")
    add("--quiet", action="store_true", help="no progress bar (default: shown)")
    add("--json", action="store_true", help="print one JSON object, last (default: lines)")


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for.

    Raises:
        InputError: see `testsets.build`.
    """
    # Imported here: `--help` answers at once.
    from omnihuman_jax.testsets import Settings, build

    names = Settings.__dataclass_fields__
    settings = Settings(**{key: value for key, value in vars(args).items() if key in names})
    folder, made = build(settings, progress=not args.quiet)
    seconds = sum(source["frames"] for source in made.sources.values()) / made.fps
    print(f"Wrote {folder}: {len(made.ids)} clips, {seconds:.1f} s.")
    print(f"Licence of {made.licence}.")
    wanted = len(made.ids) + len(made.missing) + len(made.passed_over) if args.ids else made.count
    if len(made.ids) < wanted:
        print(f"These are {len(made.ids)} of the {wanted} clips wanted: there are no more.")
    _list("Missing", dict.fromkeys(made.missing, "no video"))
    _list("Passed over", made.passed_over)
    _list("Not the same files as in the id list", dict.fromkeys(made.changed, "sha256 differs"))
    if args.json:
        print(
            json.dumps(
                dict(
                    set=made.set, folder=str(folder), clips=len(made.ids), seconds=round(seconds, 2),
                    licence=made.licence, ids=made.ids, missing=made.missing,
                    passed_over=made.passed_over,
                    changed=made.changed,
                )
            )
        )  # fmt: skip


def _list(title: str, clips: Mapping[str, str], most: int = 10) -> None:
    if clips:
        print(f"{title}, {len(clips)}:", file=sys.stderr)
        for name, why in list(clips.items())[:most]:
            print(f"  {name}: {why}", file=sys.stderr)
        if len(clips) > most:
            print(f"  … and {len(clips) - most} more, all in ids.json", file=sys.stderr)
