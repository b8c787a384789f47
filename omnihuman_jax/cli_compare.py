"""The verb `compare` of the command line: its arguments, and what it prints."""

import argparse
import json

DESCRIPTION = "Tables of runs that were evaluated on one test set: markdown, LaTeX, HTML."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `omnihuman compare`."""
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folders written by `omnihuman evaluate`")
    add(
        "--out",
        required=True,
        metavar="DIR",
        help="for table.md, table.tex, table.html and comparison.json (no default)",
    )
    add(
        "--layout",
        choices=["auto", "portrait", "body", "all"],
        default="auto",
        help="columns of OmniHuman-1's Table 1 (portrait) or 2 (body), or all that was computed (default: "
        "auto, by the test set)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: 0)")
    add("--json", action="store_true", help="print one JSON object, last (default: lines)")


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for.

    Raises:
        InputError: see `evaluation.comparing.compared` and `evaluation.summary.load`.
    """
    # Imported here: `--help` answers at once.
    import dataclasses

    from omnihuman_jax import storage
    from omnihuman_jax.evaluation import comparing, summary, tables

    found = comparing.compared([summary.load(folder) for folder in args.runs], args.seed)
    layout = comparing.layout_of(found.testset) if args.layout == "auto" else args.layout
    ours = tables.computed(found, layout)
    for name, form in tables.FORMS.items():
        text = form([*ours, *tables.published(layout)])
        storage.write_bytes(storage.join(args.out, name), text.encode())
    content = json.dumps(dataclasses.asdict(found), ensure_ascii=False)
    storage.write_bytes(storage.join(args.out, "comparison.json"), content.encode() + b"\n")
    print(tables.markdown(ours))
    print(f"{args.out}: {', '.join(tables.FORMS)}, with published figures as reported.")
    if args.json:
        print(content)
