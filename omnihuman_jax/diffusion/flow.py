"""Rectified flow: the path, its velocity, and the times at which it is trained. The only file that defines t.

t in [0, 1], t = 1 is noise: x_t = (1 - t) x0 + t noise, dx_t/dt = noise - x0 (Lipman et al.,
arXiv 2210.02747; Liu et al., arXiv 2209.03003; SD3, arXiv 2403.03206, section 2).
Times are float32 whatever the latents are, and so is every result here.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from omnihuman_jax.errors import InputError


def interpolate(
    x0: Float[Array, "B *S"], noise: Float[Array, "B *S"], t: Float[Array, "B"]
) -> Float[Array, "B *S"]:
    """x_t, the point of the path from data (t = 0) to noise (t = 1), one time a clip. float32."""
    t = _beside(t, x0)
    return (1 - t) * _float32(x0) + t * _float32(noise)


def target(x0: Float[Array, "B *S"], noise: Float[Array, "B *S"]) -> Float[Array, "B *S"]:
    """The velocity v = noise - x0 that the network learns; the same at every t of one path. float32."""
    return _float32(noise) - _float32(x0)


def data_from(
    x: Float[Array, "B *S"], v: Float[Array, "B *S"], t: Float[Array, "B"]
) -> Float[Array, "B *S"]:
    """The x0 that velocity `v` at (x, t) points to: x - t v. At t = 1 this is APT's generator, eq. 5."""
    return _float32(x) - _beside(t, x) * _float32(v)


def noise_from(
    x: Float[Array, "B *S"], v: Float[Array, "B *S"], t: Float[Array, "B"]
) -> Float[Array, "B *S"]:
    """The noise that velocity `v` at (x, t) comes from: x + (1 - t) v."""
    return _float32(x) + (1 - _beside(t, x)) * _float32(v)


def shift[T: (jax.Array, np.ndarray)](t: T, amount: float) -> T:
    """Spend more time near noise, as longer clips need: amount t / (1 + (amount - 1) t).

    SD3, section 5.3.2, eq. 23; `amount` is its square root of m / n. 1 changes nothing, 1 / amount
    undoes amount. Wan2.1 samples with 5, and with 3 at 480p from an image.
    """
    return amount * t / (1 + (amount - 1) * t)


def shift_for(tokens: int, *, amount: float = 3.0, at: int = 32_760) -> float:
    """The shift of a clip of `tokens` video tokens, when `amount` is right for `at` tokens; 1 at least.

    SD3, eq. 23: more values are seen through more noise, so to hide as much of a longer clip the
    noise must grow with the square root of their number. The default is Wan's advice for 81 frames
    of 480x832; it gives 4.6 at 720x1280, where Wan advises 5. (Flux makes log(shift) linear in the
    tokens, from 0.5 at 256 to 1.15 at 4096. That was fitted to images: it would be 400 here.)

    Raises:
        InputError: a count or amount that is not positive.
    """
    if tokens < 1 or at < 1 or not _positive(amount):
        raise InputError(
            f"A shift needs positive token counts and amount, got {tokens=} {at=} {amount=}."
        )
    return max(1.0, amount * math.sqrt(tokens / at))


class TimeSampler(Protocol):
    """Draws training times in [0, 1], float32, of the shape asked for."""

    def __call__(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]: ...


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Every t alike, then shifted."""

    shift: float = 1.0

    def __post_init__(self) -> None:
        _check_shift(self.shift)

    def __call__(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        return shift(jax.random.uniform(key, shape, jnp.float32), self.shift)


@dataclass(frozen=True, kw_only=True)
class LogitNormal:
    """logit(t) ~ N(mean, std^2), then shifted: the middle of the path is the hard part (SD3, eq. 19)."""

    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        _check_shift(self.shift)
        if not math.isfinite(self.mean) or not _positive(self.std):
            raise InputError(
                f"Logit-normal times need a finite mean and a positive std, "
                f"got mean={self.mean} std={self.std}."
            )

    def __call__(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        normal = jax.random.normal(key, shape, jnp.float32)
        return shift(jax.nn.sigmoid(self.mean + self.std * normal), self.shift)


def _beside(t: Float[Array, "B"], x: Float[Array, "B *S"]) -> Float[Array, "B *ones"]:
    return _float32(t).reshape(-1, *[1] * (x.ndim - 1))


def _float32(x: Array) -> Array:
    return x.astype(jnp.float32)


def _positive(number: float) -> bool:
    return 0 < number < math.inf


def _check_shift(amount: float) -> None:
    if not _positive(amount):
        raise InputError(f"A time shift must be positive (1 for none, 5 is Wan's), got {amount}.")
