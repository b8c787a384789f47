"""The only place that knows what the networks behind metrics are made of: convolutions that no longer learn.

A batch norm behind one is folded into its kernel and bias; all is in float32. A network is a table of these
and a function; its parameters have torch's names, "/" for ".".
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from omnihuman_jax.weights import Rule

Weights = Mapping[str, Float[Array, "..."]]
Params = Mapping[str, Float[np.ndarray, "..."]]
Padding = (
    str | int | tuple[int, ...]
)  # "SAME" as TensorFlow has it, "VALID", or so much on either side

_NORM = {"weight": "scale", "bias": "shift", "running_mean": "mean", "running_var": "variance"}
_AXES = {2: (1, 0), 4: (2, 3, 1, 0), 5: (2, 3, 4, 1, 0)}  # of torch's kernel, in our order


@dataclass(frozen=True)
class Conv:
    """A convolution over pictures or videos, or (without space in its kernel) a linear layer.

    Attributes:
        name: in torch.
        kernel: its extent in space (and time, first), then channels in and out.
        norm: the name in torch of the batch norm behind it.
        bias: whether it has one of its own.
    """

    name: str
    kernel: tuple[int, ...]
    stride: int | tuple[int, ...] = 1
    pad: Padding = "SAME"
    norm: str | None = None
    bias: bool = True

    @property
    def path(self) -> str:
        return self.name.replace(".", "/")


def torch_rules(layers: Iterable[Conv]) -> list[Rule]:
    """Every tensor of the layers in torch, but the counters of batch norms."""
    rules = []
    for layer in layers:
        axes = _AXES[len(layer.kernel)]
        rules.append(Rule(f"{layer.name}.weight", f"{layer.path}/kernel", axes))
        if layer.bias:
            rules.append(Rule(f"{layer.name}.bias", f"{layer.path}/bias"))
        if layer.norm:
            rules += [Rule(f"{layer.norm}.{t}", f"{layer.path}/{o}") for t, o in _NORM.items()]
    return rules


def shapes(layers: Iterable[Conv]) -> dict[str, tuple[int, ...]]:
    """Of every parameter that `torch_rules` makes."""
    found: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        found[f"{layer.path}/kernel"] = layer.kernel
        names = (["bias"] if layer.bias else []) + (list(_NORM.values()) if layer.norm else [])
        found |= {f"{layer.path}/{name}": layer.kernel[-1:] for name in names}
    return found


def folded(params: Params, layers: Iterable[Conv], eps: float) -> dict[str, jax.Array]:
    """Kernel and bias of each layer, with what its batch norm (of this epsilon) does in evaluation."""
    weights = {}
    for layer in layers:
        kernel = np.asarray(params[f"{layer.path}/kernel"], np.float64)
        bias: np.ndarray = np.zeros(layer.kernel[-1])
        if layer.bias:
            bias = np.asarray(params[f"{layer.path}/bias"], np.float64)
        if layer.norm:
            scale, shift, mean, variance = (
                np.asarray(params[f"{layer.path}/{name}"], np.float64) for name in _NORM.values()
            )
            gain = scale / np.sqrt(variance + eps)
            kernel, bias = kernel * gain, (bias - mean) * gain + shift
        weights[f"{layer.path}/kernel"] = jnp.asarray(kernel, jnp.float32)
        weights[f"{layer.path}/bias"] = jnp.asarray(bias, jnp.float32)
    return weights


def convolve(
    x: Float32[Array, "*S C"], layer: Conv, weights: Weights, *, relu: bool = True
) -> Float32[Array, "*s D"]:
    """The layer (with its norm, as folded), and a ReLU unless told otherwise."""
    kernel, bias = weights[f"{layer.path}/kernel"], weights[f"{layer.path}/bias"]
    if kernel.ndim == 2:
        x = jnp.matmul(x, kernel, precision="highest")
    else:
        space = kernel.ndim - 2
        letters = "DHW"[-space:]
        x = jax.lax.conv_general_dilated(
            x,
            kernel,
            _each(layer.stride, space),
            _padding(layer.pad, space),
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
            precision="highest",
        )
    x = x + bias.reshape((1,) * (x.ndim - 1) + bias.shape)
    return jax.nn.relu(x) if relu else x


def max_pool(
    x: Float32[Array, "*S C"],
    size: int | tuple[int, ...],
    stride: int | tuple[int, ...],
    pad: Padding = "VALID",
) -> Float32[Array, "*s C"]:
    """The largest in each window; what is padded counts for nothing."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, *_windows(x.ndim, size, stride, pad))


def mean_pool(
    x: Float32[Array, "*S C"], size: int, stride: int, pad: Padding = "VALID"
) -> Float32[Array, "*s C"]:
    """The mean of each window; what is padded is not counted, as in TensorFlow."""
    windows = _windows(x.ndim, size, stride, pad)
    there = jnp.ones((1, *x.shape[1:-1], 1), x.dtype)
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, *windows)
    return total / jax.lax.reduce_window(there, 0.0, jax.lax.add, *windows)


def resize(x: Float32[Array, "*N Y X C"], side: int) -> Float32[Array, "*N side side C"]:
    """Bilinear between the centres of pixels, no smoothing when it shrinks: torch's `interpolate`."""
    shape = (*x.shape[:-3], side, side, x.shape[-1])
    return jax.image.resize(x, shape, "linear", antialias=False)


def in_batches(
    function: Callable[[np.ndarray], jax.Array], items: UInt8[np.ndarray, "N ..."], size: int
) -> Float32[np.ndarray, "N ..."]:
    """`function` of up to `size` items at a time, the last ones filled up so that it is compiled once."""
    found = []
    size = max(1, min(size, len(items)))
    for start in range(0, max(1, len(items)), size):
        some = items[start : start + size]
        filler = np.zeros((size - len(some), *items.shape[1:]), items.dtype)
        found.append(np.asarray(function(np.concatenate([some, filler])))[: len(some)])
    return np.concatenate(found)


def _windows(
    ndim: int, size: int | tuple[int, ...], stride: int | tuple[int, ...], pad: Padding
) -> tuple[tuple[int, ...], tuple[int, ...], str | Sequence[tuple[int, int]]]:
    space = ndim - 2
    padding = _padding(pad, space)
    if not isinstance(padding, str):
        padding = [(0, 0), *padding, (0, 0)]
    return (1, *_each(size, space), 1), (1, *_each(stride, space), 1), padding


def _padding(pad: Padding, space: int) -> str | list[tuple[int, int]]:
    return pad if isinstance(pad, str) else [(each, each) for each in _each(pad, space)]


def _each(value: int | tuple[int, ...], space: int) -> tuple[int, ...]:
    return (value,) * space if isinstance(value, int) else value
