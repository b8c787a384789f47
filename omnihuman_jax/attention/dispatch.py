"""Which implementation of attention runs: tried in order of speed, refusals collected, choice logged once."""

import functools
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

import jax
from jaxtyping import Array, Float, Int

from omnihuman_jax.attention.chunked import CHUNKED, SCORES
from omnihuman_jax.attention.flash_gpu import FLASH_GPU
from omnihuman_jax.attention.flash_tpu import FLASH_TPU
from omnihuman_jax.attention.kernel import Kernel, Mask, attend, attend_forward
from omnihuman_jax.attention.reference import reference
from omnihuman_jax.attention.sharded import over_mesh, shares_context

log = logging.getLogger(__name__)

# Both are part of the key of JAX's caches: what was traced outside is not used inside.
_forward = jax.make_user_context(False)
_scheme = jax.make_user_context(None)


def forward_mode() -> AbstractContextManager[None]:
    """Attention that is traced inside has forward-mode derivatives (`jax.jvp`) in place of gradients."""
    return _forward(True)


def shared_by(scheme: str | None) -> AbstractContextManager[None]:
    """Attention that is traced inside is shared over the context axis by this scheme (sharded.scheme)."""
    return _scheme(scheme)


def _short(q, k, v, **masks):
    if shares_context():
        raise NotImplementedError("reference is not shared over the context axis.")
    scores = q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1]
    if scores > SCORES:
        raise NotImplementedError(f"reference holds all scores at once, {scores:,} are too many.")
    return reference(q, k, v, **masks)


def by(kernel: Kernel) -> Callable[..., Array]:
    """An implementation from a kernel: checked, laid over the mesh, differentiable."""

    def run(q, k, v, *, lengths, segments):
        qkv, mask = (q, k, v), Mask(lengths, segments)
        chosen = over_mesh(kernel, _scheme.value)
        chosen.check(qkv, mask)
        return (attend_forward if _forward.value else attend)(chosen, qkv, mask)

    return run


# In order of speed. An implementation refuses with NotImplementedError and the reason (STYLE 5.9).
IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
    "flash_tpu": by(FLASH_TPU),
    "flash_gpu": by(FLASH_GPU),
    "reference": _short,
    "chunked": by(CHUNKED),
}


def attention(
    q: Float[Array, "B L N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    lengths: Int[Array, "B"] | None = None,
    segments: tuple[Int[Array, "B L"], Int[Array, "B S"]] | None = None,
    implementation: str | None = None,
) -> Float[Array, "B L N K"]:
    """Every query sees every key (no causal mask): softmax(q kᵀ / √K) v, softmax in float32.

    It has gradients; inside `forward_mode()` it has `jax.jvp` instead. A query that sees no key gets 0.
    On a mesh (`jax.set_mesh`) with a context axis the tokens are shared; sharded.py has the rule.

    Args:
        lengths: clip b has `lengths[b]` keys; those behind are padding, never seen.
        segments: the segment number of each query and each key; only equal ones see each other.
        implementation: a name, "this one or fail"; None for the first that accepts.

    Raises:
        ExceptionGroup: every implementation refused; it holds each one's reason.
        KeyError: no implementation has that name.
    """
    refusals = []
    for name in [implementation] if implementation else IMPLEMENTATIONS:
        try:
            out = IMPLEMENTATIONS[name](q, k, v, lengths=lengths, segments=segments)
        except NotImplementedError as why:
            refusals.append(why)
            continue
        _say_once(name, q.shape, k.shape[1])
        return out
    raise ExceptionGroup("No implementation of attention accepts these inputs.", refusals)


@functools.cache
def _say_once(name: str, shape: tuple[int, ...], keys: int) -> None:
    log.debug("attention %s -> %s keys: %s", shape, keys, name)
