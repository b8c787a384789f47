"""Reading the goldens: reference values from torch, and their weights under our names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnihuman_jax.weights import Rule, convert, torch_names


def load(part: str) -> dict[str, np.ndarray]:
    """The arrays of one golden file (see make_<part>.py)."""
    with np.load(Path(__file__).with_name(f"{part}.npz")) as file:
        return dict(file)


def params_of(golden: Mapping[str, np.ndarray], rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """The golden's "weights/…" as our parameters, by path; every one must have a place."""
    prefix = "weights/"
    tensors = {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}
    return convert(tensors, rules)


def torch_shapes(params: Mapping[str, Any], rules: Sequence[Rule]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the torch checkpoint that holds these (real or abstract) parameters."""
    ours = {path: value.shape for path, value in params.items()}
    shapes = {}
    for name, place in torch_names(rules, ours).items():
        shape = ours[place.path] if place.row is None else ours[place.path][1:]
        shapes[name] = place.rule.undo(np.broadcast_to(np.float32(0), shape)).shape
    return shapes
