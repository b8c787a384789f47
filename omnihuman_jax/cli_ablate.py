"""The verb `ablate` of the command line: its arguments, and what it prints."""

import argparse
import json
import sys

DESCRIPTION = (
    "Train over a grid of overrides, make videos with each, measure and compare them; resumable."
)
EPILOG = """\
STUDY.py builds a Study (omnihuman_jax/ablation/study.py), as configs/ablate_ratios.py does. In DIR there is
a folder for each point (train/, videos/, evaluation/), then report.html with everything side by side, and
rating.html: a page for human judges, who see two videos at a time and not which is which. Their answers are
files that the page lets them save:

  omnihuman ablate STUDY.py --workdir DIR --ratings answers-*.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `omnihuman ablate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add = parser.add_argument
    add("study", metavar="STUDY.py", help="the study, a file of configs/")
    add("--workdir", metavar="DIR", help="its folder (default: runs/NAME, by the study's file)")
    add(
        "--dry-run",
        action="store_true",
        help="print every command with how much work it is, write nothing and stop (default: run)",
    )
    add("--jobs", type=int, default=1, metavar="N", help="commands at a time (default: 1)")
    add(
        "--devices",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="0,1,...",
        help="accelerators that --jobs share out among them (default: every command sees all)",
    )
    add(
        "--report",
        action="store_true",
        help="write the report and the page for judges of what is there, and stop (default: run)",
    )
    add(
        "--ratings",
        nargs="+",
        metavar="FILE",
        help="answers of judges: write their table, also into the report, and stop (default: run)",
    )
    add("--json", action="store_true", help="print one JSON object, last (default: lines)")


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for.

    Raises:
        InputError: see `study.load` and `ablation.course.run`.
        StoppedError: a command failed.
    """
    # Imported here: `--help` answers at once.
    from pathlib import Path

    from omnihuman_jax.ablation import jobs, study, whole

    made = study.load(args.study)
    workdir = Path(args.workdir or f"runs/{Path(args.study).stem}")
    if args.dry_run:
        commands = jobs.of(made, workdir)
        print("\n".join(jobs.told(commands)))
        if args.json:
            print(json.dumps({"workdir": str(workdir), "commands": jobs.listed(commands)}))
        return
    if args.ratings:
        found = whole.rated(made, workdir, args.ratings)
    elif args.report:
        found = whole.reported(made, workdir)
    else:
        say = lambda line: print(line, file=sys.stderr, flush=True)
        found = whole.run(made, workdir, args.jobs, args.devices, say)
    print(f"{found['report']}: {found['points']} of {len(made.points())} points; {found['said']}")
    if args.json:
        print(json.dumps(found))
