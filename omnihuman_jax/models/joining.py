"""The only place that makes one model directory of the networks of several.

    python -m omnihuman_jax.models.joining OUT MODEL [MODEL ...]

Networks are trained one at a time, each into a directory of its own; the next one needs them together.
`--ship` writes bfloat16 safetensors, half the bytes, as the built-in model is kept in the repository.
`--without audio pose` leaves out what the transformer hears and is posed by, to train these anew.
"""

import argparse
import dataclasses
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from omnihuman_jax import storage, torch_files
from omnihuman_jax.errors import InputError
from omnihuman_jax.models import directory, mini
from omnihuman_jax.models.directory import SAFETENSORS, TOKENIZER, ModelDirectory
from omnihuman_jax.models.lazy_array import LazyArray
from omnihuman_jax.models.manifest import Manifest

BFLOAT = np.dtype(ml_dtypes.bfloat16)


def join(
    path: str,
    sources: Sequence[ModelDirectory],
    *,
    tokenizer: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    ship: bool = False,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
) -> ModelDirectory:
    """Write a model directory with every network of `sources`; of two of a kind the last one's.

    A model directory that is at `path` is replaced. What each says of its origin is kept by network.

    Args:
        tokenizer: "byt5", or None: that of the source of the text encoder.
        sampling: defaults, beside those of the sources (the last one's).
        only: of which networks; None for all. A part of a model finds the rest elsewhere.
        without: "audio", "pose": inputs that the transformer is written without (`DiTConfig`).
        ship: every network becomes one safetensors file in bfloat16; else weights are copied as they are.

    Raises:
        InputError: no source, or `path` is something else.
    """
    if not sources:
        raise InputError("There is nothing to join; name at least one model directory.")
    came = {
        name: source
        for source in sources
        for name in source.manifest.configs
        if only is None or name in only
    }
    if not came:
        raise InputError(f"None of the models has {', '.join(only or ())}.")
    text = came.get("text_encoder", sources[-1])
    configs = {name: source.manifest.configs[name] for name, source in came.items()}
    if without and "dit" in came:
        configs["dit"] = dataclasses.replace(configs["dit"], **dict.fromkeys(without))
    rewritten = {*came} if ship else {"dit"} & {*came} if without else set()
    manifest = Manifest(
        configs=configs,
        weights={
            name: "safetensors" if name in rewritten else source.manifest.weights[name]
            for name, source in came.items()
        },
        tokenizer=tokenizer or text.manifest.tokenizer,
        sampling={
            **{k: v for s in sources for k, v in s.manifest.sampling.items()},
            **(sampling or {}),
        },
        provenance={name: _origin(name, source) for name, source in came.items()},
    )
    draft = directory.start(path, overwrite=True)
    for name, source in came.items():
        if name in rewritten:
            kept = directory.param_shapes(name, configs[name])
            arrays = {path: a for path, a in source.arrays(name).items() if path in kept}
            _write(arrays, storage.join(draft, name), BFLOAT if ship else None)
        else:
            directory.copy_folder(source.folder(name), storage.join(draft, name))
    if manifest.tokenizer == "umt5" and "text_encoder" in came:
        directory.copy_folder(text.folder(TOKENIZER), storage.join(draft, TOKENIZER))
    directory.finish(draft, path, manifest)
    return ModelDirectory(path, manifest)


def _origin(name: str, source: ModelDirectory) -> dict[str, Any]:
    """What a directory says of one of its networks: by its name if it was joined, else of all."""
    said = source.manifest.provenance
    if name in said:
        return dict(said[name])
    return {key: value for key, value in said.items() if key not in source.manifest.configs}


def _write(arrays: Mapping[str, LazyArray], folder: str, dtype: np.dtype | None) -> None:
    kinds = {path: dtype or array.dtype for path, array in arrays.items()}
    torch_files.write_safetensors(
        storage.join(folder, SAFETENSORS),
        {path: (array.shape, kinds[path]) for path, array in arrays.items()},
        lambda path: [np.asarray(arrays[path][...]).astype(kinds[path])],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="joining", description=__doc__.splitlines()[0])
    parser.add_argument("out", metavar="OUT", help="the model directory to write (replaced)")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="of two networks, the last wins")
    parser.add_argument(
        "--like-mini",
        action="store_true",
        help="with the tokenizer and sampling defaults of the built-in model (default: as found)",
    )
    parser.add_argument(
        "--ship", action="store_true", help="in bfloat16, as one file each (default: as they are)"
    )
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="of these (default: all)")
    parser.add_argument(
        "--without",
        nargs="+",
        default=(),
        choices=["audio", "pose"],
        metavar="INPUT",
        help="the transformer without its audio or pose input (default: as it is)",
    )
    args = parser.parse_args(arguments)
    mine: dict[str, Any] = {}
    if args.like_mini:
        mine = {"tokenizer": mini.BYTES, "sampling": mini.SAMPLING}
    made = join(
        args.out,
        [mini.find(model) for model in args.models],
        ship=args.ship,
        only=args.only,
        without=args.without,
        **mine,
    )
    print(f"{args.out}: {', '.join(made.manifest.configs)}")


if __name__ == "__main__":
    try:
        main()
    except InputError as why:
        print(f"error: {why}", file=sys.stderr)
        sys.exit(2)
