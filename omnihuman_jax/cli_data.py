"""The verb `data` of the command line: its arguments, and what it prints."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omnihuman_jax.errors import InputError

DESCRIPTION = "Look into records, check them, or take over a teacher dump."
SHOWN = 50  # problems that are printed; --json has all


@dataclass(frozen=True)
class Action:
    """What comes after `data`."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `omnihuman data`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, action in ACTIONS.items():
        action.add_arguments(
            actions.add_parser(name, help=action.help, description=f"{action.help}.")
        )


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for.

    Raises:
        InputError: no data set, or one that is not as it should be.
    """
    ACTIONS[args.action].run(args)


def _folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uri", help="folder of the records, local or gs://")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, last (default: lines)"
    )


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    _folder(parser)
    parser.add_argument(
        "--samples",
        type=int,
        default=256,
        metavar="N",
        help="records read for the distribution of scores (default: %(default)s)",
    )


def _inspect(args: argparse.Namespace) -> None:
    # Imported here, as below: `--help` answers at once.
    from omnihuman_jax.data import validation

    if args.samples < 1:
        raise InputError(f"--samples is at least 1, got {args.samples}.")
    summary = validation.inspect(args.uri, samples=args.samples)
    print(*_lines(summary), sep="\n")
    if args.json:
        print(json.dumps(summary))


def _lines(summary: Mapping[str, Any]) -> list[str]:
    """A summary as tables."""
    from tqdm import tqdm

    size = f"{tqdm.format_sizeof(summary['bytes'])}B in {summary['shards']} shards"
    time = f"{tqdm.format_interval(summary['hours'] * 3600)} long, " if "hours" in summary else ""
    lines = [
        f"{summary['uri']}: {summary['name']} ({summary['kind']})",
        f"  {summary['records']} records, {time}{size}, {summary['fps']:g} frames a second, "
        f"{summary['channels']} latent channels",
    ]
    share = {name: n / max(summary["records"], 1) for name, n in summary["buckets"].items()}
    lines += _table(
        ["size", "records", "share"],
        [[name, n, f"{share[name]:.1%}"] for name, n in summary["buckets"].items()],
    )
    lines += _table(
        ["teaches", "records", "share"],
        [[k, c["records"], f"{c['share']:.1%}"] for k, c in summary["conditions"].items()],
    )
    if summary.get("scores"):
        rows = [[name, *values.values()] for name, values in summary["scores"].items()]
        heads = next(iter(summary["scores"].values()))
        lines += _table([f"scores of {summary['sampled']}", *heads], rows)
    lines += _table(["made by", "fingerprint"], list(summary["fingerprints"].items()))
    if summary.get("example"):
        lines += _table(["first record", ""], list(summary["example"].items()))
    return lines


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Columns under their heads, numbers to the right; an empty line before."""
    if not rows:
        return []
    texts = [[*heads], *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(heads))]
    right = [
        all(not isinstance(row[i], str) or "%" in row[i] for row in rows) for i in range(len(heads))
    ]
    return [
        "",
        *(
            "  "
            + "  ".join(
                cell.rjust(w) if to_right else cell.ljust(w)
                for cell, w, to_right in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in texts
        ),
    ]


def _add_validate(parser: argparse.ArgumentParser) -> None:
    _folder(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar (default: shown)")


def _validate(args: argparse.Namespace) -> None:
    from omnihuman_jax.data import validation

    problems = validation.validate(args.uri, progress=not args.quiet)
    print(*problems[:SHOWN], sep="\n", end="\n" if problems else "")
    if len(problems) > SHOWN:
        print(f"… and {len(problems) - SHOWN} more; --json lists all.")
    if not problems:
        print(f"{args.uri}: every record is whole, and all agree.")
    if args.json:
        print(json.dumps({"uri": args.uri, "problems": [vars(problem) for problem in problems]}))
    if problems:
        files = len({problem.file for problem in problems})
        raise InputError(
            f"{args.uri} has {len(problems)} problems in {files} files; copy these again, or remove the "
            "shards with their indexes and run preprocess again."
        )


def _add_import(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("dump", help="dummy_data_480x832.pt of the original project, local or gs://")
    add("uri", help="folder for the records, local or gs://")
    add("--name", default="teacher", help="start of every file's name (default: %(default)s)")
    add("--shards", type=int, default=1, metavar="N", help="files (default: %(default)s)")
    add(
        "--time",
        type=float,
        default=0.999,
        metavar="T",
        help="in [0, 1], of the teacher's velocities: their script's (default: %(default)s)",
    )
    add(
        "--guidance",
        type=float,
        default=7.5,
        metavar="X",
        help="scale of guidance in them: their script's (default: %(default)s)",
    )
    add("--json", action="store_true", help="print one JSON object, last (default: lines)")


def _import(args: argparse.Namespace) -> None:
    from omnihuman_jax.data import dumps

    samples = dumps.import_pt(args.dump, t=args.time, guidance=args.guidance)
    settings = {"from": args.dump, "t": args.time, "guidance": args.guidance}
    made = dumps.write_dump(args.uri, samples, args.name, args.shards, settings=settings)
    print(f"Wrote {args.uri}: {made.records} samples, {made.bytes / 1e9:.3f} GB.")
    if args.json:
        summary = {"uri": args.uri, "name": made.name, "records": made.records, "bytes": made.bytes}
        print(json.dumps(summary))


ACTIONS: Mapping[str, Action] = {
    "inspect": Action("Say what is in a folder of records", _add_inspect, _inspect),
    "validate": Action("Read every byte and list all that is wrong", _add_validate, _validate),
    "import": Action("Take over a teacher's dump of the original project", _add_import, _import),
}
