"""The only place that knows 8-bit numbers: what weights become in them, and how they are multiplied.

A value is a code times a float32 scale: one scale for each output channel of the weights, and one for each
token of the inputs, found anew each time (dynamic). Codes are int8, or float8_e4m3fn; a scale is the
largest magnitude over the largest code, so scaling a row by a power of two changes no code, and a row of
zeros stays zeros. qwix does both (docs/decisions/0010-low-precision.md); its defaults are those named here.

Errors, with s the scale: of an int8 code half a unit, s / 2; of a float8 code (three bits behind the point)
at most 1/16 of the value, or s / 1024 near zero. Sums are exact in int32 (of up to 131,071
products), and float32 for float8.
"""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import qwix
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Shaped

Kind = Literal["int8", "float8"]
DTYPES: Mapping[Kind, DTypeLike] = {"int8": jnp.int8, "float8": jnp.float8_e4m3fn}


def kind_of(dtype: DTypeLike) -> Kind | None:
    """Which kind of codes an array of this type has; None if it has none."""
    return next((kind for kind, codes in DTYPES.items() if jnp.dtype(codes) == dtype), None)


def encode(
    weights: Float[Array, "*layers I O"], kind: Kind
) -> tuple[Shaped[Array, "*layers I O"], Float32[Array, "*layers O"]]:
    """Codes of the weights, and their scales."""
    inputs = weights.ndim - 2
    each = [axis for axis in range(weights.ndim) if axis != inputs]
    made = _quantize(weights, kind, each)
    return made.qvalue, jnp.squeeze(made.scale, inputs)


def product(
    x: Float[Array, "*B I"], codes: Shaped[Array, "I O"], scale: Float32[Array, "O"]
) -> Float32[Array, "*B O"]:
    """`x` in 8 bits times the weights that `encode` made."""
    kind = kind_of(codes.dtype)
    assert kind is not None, codes.dtype
    tokens = _quantize(x, kind, range(x.ndim - 1))
    dims = (((x.ndim - 1,), (0,)), ((), ()))
    return qwix.dot_general(tokens, qwix.QArray(codes, scale[None]), dims)


def _quantize(x: jax.Array, kind: Kind, each: "list[int] | range") -> qwix.QArray:
    # In float32: qwix divides and rounds in the type that it is given, and bfloat16 has 8 bits itself.
    return qwix.quantize(x.astype(jnp.float32), DTYPES[kind], channelwise_axes=tuple(each))
