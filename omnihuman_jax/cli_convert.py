"""The verb `convert` of the command line: its arguments, and what it prints."""

import argparse
import json
from typing import Any

from omnihuman_jax.errors import InputError

WORK = 24 * 3600  # seconds that processes wait for the one that converts
DESCRIPTION = (
    "Convert released Wan2.1 and wav2vec 2.0 checkpoints into a model directory, or back; and released "
    "networks of metrics into a folder for `evaluate --weights`."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `omnihuman convert`."""
    parser.add_argument(
        "source",
        help="checkpoints: a folder or file, local or gs://, or a repository of the Hugging Face hub "
        "such as Wan-AI/Wan2.1-T2V-1.3B. With --export: a model directory. For metrics: FID's Inception, "
        "I3D, 3-D ResNet-50, SyncNet, LPIPS (backbone and heads), as they are published",
    )
    parser.add_argument("destination", help="the folder to make, local or gs://")
    parser.add_argument(
        "--audio-encoder",
        metavar="SOURCE",
        help="also convert this wav2vec 2.0, such as facebook/wav2vec2-base-960h",
    )
    parser.add_argument(
        "--export",
        choices=["wan", "diffusers"],
        help="write safetensors in this layout from a model directory",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a model directory, or a network of a metric (default: refuse)",
    )
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="this is one process of several, as Cloud TPU, GKE or Slurm know: the first converts, the "
        "others wait (default: alone)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar (default: shown)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, last (default: lines)"
    )


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for.

    Raises:
        InputError: see `conversion.convert`, `metric_conversion.convert` and `export.export`.
    """
    # Imported here: `--help` answers at once.
    from omnihuman_jax import health, processes

    with processes.joined(everywhere=args.distributed), health.watched(1) as done:
        if processes.place()[0] == 0:
            _run(args)
        processes.barrier("the end of convert", WORK)
        done(1)


def _run(args: argparse.Namespace) -> None:
    from omnihuman_jax import conversion, export, metric_conversion

    if args.export:
        if args.audio_encoder or args.overwrite:
            raise InputError(
                "--audio-encoder and --overwrite do not go with --export; leave them out."
            )
        files = export.export(args.source, args.destination, args.export, progress=not args.quiet)
        result = {"destination": args.destination, "files": files}
        lines = [f"{name}" for name in files]
    elif metric_conversion.holds_metrics(args.source):
        if args.audio_encoder:
            raise InputError("--audio-encoder does not go with networks of metrics; leave it out.")
        read = metric_conversion.convert(
            args.source, args.destination, overwrite=args.overwrite, progress=not args.quiet
        )
        networks = list(dict.fromkeys(entry["network"] for entry in read))
        result = {"destination": args.destination, "networks": networks, "files": read}
        lines = _lines(read)
    else:
        model = conversion.convert(
            args.source,
            args.destination,
            audio_encoder=args.audio_encoder,
            overwrite=args.overwrite,
            progress=not args.quiet,
        )
        files = model.manifest.provenance["files"]
        result = {
            "destination": model.path,
            "networks": list(model.manifest.configs),
            "tokenizer": model.manifest.tokenizer,
            "files": files,
        }
        lines = _lines(files)
    print(f"Wrote {args.destination}:", *lines, sep="\n  ")
    if args.json:
        print(json.dumps(result))


def _lines(files: list[dict[str, Any]]) -> list[str]:
    return [f"{f['network']}: {f['file']} ({f['bytes'] / 1e9:.2f} GB)" for f in files]
