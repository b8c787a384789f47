"""Noise becomes latents: one compiled step of a sampler, its guidance passes apart or in one network call."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt32

from omnihuman_jax import mesh
from omnihuman_jax.conditions import NAMES, Conditions
from omnihuman_jax.diffusion import guidance, samplers
from omnihuman_jax.models.conditioner import Tokens
from omnihuman_jax.models.dit import DiTConfig

Pass = frozenset[str]  # names of the conditions that a guidance pass leaves out
Group = tuple[Pass, ...]  # passes of one network call
SPARE = 4  # a call with all passes may take this part of the free memory
UNKNOWN = 2**28  # bytes for it where a device does not tell


def fits_together(
    config: DiTConfig, clips: int, tokens: int, itemsize: int, memory: int | None
) -> bool:
    """Whether `clips` clips may share one network call, by what its activations take.

    Of a token live at once: about eight arrays as wide as the model and two as wide as the feed-forward.
    """
    each = (8 * config.width + 2 * config.mlp) * itemsize
    return clips * tokens * each <= (UNKNOWN if memory is None else memory // SPARE)


def joined(conditions: Conditions, negative: Any, group: Group) -> Conditions:
    """Conditions of all clips for each pass of a group, one pass after another along the batch.

    Args:
        negative: text features that the passes without text read; None for none at all.
    """
    common = frozenset.intersection(*group)
    kept = conditions.without(common)
    if "text" in common and negative is not None:
        kept = dataclasses.replace(kept, text=negative)
    if len(group) == 1:
        return kept
    given = {name: value for name in NAMES if (value := getattr(kept, name)) is not None}
    clips = next(iter(given.values())).shape[0]
    wide = {name: jnp.concatenate([value] * len(group)) for name, value in given.items()}
    present = {name: jnp.concatenate([m] * len(group)) for name, m in kept.present.items()}
    for name in frozenset.union(*group) - common:
        if name not in given:
            continue
        has = np.repeat([name not in dropped for dropped in group], clips)
        if name == "text" and negative is not None:
            others = jnp.concatenate([negative] * len(group))
            wide["text"] = jnp.where(has[:, None, None], wide["text"], others)
        else:
            before = present.get(name)
            present[name] = jnp.asarray(has) if before is None else before & has
    return Conditions(**wide, present=present)


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6, 7))
def embed(
    graph: Any,
    params: Any,
    conditions: Conditions,
    negative: Float[Array | np.ndarray, "B S E"] | None,
    group: Group,
    clips: int,
    height: int,
    width: int,
) -> Tokens:
    """Everything that does not change from step to step, for all passes of a group."""
    dit = nnx.merge(graph, params)
    given = joined(conditions, negative, group)
    return dit.recall(dit.embed(given, clips * len(group), height, width))


def start(
    sampler: samplers.Sampler,
    shape: tuple[int, int, int, int],
    seeds: Sequence[int],
    segment: int,
    steps: int,
) -> samplers.State:
    """The sampler's state at noise. A clip's noise depends on its own seed and the segment alone."""
    keys = [jax.random.key(seed) for seed in seeds]
    keys = [jax.random.fold_in(key, segment) if segment else key for key in keys]
    # As numbers of the host, which every process of several has.
    data = np.stack([np.asarray(jax.random.key_data(key)) for key in keys])
    return _start(sampler, shape, steps, data)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _start(
    sampler: samplers.Sampler,
    shape: tuple[int, int, int, int],
    steps: int,
    keys: UInt32[Array | np.ndarray, "B k"],
) -> samplers.State:
    def draw(key: Any) -> tuple[Array, ...]:
        key = jax.random.wrap_key_data(key)
        fresh = (jax.random.fold_in(key, 2**31 + i) for i in range(sampler.fresh(steps)))
        return tuple(jax.random.normal(k, shape, jnp.float32) for k in (key, *fresh))

    noise, *fresh = jax.vmap(draw)(jnp.asarray(keys))
    state = sampler.init(noise, fresh)
    return tuple(mesh.constrain(x, "batch _ rows _ _") for x in state)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def advance(
    graph: Any,
    groups: tuple[Group, ...],
    params: Any,
    state: samplers.State,
    call: samplers.Calls,
    weights: Float[Array | np.ndarray, "passes"],
    given: tuple[Tokens, ...],
) -> tuple[samplers.State, Float[Array, ""]]:
    """One step of the sampler with all its guidance passes, and a number that is there when it is done.

    Args:
        groups: the passes of each network call, in the order of the weights.
        given: what each call reads.
    """
    dit = nnx.merge(graph, params)

    def velocity(x: Array, t: Array, weights: Array) -> Array:
        found: list[Array] = []
        for group, tokens in zip(groups, given, strict=True):
            wide = jnp.concatenate([x] * len(group)) if len(group) > 1 else x
            v = dit(wide, jnp.broadcast_to(t, wide.shape[:1]), tokens)
            found += jnp.split(v, len(group)) if len(group) > 1 else [v]
        return guidance.mix(found, weights)

    state = samplers.step(velocity, state, call, weights)
    return state, state[0].ravel()[0]
