"""The only place that turns released networks of metrics into a folder of weights for `omnihuman evaluate`.

Each becomes a folder of its own, in float32, under the name that `--weights` looks for. What is already in
the destination stays, so that networks may be added one by one.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from omnihuman_jax import hub, orbax_layout, storage
from omnihuman_jax.errors import InputError
from omnihuman_jax.models import i3d, inception, lpips, metric_files, resnet3d, syncnet
from omnihuman_jax.models.metric_files import Part
from omnihuman_jax.torch_files import Checkpoint

NETWORKS: Mapping[str, Sequence[Part]] = {
    "inception": inception.PARTS,
    "i3d": i3d.PARTS,
    "resnet3d": resnet3d.PARTS,
    "syncnet": syncnet.PARTS,
    "lpips": lpips.PARTS["alex"],
    "lpips_vgg": lpips.PARTS["vgg"],
}


def holds_metrics(source: str) -> bool:
    """Whether a file there is of a network behind a metric, so that `convert` here is to be called.

    Raises:
        InputError: there is no such source.
    """
    root = hub.local(source)
    try:
        with metric_files.opened(root) as checkpoints:
            return any(_fitting(checkpoint) for checkpoint in checkpoints)
    except InputError:
        return False  # whoever reads it for good says what is wrong


def convert(
    source: str, destination: str, *, overwrite: bool = False, progress: bool = True
) -> list[dict[str, Any]]:
    """Convert every network of a metric at `source` into a folder below `destination`.

    Args:
        source: a folder or file, local or gs://, or a repository of the Hugging Face hub.
        destination: a folder, local or gs://; new, or with networks of metrics in it.
        overwrite: replace networks that are there.

    Returns:
        What was read: {"network", "file", "bytes", "sha256"} of each file.

    Raises:
        InputError: a file of no network that we know, two of one, a part missing (LPIPS needs a backbone and
            heads), damaged numbers, or a network that is already there.
    """
    entries = []
    with metric_files.opened(hub.local(source)) as checkpoints:
        found = _sorted(checkpoints)
        taken = [
            name
            for name in found
            if storage.is_file(storage.join(destination, name, metric_files.WEIGHTS))
        ]
        if taken and not overwrite:
            raise InputError(
                f"{destination} has {', '.join(taken)} already; give another, or --overwrite."
            )
        for network, files in tqdm(found.items(), desc="Converting", disable=not progress):
            read = [entry for checkpoint in files for entry in _described(network, checkpoint)]
            params = {
                name: value
                for part, checkpoint in zip(NETWORKS[network], files, strict=True)
                for name, value in part.params(checkpoint).items()
            }
            version = importlib.metadata.version("omnihuman_jax")
            metric_files.write(
                storage.join(destination, network),
                network,
                params,
                {"files": json.dumps(read), "converted_by": f"omnihuman_jax {version}"},
            )
            entries += read
    return entries


def _fitting(checkpoint: Checkpoint) -> list[tuple[str, int]]:
    """The networks, and the number of its part, that the checkpoint is."""
    return [
        (network, number)
        for network, parts in NETWORKS.items()
        for number, part in enumerate(parts)
        if part.fits(checkpoint)
    ]


def _sorted(checkpoints: Sequence[Checkpoint]) -> dict[str, list[Checkpoint]]:
    """The files of each network that is there, in the order of its parts."""
    found: dict[str, dict[int, Checkpoint]] = {}
    for checkpoint in checkpoints:
        fitting = _fitting(checkpoint)
        if not fitting:
            raise InputError(
                f"{checkpoint.name} is of no metric that we know ({', '.join(NETWORKS)}), beside "
                "files that are; take it away, or give the files one by one."
            )
        for network, number in fitting:
            other = found.setdefault(network, {}).setdefault(number, checkpoint)
            if other is not checkpoint:
                raise InputError(
                    f"{other.name} and {checkpoint.name} are the same part of {network}; keep one."
                )
    for network, files in found.items():
        missing = [part.file for at, part in enumerate(NETWORKS[network]) if at not in files]
        if missing:
            raise InputError(
                f"{network} is made of {len(NETWORKS[network])} files, and {', '.join(missing)} (or a "
                "file like it) is not there; put them into one folder and give that."
            )
    return {network: [files[at] for at in sorted(files)] for network, files in found.items()}


def _described(network: str, checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
    for file in checkpoint.readers:
        digest = hashlib.sha256()
        for start in range(0, file.size, orbax_layout.PIECE):
            digest.update(file.read(start, min(orbax_layout.PIECE, file.size - start)))
        name, sha256 = file.path.rpartition("/")[2], digest.hexdigest()
        yield {"network": network, "file": name, "bytes": file.size, "sha256": sha256}
