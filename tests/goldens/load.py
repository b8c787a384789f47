"""Reading the goldens: reference values from torch, and their weights under our names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnihuman_jax.weights import Rule, torch_names


def load(part: str) -> dict[str, np.ndarray]:
    """The arrays of one golden file (see make_<part>.py)."""
    with np.load(Path(__file__).with_name(f"{part}.npz")) as file:
        return dict(file)


def params_of(golden: dict[str, np.ndarray], rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """The golden's "weights/…" as our parameters, by path."""
    prefix = "weights/"
    tensors = {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}
    params = {}
    for rule in rules:
        rows = []
        layers = range(len(tensors)) if "{}" in rule.name else [None]
        for layer in layers:
            value = tensors.pop(rule.name.format(layer), None)
            if value is None:
                break
            value = np.squeeze(value, rule.squeeze) if rule.squeeze else value
            rows.append(value if rule.axes is None else value.transpose(rule.axes))
        if rows:
            params[rule.path] = np.stack(rows) if "{}" in rule.name else rows[0]
    assert not tensors, f"no rule took {sorted(tensors)[:5]}"
    return params


def torch_shapes(params: Mapping[str, Any], rules: Sequence[Rule]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the torch checkpoint that holds these (real or abstract) parameters."""
    ours = {path: value.shape for path, value in params.items()}
    shapes = {}
    for name, place in torch_names(rules, ours).items():
        shape = ours[place.path] if place.row is None else ours[place.path][1:]
        shapes[name] = place.rule.undo(np.broadcast_to(np.float32(0), shape)).shape
    return shapes
