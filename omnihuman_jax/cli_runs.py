"""What the verbs `train` and `distill` have in common: a config, changes, a workdir, and how a run ended."""

import argparse
import json
from typing import Any

from omnihuman_jax.errors import InputError


def add_run_arguments(parser: argparse.ArgumentParser, example: str) -> None:
    """The arguments of a run; `example` is a setting that could be changed."""
    parser.add_argument("config", metavar="CONFIG.py", help="the experiment, a file of configs/")
    parser.add_argument(
        "changes",
        nargs="*",
        metavar="a.b=c",
        help=f"settings to change, such as {example} (default: as the config says)",
    )
    parser.add_argument(
        "--workdir",
        metavar="URI",
        help="folder of the run, local or gs://: checkpoints, metrics, samples, and at the end the "
        "model directory (default: runs/NAME, by the config's file)",
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
        help="write the model of the newest checkpoint to DIR and stop (default: run)",
    )
    parser.add_argument(
        "--settings", action="store_true", help="print every setting and stop (default: run)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, last (default: lines)"
    )


def workdir(args: argparse.Namespace) -> str:
    """The folder of the run.

    Raises:
        InputError: it is a file.
    """
    # Imported here: `--help` answers at once.
    from pathlib import PurePath

    from omnihuman_jax import storage

    folder = args.workdir or f"runs/{PurePath(args.config).stem}"
    if not storage.is_remote(folder) and storage.is_file(folder):
        raise InputError(f"{folder} is a file; give a folder for the run.")
    return folder


def say_outcome(args: argparse.Namespace, outcome: dict[str, Any]) -> None:
    """Print how a run ended; whether somebody asked it to is for those who call it from Python."""
    if args.json:
        print(json.dumps({name: value for name, value in outcome.items() if name != "asked"}))
    elif outcome["model"] is not None:
        print(f"{outcome['step']} steps; the model is in {outcome['model']}")
    else:
        print(f"stopped at step {outcome['step']}; run the same command to go on")
