"""The only place that says how the learning rate moves over the updates of a run."""

import math
from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Shape = Literal["constant", "linear", "cosine", "wsd"]
SHAPES: tuple[str, ...] = get_args(Shape)


def factor(
    shape: Shape,
    update: Int[Array, ""] | int,
    steps: int,
    *,
    warmup: int = 0,
    decay: float = 0.2,
    end: float = 0.0,
) -> Float[Array, ""]:
    """What the learning rate is multiplied by at `update`, counted from 0.

    It climbs evenly over the first `warmup` updates, the first of them at 1/warmup and not at 0, and is 1
    at `update == warmup`. It is `end` at `update == steps` and ever after.

    Args:
        shape: after the warm-up: "constant" (there is no end); "linear" or "cosine" down to `end`; or
            "wsd" (warm-up, stable, decay): 1, and then down to `end` as 1 - sqrt over the last
            `decay` of the steps (Hägele et al., arXiv 2405.18392, section 4).
    """
    u = jnp.asarray(update, jnp.float32)
    rising = jnp.minimum((u + 1) / max(warmup, 1), 1.0)
    start = warmup if shape != "wsd" else max(warmup, steps - round(decay * steps))
    done = jnp.clip((u - start) / max(steps - start, 1), 0.0, 1.0)
    falling = {
        "constant": jnp.ones_like(u),
        "linear": 1 - done,
        "cosine": (1 + jnp.cos(math.pi * done)) / 2,
        "wsd": 1 - jnp.sqrt(done),
    }[shape]
    lowest = 0.0 if shape == "constant" else end
    return jnp.where(u < warmup, rising, lowest + (1 - lowest) * falling)
