"""The only place that says what the loop needs to know of whatever it trains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from omnihuman_jax.training.parts import WHOLE

Params = dict[str, Array]  # by path, "/" between modules: `blocks/self_attn/q/kernel`
# What a step measured: by name a sum and a count, so that parts of a batch, steps and hosts add up.
Tallies = dict[str, Float[Array, "2"]]


@runtime_checkable
class Stream(Protocol):
    """An endless iterator over batches (pytrees of numpy arrays) whose place can be saved."""

    def __next__(self) -> Any: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Cost:
    """What one batch is worth: clips and tokens in it, and floating-point operations to train on it."""

    samples: int
    tokens: int
    flops: float = 0.0


@runtime_checkable
class Loss(Protocol):
    """The mean loss over a batch, and tallies to report. Pure; `key` is that of (seed, step)."""

    def __call__(
        self, params: Params, batch: Any, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Tallies]: ...


@dataclass(frozen=True)
class Turn:
    """One kind of update of a stage: a loss, and the part of the parameters that it moves.

    Attributes:
        loss: of all parameters; its gradient is taken by those of `part`, the others are given.
        part: whose turn it is (training/parts.py).
        times: updates of this kind in a row, before the next turn of the stage.
        average: whether the loss is given the moving average too, below "average/".
        count: whether it is given, as "count", how many updates of the part were before this one.
    """

    loss: Loss
    part: str = field(default=WHOLE, kw_only=True)
    times: int = field(default=1, kw_only=True)
    average: bool = field(default=False, kw_only=True)
    count: bool = field(default=False, kw_only=True)


def cycle(losses: Loss | Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns of a stage, one an update, before it begins again with the first."""
    if not isinstance(losses, Sequence):
        return (Turn(losses),)
    return tuple(turn for turn in losses for _ in range(turn.times))


@dataclass(frozen=True, kw_only=True)
class Trainee:
    """Something to train, as the loop sees it: it knows neither the network nor the data.

    Attributes:
        shapes: shape, dtype and sharding of every parameter, by path.
        init: makes the parameters at the start, already sharded (each host its own part).
        losses: the loss of each stage, by the stage's name; or the turns that its parts take.
        stream: the batches of a stage, from its first one; this host's rows only.
        cost: what a (whole, all hosts') batch of these shapes costs.
        export: writes parameters as a model directory: export(path, params, provenance).
        trains: which paths may be trained at all; None for all (optimizer.trainable chooses among them).
        parts: what is trained, each with an optimizer of its own; the first one is what the run is for: it
            alone has a moving average. Parameters of no part are frozen.
        sample: what the parameters make, for the eye: sample(params, step) -> Sample; None for nothing.
        trial: metrics of videos that the parameters make of a test set's clips: trial(params, folder for
            them) -> by name; None for nothing.
    """

    shapes: dict[str, jax.ShapeDtypeStruct]
    init: Callable[[], Params]
    losses: Mapping[str, Loss | Sequence[Turn]]
    stream: Callable[[Any], Stream]
    cost: Callable[[Any], Cost]
    export: Callable[[str, Params, Mapping[str, Any]], None]
    trains: Callable[[str], bool] | None = None
    parts: tuple[str, ...] = (WHOLE,)
    sample: Callable[[Params, int], "Sample"] | None = None
    trial: Callable[[Params, str], Mapping[str, float]] | None = None


@dataclass(frozen=True)
class Sample:
    """A video that shows how far training is, and numbers measured on it.

    Attributes:
        frames: UInt8 "F Y X 3".
        sound: 16 kHz mono, or None.
    """

    frames: Any
    fps: float
    sound: Any = None
    scores: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Task(Protocol):
    """Settings of a kind of training (a frozen dataclass in an experiment), able to begin it."""

    def prepare(self, stages: Any, mesh: Mesh, seed: int) -> Trainee: ...


def tally(values: Float[Array, "B"], chosen: Bool[Array, "B"] | None = None) -> Float[Array, "2"]:
    """Sum and count of the values of the chosen rows (None: all)."""
    if chosen is None:
        chosen = jnp.ones(values.shape, bool)
    kept = jnp.where(chosen, values.astype(jnp.float32), 0.0)
    return jnp.stack([jnp.sum(kept), jnp.sum(chosen).astype(jnp.float32)])
