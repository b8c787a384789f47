"""The only place that knows the files of the networks behind metrics: the released ones, and ours.

A network is made of one released file or of several (LPIPS: a backbone, and heads). `omnihuman convert`
writes it as a folder with one weights.safetensors, which holds our parameters by path. `read` takes either.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from omnihuman_jax import storage, torch_files
from omnihuman_jax.errors import InputError
from omnihuman_jax.torch_files import Checkpoint
from omnihuman_jax.weights import Rule, convert

WEIGHTS = "weights.safetensors"
SYNCNET = "syncnet_v2.model"
NETWORK = "metric_network"  # in the metadata of WEIGHTS: which network it is
_PREFIX = "module."  # of DataParallel
_COUNTER = "num_batches_tracked"  # of batch norms: nothing of evaluation depends on it


@dataclass(frozen=True)
class Part:
    """What one released file holds of a network.

    Attributes:
        file: what it is called where it is published.
        rules: of all tensors that we need.
        shapes: of our parameters.
        unneeded: a pattern of the other tensors (a classifier, say).
    """

    file: str
    rules: Sequence[Rule]
    shapes: Mapping[str, tuple[int, ...]]
    unneeded: str = ""

    def fits(self, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint has all these tensors, in their shapes, and no strangers."""
        tensors = self._needed(checkpoint.shapes)
        if tensors.keys() != {rule.name for rule in self.rules}:
            return False
        try:
            found = {rule.path: rule.shape(tensors[rule.name]) for rule in self.rules}
        except ValueError:
            return False
        return found == dict(self.shapes)

    def params(self, checkpoint: Checkpoint) -> dict[str, Float32[np.ndarray, "..."]]:
        """Our parameters. Raises InputError: a number that is not finite."""
        tensors = self._needed(checkpoint.tensors)
        read = {name: np.asarray(tensor.read(), np.float32) for name, tensor in tensors.items()}
        for name, value in read.items():
            if not np.isfinite(value).all():
                raise InputError(
                    f"Tensor {name} in {checkpoint.name} holds NaN or infinity; download it again."
                )
        return convert(read, self.rules)

    def _needed[T](self, tensors: Mapping[str, T]) -> dict[str, T]:
        named = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
        return {
            name: tensor
            for name, tensor in named.items()
            if not name.endswith(_COUNTER) and not re.fullmatch(self.unneeded, name)
        }


def read(path: str, network: str, parts: Sequence[Part]) -> dict[str, Float32[np.ndarray, "..."]]:
    """The parameters of a network: from our folder, or from the released files there, local or gs://.

    Raises:
        InputError: nothing there, another network, a part missing, or a file that cannot be read.
    """
    if storage.is_file(storage.join(path, WEIGHTS)):
        return _ours(storage.join(path, WEIGHTS), network, parts)
    with opened(path) as checkpoints:
        found: dict[str, Float32[np.ndarray, "..."]] = {}
        for part in parts:
            of_part = [each for each in checkpoints if part.fits(each)]
            if len(of_part) != 1:
                raise InputError(
                    f"{path} has {len(of_part) or 'no'} files like {part.file}, which {network} is "
                    f"made of; it needs {' and '.join(each.file for each in parts)}, once each, or "
                    "a folder that `omnihuman convert` made of them."
                )
            found |= part.params(of_part[0])
    return found


@contextmanager
def opened(path: str) -> Iterator[list[Checkpoint]]:
    """All checkpoints at `path`, a file or a folder. Raises InputError: there are none."""
    checkpoints: list[Checkpoint] = []
    found = torch_files.find_checkpoints(path)
    if not storage.is_file(path):  # SyncNet's ends as tokenizers do
        others = [storage.join(path, name) for name in storage.files(path) if SYNCNET in name]
        found += [(name, (name,)) for name in others]
    try:
        for name, files in found:
            checkpoints.append(torch_files.open_checkpoint(name, files))
        if not checkpoints:
            raise InputError(f"{path} holds no checkpoint (*.pth, *.pt, *.model, *.safetensors).")
        yield checkpoints
    finally:
        for checkpoint in checkpoints:
            checkpoint.close()


def write(
    folder: str,
    network: str,
    params: Mapping[str, Float32[np.ndarray, "..."]],
    metadata: Mapping[str, str],
) -> None:
    """The folder that `read` takes; a file that is there is replaced once the new one is whole."""
    torch_files.write_safetensors(
        storage.join(folder, WEIGHTS),
        {name: (value.shape, value.dtype) for name, value in params.items()},
        lambda name: [params[name]],
        {NETWORK: network, **metadata},
    )


def _ours(path: str, network: str, parts: Sequence[Part]) -> dict[str, Float32[np.ndarray, "..."]]:
    wanted = {name: shape for part in parts for name, shape in part.shapes.items()}
    checkpoint = torch_files.open_checkpoint(path, (path,))
    try:
        if checkpoint.shapes != wanted:
            kind = checkpoint.metadata.get(NETWORK, "something else")
            raise InputError(f"{path} is {kind}, not {network}; convert the released file again.")
        return {name: np.array(tensor.read()) for name, tensor in checkpoint.tensors.items()}
    finally:
        checkpoint.close()
