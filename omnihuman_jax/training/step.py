"""The only place that turns a loss into an update: accumulate, clip, guard, optimize, average.

The step is pure: randomness is a function of (seed, step, sample), so a resumed run ends in the same bits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from omnihuman_jax.errors import InputError
from omnihuman_jax.training import parts
from omnihuman_jax.training.state import Guard, State
from omnihuman_jax.training.task import Loss, Params, Tallies, tally

MEMORY = 0.98  # of the running mean of gradient norms, a step

Step = Callable[[State, Params, Any, PRNGKeyArray], tuple[State, Tallies]]


@dataclass(frozen=True, kw_only=True)
class Update:
    """How gradients become an update.

    Attributes:
        clip: largest global norm of a gradient (OmniHuman-1 v3, research/papers.md 1.4: 1.0); None for
            none (Seaweed-APT, section 3.5).
        accumulate: parts a batch is cut into, one after the other, to save memory; the same update.
        ema: decay of the moving average, reached gradually (1 + n) / (10 + n); None for no average.
            The paper tells none; 0.9999 is what SD and Wan2.1's peers use for long runs.
        spike: a gradient longer than this many times the running mean is not used.
        settle: steps before spikes are looked for.
        patience: updates not used in a row that stop the run.
    """

    clip: float | None = 1.0
    accumulate: int = 1
    ema: float | None = 0.9999
    spike: float = 20.0
    settle: int = 100
    patience: int = 20

    def __post_init__(self) -> None:
        for name, value in (("clip", self.clip), ("spike", self.spike)):
            if value is not None and not value > 0:
                raise InputError(f"update.{name} is a positive number, got {value}.")
        if self.accumulate < 1 or self.patience < 1:
            raise InputError(
                f"update.accumulate and update.patience are at least 1, got {self.accumulate} and "
                f"{self.patience}."
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"update.ema is a decay between 0 and 1, or none; got {self.ema}.")


def make_step(
    loss: Loss,
    transform: optax.GradientTransformation,
    update: Update,
    *,
    part: str = parts.WHOLE,
    average: bool = False,
    count: bool = False,
    label: str = "",
) -> Step:
    """step(state, frozen, batch, key) -> state, tallies. Jit it, with the state given away.

    Args:
        transform: the optimizer of the part, by the names that parameters have in it.
        part: what is moved; all other parameters are given to the loss as they are.
        average, count: what else the loss is given (`task.Turn`).
        label: stands before the names of the step's own tallies.
    """

    def one(trained: Params, given: Params, batch: Any, key: PRNGKeyArray) -> Any:
        return loss({**given, **parts.under(part, trained)}, batch, key)

    def step(state: State, frozen: Params, batch: Any, key: PRNGKeyArray) -> tuple[State, Tallies]:
        key = jax.random.fold_in(key, state.step)
        trained, guard = parts.own(part, state.params), state.guard[part]
        given = {**frozen, **parts.others(part, state.params)}
        if average:
            given |= parts.under(parts.AVERAGE, state.ema)
        if count:
            given[parts.COUNT] = guard.tried.astype(jnp.float32)
        value, tallies, grads = _gradients(one, trained, given, batch, key, update.accumulate)
        norm = jnp.sqrt(sum(jnp.sum(g.astype(jnp.float32) ** 2) for g in grads.values()))
        good = jnp.isfinite(value) & jnp.isfinite(norm)
        settled = guard.tried - guard.skipped >= update.settle
        good &= ~settled | (norm <= update.spike * guard.norm)
        most = jnp.inf if update.clip is None else update.clip
        scale = jnp.minimum(1.0, most / jnp.maximum(norm, 1e-12))
        grads = jax.tree.map(lambda g: jnp.where(good, g * scale, 0.0), grads)
        changes, opt = transform.update(grads, state.opt[part], trained)
        moved = _chosen(good, optax.apply_updates(trained, changes), trained)
        guarded = _guarded(guard, good, norm)
        new = State(
            step=state.step + 1,
            params={**state.params, **parts.under(part, moved)},
            ema=_averaged(state, part, moved, good, update.ema),
            opt={**state.opt, part: _chosen(good, opt, state.opt[part])},
            guard={**state.guard, part: guarded},
        )
        bad = (~good).astype(jnp.float32)[None]
        told = {
            "loss": tally(value[None]),
            "skipped": tally(bad),
            "skipped in a row": tally(guarded.row.astype(jnp.float32)[None]),
            "gradient": tally(norm[None]),
            **_norms(grads, scale),
        }
        return new, {**tallies, **{f"{label}{name}": each for name, each in told.items()}}

    return step


def _gradients(
    one: Callable[..., Any], trained: Params, frozen: Params, batch: Any, key: Any, pieces: int
) -> tuple[Float[Array, ""], Tallies, Params]:
    """Mean loss, tallies and gradient of a batch, in `pieces` one after the other."""
    grad = jax.value_and_grad(one, has_aux=True)
    if pieces == 1:
        (value, tallies), grads = grad(trained, frozen, batch, key)
        return value, tallies, grads

    def cut(x: Array) -> Array:
        if x.shape[0] % pieces:
            raise InputError(
                f"A batch of {x.shape[0]} cannot be cut into {pieces} parts; "
                "choose batch and update.accumulate so that it can."
            )
        # Row i goes to piece i % pieces, so that every device keeps its own rows.
        return x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        (value, tallies), grads = grad(trained, frozen, part, key)
        return jax.tree.map(jnp.add, total, (value, tallies, grads)), None

    cuts = jax.tree.map(cut, batch)
    first = jax.tree.map(lambda x: x[0], cuts)
    shapes = jax.eval_shape(lambda: grad(trained, frozen, first, key))
    (value, tallies), grads = shapes
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (value, tallies, grads))
    (value, tallies, grads), _ = jax.lax.scan(add, zero, cuts)
    return value / pieces, tallies, jax.tree.map(lambda g: g / pieces, grads)


def _averaged(
    state: State, part: str, moved: Params, good: Array, decay: float | None
) -> Params | None:
    """The moving average after this update, if it is one of a part that has an average."""
    before = None if state.ema is None else parts.own(part, state.ema)
    if not before or decay is None:
        return state.ema
    n = (state.guard[part].tried - state.guard[part].skipped).astype(jnp.float32)
    keep = jnp.minimum(decay, (1 + n) / (10 + n))
    after = jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, before, moved)
    return {**state.ema, **parts.under(part, _chosen(good, after, before))}


def _chosen(good: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)


def _guarded(guard: Guard, good: Array, norm: Float[Array, ""]) -> Guard:
    bad = (~good).astype(jnp.int32)
    running = jnp.where(guard.norm == 0, norm, MEMORY * guard.norm + (1 - MEMORY) * norm)
    return Guard(
        norm=jnp.where(good, running, guard.norm),
        row=(guard.row + 1) * bad,
        skipped=guard.skipped + bad,
        tried=guard.tried + 1,
    )


def _norms(grads: Params, scale: Float[Array, ""]) -> Tallies:
    """The norm of the gradient, before clipping, of each part of the network."""
    squares: dict[str, list[Array]] = {}
    for path, g in grads.items():
        squares.setdefault(part_of(path), []).append(jnp.sum(g.astype(jnp.float32) ** 2))
    return {
        f"gradient/{part}": tally((jnp.sqrt(sum(parts)) / scale)[None])
        for part, parts in squares.items()
    }


def part_of(path: str) -> str:
    """The part of a network that a parameter belongs to: "blocks/self_attn", "text_in"."""
    names = path.split("/")
    return "/".join(names[:2]) if names[0] in ("blocks", "encoder", "decoder") else names[0]


def check_unused(frozen: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
    """Refuse a run that trains nothing."""
    if not trained:
        raise InputError(f"All {len(frozen)} parameters are frozen: there is nothing to train.")
