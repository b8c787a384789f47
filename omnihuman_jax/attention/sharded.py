"""A kernel for one device -> the same kernel over the mesh: who holds which tokens, and what is exchanged.

Batch lies over (data, fsdp), heads over tensor, tokens over context, each if it divides; tokens are
padded until they do. Along context an attention follows a `Scheme`. Each layer of it is again a `Kernel`
of three passes: `_whole_keys`, `_ring` and `_ulysses` see one device's part, `sharded` the whole arrays.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float

from omnihuman_jax.attention.kernel import NOTHING, QKV, SHORT, Kernel, Mask, Out, merge
from omnihuman_jax.mesh import partition

CONTEXT = "context"
Sharing = Literal["everywhere", "ulysses", "ring", "both"]


class Scheme(NamedTuple):
    """Neighbours that exchange heads for tokens, and groups of them that keys go round; 1 x 1: neither."""

    ulysses: int = 1
    ring: int = 1


def scheme(heads: int, queries: int, keys: int, context: int, name: str | None = None) -> Scheme:
    """How `context` devices, each with `heads` heads of a part of the tokens, share one attention.

    - "everywhere": every device has all keys. For few keys (`SHORT`), or keys that are not the queries'
      own tokens (text, audio): nothing is exchanged, only the gradients of k and v are added up.
    - "ulysses": an all-to-all gathers the tokens and scatters the heads, so that each device sees all of
      them for a part of the heads (arXiv 2309.14509). It moves least, so it comes first, but the heads
      must divide. Nothing is computed meanwhile.
    - "ring": keys and values go round, one device further at every step, while the kernel runs on those
      that are there (arXiv 2310.01889). Any number of heads.
    - "both": Ulysses among as many neighbours as the heads allow, a ring of such groups (12 heads on 8
      devices: 4 x 2). With heads that divide it is Ulysses, with none that do a ring.

    Without a name: "everywhere" where it applies, else "both".

    Raises:
        NotImplementedError: Ulysses is asked for and the heads do not divide.
        KeyError: no scheme has that name.
    """
    if name is None:
        name = "everywhere" if keys <= SHORT or keys != queries else "both"
    together = math.gcd(heads, context)
    if name == "ulysses" and together < context:
        raise NotImplementedError(
            f"Ulysses scatters heads over the {context} devices of the context axis, and {heads} "
            'heads do not divide by that; "both" and "ring" take any number.'
        )
    parts = {"everywhere": (1, 1), "ring": (1, context)}
    parts |= dict.fromkeys(("ulysses", "both"), (together, context // together))
    return Scheme(*parts[name])


def over_mesh(kernel: Kernel, name: str | None = None) -> Kernel:
    """`kernel` as the mesh of `jax.set_mesh` needs it: itself, or `sharded` by the scheme of that name.

    It stays itself without a context axis to share, unless it is opaque to XLA's partitioner, and inside
    somebody else's shard_map.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if (
        mesh.empty
        or mesh.manual_axes
        or not (shares_context() or (kernel.opaque and mesh.size > 1))
    ):
        return kernel
    return sharded(kernel, mesh, name)


def shares_context() -> bool:
    """Whether attention that is traced now is shared over a context axis."""
    mesh = jax.sharding.get_abstract_mesh()
    return not (mesh.empty or mesh.manual_axes) and mesh.shape.get(CONTEXT, 1) > 1


