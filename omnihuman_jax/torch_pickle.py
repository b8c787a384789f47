"""Reads the pickles of `torch.save` without torch: an unpickler that can build tensors and nothing else."""

import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from omnihuman_jax.errors import InputError

STORAGES: Mapping[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
LARGEST = 100 << 20  # bytes of a pickle of names; that of UMT5-XXL has 20 kB
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
)  # what trainers put around weights

Entry = tuple[str, tuple[int, ...], np.dtype, int, tuple[int, ...]]


def extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many elements lie between the first and the last of a strided view, both counted."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))


@dataclass(frozen=True)
class Storage:
    """Numbers of one kind that lie behind each other, under a key."""

    key: str
    dtype: np.dtype


@dataclass(frozen=True)
class View:
    """What a tensor is inside a `torch.save` archive: a strided view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *_gradient_and_hooks: Any
) -> View:
    return View(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(view: Any, *_gradient_and_hooks: Any) -> Any:
    return view


class TensorUnpickler(pickle.Unpickler):
    """Builds tensors, dicts, lists and numbers. Any other global ends it before anything is called."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return name
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,  # before torch 0.4
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        }
        if (module, name) not in allowed:
            raise InputError(f"it names {module}.{name}, which is not a tensor")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _device, _count, *_view = pid
        if any(view is not None for view in _view):  # torch before 0.4, of storages within storages
            raise InputError("it refers to a part of a storage")
        if kind != "storage" or dtype not in STORAGES:
            raise InputError(f"it refers to a {kind!r}, not to a storage of numbers")
        return Storage(str(key), STORAGES[dtype])


@contextmanager
def refusing(path: str) -> Iterator[None]:
    """Whatever a pickle raises as it is read, as an InputError of one line."""
    try:
        yield
    except InputError as why:
        raise InputError(
            f"{path} is refused: {why}. Only tensors are read from a pickle; save the weights alone."
        ) from None
    except Exception as why:  # A broken pickle can raise anything; all mean the same.
        raise InputError(f"{path} has a pickle that cannot be read ({why!r}).") from why


def views(path: str, found: Any) -> dict[str, View]:
    """The tensors of a network, by name, in what an unpickler found; without what trainers put around them.

    Raises:
        InputError: it is anything but a dict of tensors.
    """
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}; a dict of tensors is needed.")
    for name, view in found.items():
        if not isinstance(name, str):
            raise InputError(f"{path}: entry {name!r} is not a tensor.")
        check(path, name, view)
    return found


def check(path: str, name: str, view: Any) -> None:
    """Raises: InputError: `view` is not a tensor, or has an impossible shape."""
    sound = isinstance(view, View) and isinstance(view.storage, Storage)
    if not sound or len(view.shape) != len(view.strides):
        raise InputError(f"{path}: entry {name!r} is not a tensor.")
    numbers = (view.offset, *view.shape, *view.strides)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise InputError(f"{path}: tensor {name} has an impossible shape.")
