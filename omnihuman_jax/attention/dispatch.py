"""Which implementation of attention runs: tried in order of speed, refusals collected, choice logged once."""

import contextlib
import contextvars
import functools
import logging
from collections.abc import Callable, Iterator

from jaxtyping import Array, Float, Int

from omnihuman_jax.attention.chunked import CHUNKED, SCORES
from omnihuman_jax.attention.kernel import Kernel, Mask, attend, attend_forward
from omnihuman_jax.attention.reference import reference

log = logging.getLogger(__name__)

_forward = contextvars.ContextVar("forward", default=False)


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """Attention that is traced inside has forward-mode derivatives (`jax.jvp`) in place of gradients."""
    token = _forward.set(True)
    try:
        yield
    finally:
        _forward.reset(token)


def _short(q, k, v, **masks):
    scores = q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1]
    if scores > SCORES:
        raise NotImplementedError(f"reference holds all scores at once, {scores:,} are too many.")
    return reference(q, k, v, **masks)


def _by(kernel: Kernel) -> Callable[..., Array]:
    def run(q, k, v, *, lengths, segments):
        qkv, mask = (q, k, v), Mask(lengths, segments)
        kernel.check(qkv, mask)
        return (attend_forward if _forward.get() else attend)(kernel, qkv, mask)

    return run


# In order of speed. An implementation refuses with NotImplementedError and the reason (STYLE 5.9).
IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {"reference": _short, "chunked": _by(CHUNKED)}


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

    It has gradients; inside `forward_mode()` it has `jax.jvp` instead.

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
