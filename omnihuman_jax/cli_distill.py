"""The verb `distill` of the command line: its arguments, and what it prints."""

import argparse
import dataclasses
import json
import sys

from omnihuman_jax.cli_runs import add_run_arguments, say_outcome, workdir

DESCRIPTION = "Distil a model to one or two steps by a config; run again, it goes on."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `omnihuman distill`."""
    add_run_arguments(parser, "phases.1.stages.0.steps=10")
    parser.add_argument(
        "--dump-only",
        action="store_true",
        help="make the teacher's dumps that phases learn from (task.taught), and stop (default: run)",
    )
    parser.add_argument(
        "--phase", metavar="NAME", help="with --export: of which phase (default: the newest)"
    )


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for.

    Raises:
        InputError: see `config.load` and `training.distill.course.run`.
    """
    # Imported here: `--help` answers at once.
    from omnihuman_jax import config, processes
    from omnihuman_jax.settings import described
    from omnihuman_jax.training.distill import course

    made = course.Course.of(config.load(args.config, args.changes))
    if args.settings:
        print(json.dumps(described(made), indent=2, ensure_ascii=False))
        return
    folder = workdir(args)
    with processes.joined(everywhere=args.distributed):
        if args.export is not None:
            outcome = course.export(made, folder, args.export, args.phase)
        else:
            say = lambda line: print(line, file=sys.stderr)
            outcome = course.run(made, folder, say, args.dump_only)
        say_outcome(args, dataclasses.asdict(outcome))