@functools.cache
def sharded(kernel: Kernel, mesh: AbstractMesh, name: str | None = None) -> Kernel:
    """`kernel` for whole arrays that lie over `mesh`: each pass is one `jax.shard_map`."""

    def check(qkv: QKV, mask: Mask) -> None:
        lay, mask = _layout(qkv, mask, mesh, name)
        jax.eval_shape(lay.over(lay.local(kernel).check, (lay.qkv, lay.mask), None), qkv, mask)

    def forward(qkv: QKV, mask: Mask) -> Out:
        lay, mask = _layout(qkv, mask, mesh, name)
        return lay.over(lay.local(kernel).forward, (lay.qkv, lay.mask), lay.out)(qkv, mask)

    def backward(qkv: QKV, mask: Mask, out: Array, lse: Array, gradient: Array) -> QKV:
        lay, mask = _layout(qkv, mask, mesh, name)
        given = (lay.qkv, lay.mask, *lay.out, lay.q)
        run = lay.over(lay.local(kernel).backward, given, lay.qkv)
        return run(qkv, mask, out, lse, gradient)

    def tangent(qkv: QKV, tangents: QKV, mask: Mask) -> tuple[Out, Out]:
        lay, mask = _layout(qkv, mask, mesh, name)
        given = (lay.qkv, lay.qkv, lay.mask)
        run = lay.over(lay.local(kernel).tangent, given, (lay.out, lay.out))
        return run(qkv, tangents, mask)

    return kernel._replace(check=check, forward=forward, backward=backward, tangent=tangent)


@dataclass(frozen=True)
class _Lie:
    """How one array lies: split by `spec`, after padding of `axis` from `length` to `even`."""

    spec: PartitionSpec
    axis: int = 0
    length: int = 0
    even: int = 0

    def pad(self, x: Array) -> Array:
        return _longer(x, self.axis, self.even - self.length)

    def cut(self, x: Array) -> Array:
        even = self.even == self.length
        return x if even else jax.lax.slice_in_dim(x, 0, self.length, axis=self.axis)


class _Layout(NamedTuple):
    """How the arrays of one attention lie over the mesh, and by which scheme they meet."""

    mesh: AbstractMesh
    scheme: Scheme
    qkv: tuple[_Lie, _Lie, _Lie]
    lse: _Lie
    mask: Mask  # of _Lie

    @property
    def q(self) -> _Lie:
        return self.qkv[0]

    @property
    def out(self) -> tuple[_Lie, _Lie]:
        return self.q, self.lse

    def local(self, kernel: Kernel) -> Kernel:
        """The kernel of one device, which exchanges with others what the scheme says."""
        if self.mesh.shape.get(CONTEXT, 1) == 1:
            return kernel
        if self.scheme == Scheme():
            return _whole_keys(kernel)
        if self.scheme.ring > 1:
            kernel = _ring(kernel, self.scheme)
        return _ulysses(kernel, self.scheme) if self.scheme.ulysses > 1 else kernel

    def over(self, body: Callable[..., Any], given: Any, results: Any) -> Callable[..., Any]:
        """`body` on every device, for whole arrays that lie as `given`; its results lie as `results`."""
        specs = lambda lies: jax.tree.map(lambda lie: lie.spec, lies)
        # Without check_vma: no derivative is taken through it, and a Pallas kernel knows no vma.
        run = jax.shard_map(
            body, mesh=self.mesh, in_specs=specs(given), out_specs=specs(results), check_vma=False
        )

        def whole(*arrays: Any) -> Any:
            out = run(*jax.tree.map(lambda lie, x: lie.pad(x), given, arrays))
            return jax.tree.map(lambda lie, x: lie.cut(x), results, out)

        return whole


