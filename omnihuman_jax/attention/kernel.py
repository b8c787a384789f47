"""What an implementation of attention can do, and the only place that makes it differentiable.

A kernel has three passes: `forward`, `backward` from a log-sum-exp (which may be that of more keys than
the kernel was shown: so the steps of a ring combine), and `tangent`, primal and directional derivative
in one go. `attend` is their reverse-mode function, `attend_forward` their forward-mode one: JAX has no
function with rules for both that also works under jit, scan, remat and shard_map
(research/jax_stack.md, section 2.4).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

# What remat may keep, so that the backward pass runs no long attention a second time.
OUT, LSE = "attention_out", "attention_lse"
SHORT = (
    1024  # keys: attention to so few is cheap, and every device may hold them whole (text, audio)
)
# The log-sum-exp of a query that sees no key; its output is 0. Finite: differences stay numbers.
NOTHING = -1e30


class Mask(NamedTuple):
    """Who sees whom; see `attention`. Both None: all see all."""

    lengths: Int[Array, "B"] | None = None
    segments: tuple[Int[Array, "B L"], Int[Array, "B S"]] | None = None


QKV = tuple[Float[Array, "B L N K"], Float[Array, "B S N K"], Float[Array, "B S N K"]]
Out = tuple[Float[Array, "B L N K"], Float[Array, "B N L"]]  # and log-sum-exp, float32


class Kernel(NamedTuple):
    """The three passes of an implementation.

    Attributes:
        check: raises NotImplementedError, with the reason, for inputs that the kernel cannot take.
        forward: (q, k, v), mask -> output in q's dtype, log-sum-exp of the scaled scores in float32.
        backward: (q, k, v), mask, out, lse, gradient of out -> gradients of q, k, v. `out` and `lse` are
            those of all keys that the queries saw, here or elsewhere.
        tangent: (q, k, v), their tangents, mask -> (out, lse), (tangent of out, tangent of lse).
        opaque: XLA cannot split it over devices (Pallas, cuDNN): on any mesh it goes into a shard_map.

    A query that sees no key (a ring shows it some keys at a time) has output 0 and lse NOTHING, and
    passes no gradient on.
    """

    name: str
    check: Callable[[QKV, Mask], None]
    forward: Callable[[QKV, Mask], Out]
    backward: Callable[[QKV, Mask, Array, Array, Array], QKV]
    tangent: Callable[[QKV, QKV, Mask], tuple[Out, Out]]
    opaque: bool = False


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(kernel: Kernel, qkv: QKV, mask: Mask) -> Float[Array, "B L N K"]:
    """The output of a kernel, with reverse-mode derivatives."""
    return kernel.forward(qkv, mask)[0]


def _attend_forward(kernel: Kernel, qkv: QKV, mask: Mask) -> tuple[Array, Any]:
    out, lse = kernel.forward(qkv, mask)
    if qkv[1].shape[1] > SHORT:
        out, lse = checkpoint_name(out, OUT), checkpoint_name(lse, LSE)
    return out, (qkv, mask, out, lse)


def _attend_backward(kernel: Kernel, kept: Any, gradient: Array) -> tuple[QKV, None]:
    qkv, mask, out, lse = kept
    return kernel.backward(qkv, mask, out, lse, gradient), None


attend.defvjp(_attend_forward, _attend_backward)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def attend_forward(kernel: Kernel, qkv: QKV, mask: Mask) -> Float[Array, "B L N K"]:
    """The output of a kernel, with forward-mode derivatives."""
    return kernel.forward(qkv, mask)[0]


@attend_forward.defjvp
def _attend_tangent(kernel: Kernel, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (qkv, mask), (turns, _) = primals, tangents
    (out, _), (turn, _) = kernel.tangent(qkv, turns, mask)
    return out, turn


def merge(one: Out, other: Out) -> Out:
    """The attention to two sets of keys, from the attention to each. Differentiable; exact."""
    (a, lse_a), (b, lse_b) = one, other
    lse = jnp.logaddexp(lse_a, lse_b)

    def weighted(out: Array, own: Array) -> Array:
        return out.astype(jnp.float32) * jnp.moveaxis(jnp.exp(own - lse), 1, 2)[..., None]

    return (weighted(a, lse_a) + weighted(b, lse_b)).astype(a.dtype), lse
