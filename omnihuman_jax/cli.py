"""The command line: the verbs, exit codes, and one clear line for whatever is wrong with the input."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from omnihuman_jax import (
    __version__,
    ahead,
    cli_ablate,
    cli_compare,
    cli_convert,
    cli_data,
    cli_distill,
    cli_evaluate,
    cli_generate,
    cli_plan,
    cli_preprocess,
    cli_puppets,
    cli_serve,
    cli_testset,
    cli_train,
)
from omnihuman_jax.errors import InputError, StoppedError

VERBS = {
    "generate": cli_generate,
    "serve": cli_serve,
    "convert": cli_convert,
    "puppets": cli_puppets,
    "preprocess": cli_preprocess,
    "data": cli_data,
    "testset": cli_testset,
    "train": cli_train,
    "distill": cli_distill,
    "evaluate": cli_evaluate,
    "ablate": cli_ablate,
    "compare": cli_compare,
    "plan": cli_plan,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Exit code 0: done; 2: bad input; 1: failure; 130: interrupted."""
    parser = argparse.ArgumentParser(
        prog="omnihuman",
        description="A person in a picture speaks, sings and moves: OmniHuman-1 on Wan2.1, in JAX.",
        epilog="`omnihuman VERB --help` shows every setting of a verb with its default.",
    )
    parser.add_argument("--version", action="version", version=f"omnihuman_jax {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, module in VERBS.items():
        module.add_arguments(
            verbs.add_parser(name, help=module.DESCRIPTION, description=module.DESCRIPTION)
        )
    args = _parsed(parser, argv)
    logging.basicConfig(level=os.environ.get("OMNIHUMAN_LOG", "WARNING").upper())
    _environment()
    try:
        VERBS[args.verb].run(args)
    except InputError as why:
        print(f"omnihuman {args.verb}: {why}", file=sys.stderr)
        return 2
    except StoppedError as why:
        print(f"omnihuman {args.verb}: {why}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our lines, `head` say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(f"omnihuman {args.verb}: interrupted.", file=sys.stderr)
        return 130
    return 0


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; settings a.b=c may stand behind options too, where argparse takes no more of them."""
    args, rest = parser.parse_known_args(argv)
    settings = [word for word in rest if "=" in word and not word.startswith("-")]
    if rest and (settings != rest or not hasattr(args, "changes")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.changes += settings
    return args


def _environment() -> None:
    """Defaults of the libraries, set before they are imported; what the user has set wins."""
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omnihuman_jax/compiled"
    )
    for name, value in {
        # Programs compiled once are kept for the next start.
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        # transformers advises against having no torch, which is what we want.
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        # Its retries are not news; if all fail, our one line says so.
        "HF_HUB_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)
    ahead.say_if_no_chips()


if __name__ == "__main__":
    sys.exit(main())
