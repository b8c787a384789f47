"""The verb `train` of the command line: its arguments, and what it prints."""

import argparse
import dataclasses
import json

from omnihuman_jax.cli_runs import add_run_arguments, say_outcome, workdir
from omnihuman_jax.errors import InputError

DESCRIPTION = "Train by a config of configs/; run again, it goes on from where it was."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `omnihuman train`."""
    add_run_arguments(parser, "stages.0.steps=10")


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for.

    Raises:
        InputError: see `config.load` and `training.loop.train`.
    """
    # Imported here: `--help` answers at once.
    from omnihuman_jax import config, processes
    from omnihuman_jax.settings import described
    from omnihuman_jax.training.experiment import Experiment
    from omnihuman_jax.training.loop import export, train

    experiment = config.load(args.config, args.changes)
    if args.settings:
        print(json.dumps(described(experiment), indent=2, ensure_ascii=False))
        return
    if not isinstance(experiment, Experiment):
        raise InputError(f"{args.config} is a distillation; run it with `omnihuman distill`.")
    folder = workdir(args)
    with processes.joined(everywhere=args.distributed):
        if args.export is not None:
            outcome = export(experiment, folder, args.export)
        else:
            outcome = train(experiment, folder)
        say_outcome(args, dataclasses.asdict(outcome))