def _layout(qkv: QKV, mask: Mask, mesh: AbstractMesh, name: str | None) -> tuple[_Layout, Mask]:
    """The layout, and the mask, which has lengths from now on if keys are padded."""
    (clips, queries, heads, width), keys = qkv[0].shape, qkv[1].shape[1]
    context = mesh.shape.get(CONTEXT, 1)
    even = lambda length: -(-length // context) * context
    spec = partition("batch tokens heads _", (clips, even(queries), heads, width), mesh)
    batch, tokens, over, _ = spec
    ways = mesh.shape["tensor"] if over else 1
    chosen = scheme(heads // ways, queries, keys, context, name)
    whole = chosen == Scheme()
    q = _Lie(spec, 1, queries, even(queries))
    k = (
        _Lie(PartitionSpec(batch, None, over), 1, keys, keys)
        if whole
        else _Lie(spec, 1, keys, even(keys))
    )
    lse = _Lie(PartitionSpec(batch, over, tokens), 2, queries, even(queries))
    if k.even > keys and mask.lengths is None:
        mask = mask._replace(lengths=jnp.full(clips, keys, jnp.int32))
    segments = [_Lie(PartitionSpec(batch), 1, lie.length, lie.even) for lie in (q, k)]
    lies = cast(Any, Mask)(
        None if mask.lengths is None else _Lie(PartitionSpec(batch)),
        None if mask.segments is None else tuple(segments),
    )
    return _Layout(mesh, chosen, (q, k, k), lse, lies), mask


def _whole_keys(kernel: Kernel) -> Kernel:
    """One device's kernel for a part of the queries and all keys."""

    def seen(qkv: QKV, mask: Mask) -> Mask:
        queries, keys = qkv[0].shape[1], qkv[1].shape[1]
        return _part(mask, (jax.lax.axis_index(CONTEXT) * queries, queries), (0, keys))

    def check(qkv: QKV, mask: Mask) -> None:
        kernel.check(qkv, seen(qkv, mask))

    def forward(qkv: QKV, mask: Mask) -> Out:
        return kernel.forward(qkv, seen(qkv, mask))

    def backward(qkv: QKV, mask: Mask, out: Array, lse: Array, gradient: Array) -> QKV:
        dq, dk, dv = kernel.backward(qkv, seen(qkv, mask), out, lse, gradient)
        total = lambda x: jax.lax.psum(x.astype(jnp.float32), CONTEXT).astype(x.dtype)
        return dq, total(dk), total(dv)

    def tangent(qkv: QKV, tangents: QKV, mask: Mask) -> tuple[Out, Out]:
        return kernel.tangent(qkv, tangents, seen(qkv, mask))

    return kernel._replace(check=check, forward=forward, backward=backward, tangent=tangent)


def _ulysses(kernel: Kernel, scheme: Scheme) -> Kernel:
    """One device's kernel for all its heads, from one for the tokens of all neighbours and fewer heads."""
    size = scheme.ulysses
    groups = [list(range(i * size, (i + 1) * size)) for i in range(scheme.ring)]
    turn = functools.partial(
        jax.lax.all_to_all, axis_name=CONTEXT, axis_index_groups=groups, tiled=True
    )

    def gather(x: Array) -> Array:
        """Tokens from the neighbours, heads to them: B L N K, or B N L of a log-sum-exp."""
        return (
            turn(x, split_axis=2, concat_axis=1)
            if x.ndim == 4
            else turn(x, split_axis=1, concat_axis=2)
        )

    def scatter(x: Array) -> Array:
        return (
            turn(x, split_axis=1, concat_axis=2)
            if x.ndim == 4
            else turn(x, split_axis=2, concat_axis=1)
        )

    def check(qkv: QKV, mask: Mask) -> None:
        kernel.check(jax.tree.map(gather, qkv), mask)

    def forward(qkv: QKV, mask: Mask) -> Out:
        return jax.tree.map(scatter, kernel.forward(jax.tree.map(gather, qkv), mask))

    def backward(qkv: QKV, mask: Mask, out: Array, lse: Array, gradient: Array) -> QKV:
        qkv, out, lse, gradient = jax.tree.map(gather, (qkv, out, lse, gradient))
        return jax.tree.map(scatter, kernel.backward(qkv, mask, out, lse, gradient))

    def tangent(qkv: QKV, tangents: QKV, mask: Mask) -> tuple[Out, Out]:
        qkv, tangents = jax.tree.map(gather, (qkv, tangents))
        return jax.tree.map(scatter, kernel.tangent(qkv, tangents, mask))

    return kernel._replace(check=check, forward=forward, backward=backward, tangent=tangent)


def _ring(kernel: Kernel, scheme: Scheme) -> Kernel:
    """One group's kernel for all keys, from one for the keys of a single group.

    Sums over groups are kept in float32. A query may see no key of a group: its log-sum-exp is NOTHING.
    """

    def check(qkv: QKV, mask: Mask) -> None:
        kernel.check(qkv, _turned(qkv, mask, scheme, 0))

    def forward(qkv: QKV, mask: Mask) -> Out:
        q, *keys = qkv

        def step(keys: Any, total: Out, turn: Any) -> Out:
            return merge(total, kernel.forward((q, *keys), _turned(qkv, mask, scheme, turn)))

        return _as(_round(step, keys, _empty(q), scheme), q)

    def backward(qkv: QKV, mask: Mask, out: Array, lse: Array, gradient: Array) -> QKV:
        q, *keys = qkv

        def step(keys: Any, sums: Any, turn: Any) -> Any:
            dq, left = sums
            came = _pass_on(
                left, scheme
            )  # the sums of these keys, from the group that had them last
            seen = _turned(qkv, mask, scheme, turn)
            own, *more = kernel.backward((q, *keys), seen, out, lse, gradient)
            return jax.tree.map(jnp.add, (dq, came), _wide((own, more)))

        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (q, keys))
        dq, left = _round(step, keys, empty, scheme)
        dk, dv = _pass_on(left, scheme)  # home
        return dq.astype(q.dtype), dk.astype(keys[0].dtype), dv.astype(keys[1].dtype)

    def tangent(qkv: QKV, tangents: QKV, mask: Mask) -> tuple[Out, Out]:
        (q, *keys), (tq, *turns) = qkv, tangents

        def step(keys: Any, total: Any, turn: Any) -> Any:
            seen = _turned(qkv, mask, scheme, turn)
            part, change = kernel.tangent((q, *keys[0]), (tq, *keys[1]), seen)
            return jax.jvp(merge, (total[0], part), (total[1], change))

        empty = _empty(q), jax.tree.map(jnp.zeros_like, _empty(q))
        total, change = _round(step, (keys, turns), empty, scheme)
        return _as(total, q), _as(change, q)

    return kernel._replace(check=check, forward=forward, backward=backward, tangent=tangent)


def _round(step: Callable[..., Any], keys: Any, carry: Any, scheme: Scheme) -> Any:
    """`carry = step(keys, carry, turn)` with the keys of each group, from one's own backwards.

    The next keys set out before the step, which does not need them: they travel while it computes.
    """

    def one(state: Any, turn: Array) -> tuple[Any, None]:
        keys, carry = state
        coming = _pass_on(keys, scheme)
        return (coming, step(keys, carry, turn)), None

    last = scheme.ring - 1
    (keys, carry), _ = jax.lax.scan(one, (keys, carry), jnp.arange(last))
    return step(keys, carry, last)


def _pass_on(arrays: Any, scheme: Scheme) -> Any:
    """To the same place in the next group."""
    size = scheme.ulysses * scheme.ring
    to = [(i, (i + scheme.ulysses) % size) for i in range(size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, CONTEXT, to), arrays)


def _turned(qkv: QKV, mask: Mask, scheme: Scheme, turn: Array | int) -> Mask:
    """What a group's queries see of the keys that it has at this turn."""
    queries, keys = qkv[0].shape[1], qkv[1].shape[1]
    group = jax.lax.axis_index(CONTEXT) // scheme.ulysses
    owner = (group - turn) % scheme.ring
    return _part(mask, (group * queries, queries), (owner * keys, keys))


def _part(mask: Mask, queries: tuple[Any, int], keys: tuple[Any, int]) -> Mask:
    """The mask of some of the queries and keys: where they start, how many."""
    lengths, segments = mask
    if lengths is not None:
        lengths = jnp.clip(lengths - keys[0], 0, keys[1])
    if segments is not None:
        of_q, of_k = segments
        cut = jax.lax.dynamic_slice_in_dim
        segments = cut(of_q, *queries, axis=1), cut(of_k, *keys, axis=1)
    return Mask(lengths, segments)


def _empty(q: Float[Array, "B L N K"]) -> Out:
    """The attention to no key, in float32."""
    clips, queries, heads, _ = q.shape
    return jnp.zeros(q.shape, jnp.float32), jnp.full((clips, heads, queries), NOTHING, jnp.float32)


def _as(out: Out, q: Float[Array, "B L N K"]) -> Out:
    return out[0].astype(q.dtype), out[1]


def _wide(arrays: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), arrays)


def _longer(x: Array, axis: int, more: int) -> Array:
    return jnp.pad(x, [(0, more if i == axis else 0) for i in range(x.ndim)]) if more else x
