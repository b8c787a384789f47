"""The verb `train` of the command line: its arguments, and what it prints."""

import argparse
import dataclasses
import json
from typing import Any

from omnihuman_jax.errors import InputError

DESCRIPTION = "Train by a config of configs/; run again, it goes on from where it was."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `omnihuman train`."""
    parser.add_argument("config", metavar="CONFIG.py", help="the experiment, a file of configs/")
    parser.add_argument(
        "changes",
        nargs="*",
        metavar="a.b=c",
        help="settings to change, such as stages.0.steps=10 (default: as the config says)",
    )
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="URI",
        help="folder of the run, local or gs://: checkpoints, metrics, samples, and at the end the "
        "model directory (required)",
    )
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="this is one process of several, as Cloud TPU, GKE or Slurm know; elsewhere set "
        "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID instead (default: alone)",
    )
    parser.add_argument(
        "--export",
        metavar="DIR",
        help="write the model of the newest checkpoint to DIR and stop (default: train)",
    )
    parser.add_argument(
        "--settings", action="store_true", help="print every setting and stop (default: train)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, last (default: lines)"
    )


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for.

    Raises:
        InputError: see `config.load` and `training.loop.train`.
    """
    # Imported here: `--help` answers at once.
    from omnihuman_jax import config, processes, storage
    from omnihuman_jax.settings import described
    from omnihuman_jax.training.loop import export, train

    experiment = config.load(args.config, args.changes)
    if args.settings:
        print(json.dumps(described(experiment), indent=2, ensure_ascii=False))
        return
    if not storage.is_remote(args.workdir) and storage.is_file(args.workdir):
        raise InputError(f"{args.workdir} is a file; give a folder for the run.")
    with processes.joined(everywhere=args.distributed):
        if args.export is not None:
            outcome = export(experiment, args.workdir, args.export)
        else:
            outcome = train(experiment, args.workdir)
        _print(args, dataclasses.asdict(outcome))


def _print(args: argparse.Namespace, outcome: dict[str, Any]) -> None:
    if args.json:
        print(json.dumps(outcome))
    elif outcome["model"] is not None:
        print(f"{outcome['step']} steps; the model is in {outcome['model']}")
    else:
        print(f"stopped at step {outcome['step']}; run the same command to go on")
