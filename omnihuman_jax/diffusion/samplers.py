"""From noise to data along the flow: which times to visit and how to step. The only ODE solvers.

Every sampler here is linear: after a network call, what it keeps is a mix of what it kept before
and the new velocity. So a sampler is a table of small matrices, worked out once in float64, one a
call; the device program is one mix for all calls and all samplers, in a scan or in a loop:

    sampler = make("unipc")
    calls = sampler.calls(sampler.schedule(steps=50, shift=5.0))
    state = sampler.init(noise)
    for i in range(len(calls)):
        state = step(velocity, state, calls[i])  # compile this once
    video = state[0]
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64

from omnihuman_jax.diffusion.flow import shift as shifted
from omnihuman_jax.errors import InputError

Velocity = Callable[..., Array]  # (x, t, *given) -> dx/dt; t is a scalar, 1 at noise
State = tuple[Float32[Array, "..."], ...]  # the latents first, then what the method remembers


@dataclass(frozen=True)
class Schedule:
    """Noise levels to visit, from noise to 0, and the time the network is told at each but the last."""

    sigmas: Float64[np.ndarray, "levels"]
    times: Float64[np.ndarray, "steps"]


@dataclass(frozen=True, kw_only=True)
class Spacing:
    """Even levels from `first` down to `last`, which is left out, then shifted; the end is always 0.

    Attributes:
        most: a level above this is lowered to it.
        whole: tell the network the level rounded down to a whole 1/1000, as Wan does. (In float32
            1000 t is then that whole number to the last bit, or one bit beside it.)
    """

    first: float = 1.0
    last: float = 0.0
    most: float = 1.0
    whole: bool = True

    def __call__(self, steps: int, shift: float = 1.0) -> Schedule:
        """The schedule of `steps` steps.

        Raises:
            InputError: no steps, or a shift that is not positive.
        """
        if steps < 1:
            raise InputError(f"Sampling needs at least 1 step, got {steps}; Wan uses 50.")
        if not 0 < shift < math.inf:
            raise InputError(
                f"A time shift must be positive (1 for none, 5 is Wan's), got {shift}."
            )
        levels = np.linspace(self.first, self.last, steps + 1)[:-1]
        levels = np.minimum(shifted(levels, shift), self.most)
        times = np.floor(levels * 1000) / 1000 if self.whole else levels
        # Both reference implementations hold the levels in float32; near 1 that is seen in 1 - sigma.
        sigmas = np.append(levels, 0.0).astype(np.float32).astype(np.float64)
        return Schedule(sigmas, times)


# Wan2.1 wan/utils/fm_solvers_unipc.py: from the largest of 1000 training levels, kept in float32.
WAN_UNIPC = Spacing(first=float(np.float32(0.999)))
# Wan2.1 wan/utils/fm_solvers.py, get_sampling_sigmas.
WAN_DPM = Spacing()
# diffusers 0.42 UniPCMultistepScheduler with use_flow_sigmas; `most` keeps its logarithm finite.
DIFFUSERS_UNIPC = Spacing(last=0.001, most=1 - 1e-6)
# diffusers 0.42 DPMSolverMultistepScheduler with use_flow_sigmas. (Where 1000 sigma is a whole number,
# as at shift 1 in 3 steps, it rounds before it truncates and may tell the network 1/1000 less.)
DIFFUSERS_DPM = Spacing(first=0.999)
EXACT = Spacing(whole=False)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Calls:
    """What each network call needs, a row a call. `calls[i]` is one row, `calls[a:b]` some.

    Attributes:
        time: flow time t given to the network, [calls].
        progress: 0 at the first step, 1 at the last, [calls]; guidance anneals by it.
        mix: what is kept afterwards, as weights of what was kept before and the new velocity,
            [calls, kept, kept + 1].
    """

    # JAX also fills a pytree with placeholders, when it lowers a function; so no types are checked.
    time: Any
    progress: Any
    mix: Any

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, index: int | slice | Array) -> "Calls":
        return Calls(self.time[index, ...], self.progress[index, ...], self.mix[index, ...])


def step(velocity: Velocity, state: State, call: Calls, *given: Any) -> State:
    """One network call, `velocity(x, t, *given)`, and the state after it. float32 throughout."""
    v = jnp.asarray(velocity(state[0], jnp.asarray(call.time), *given))
    held = (*state, v.astype(jnp.float32))
    # Sums of products, not a matmul: a TPU would round its operands to bfloat16.
    mix = jnp.asarray(call.mix)
    return tuple(
        sum((mix[i, j] * x for j, x in enumerate(held[1:], 1)), start=mix[i, 0] * held[0])
        for i in range(len(state))
    )


def run(velocity: Velocity, state: State, calls: Calls, *given: Any) -> State:
    """All of `calls` in one `lax.scan`; leaves of `given` have a leading axis of calls."""

    def body(state: State, now: tuple[Calls, tuple[Any, ...]]) -> tuple[State, None]:
        call, inputs = now
        return step(velocity, state, call, *inputs), None

    return jax.lax.scan(body, state, (calls, given))[0]


def sample(
    sampler: "Sampler",
    schedule: Schedule,
    velocity: Velocity,
    noise: Float[Array, "*S"],
    *given: Any,
) -> Float32[Array, "*S"]:
    """The end of the flow that starts at `noise`, which a sampler that adds noise takes again and again.

    Args:
        velocity: `velocity(x, t, *given)`, with x float32 of the shape of `noise` and t a scalar.
        given: further inputs of `velocity`, a row a network call (guidance weights, for instance).
    """
    fresh = [noise] * sampler.fresh(len(schedule.times))
    return run(velocity, sampler.init(noise, fresh), sampler.calls(schedule), *given)[0]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A way to step; `spacing` says which levels it visits by convention."""

    spacing: Spacing = EXACT
    _memory = 0  # arrays kept besides the latents

    def schedule(self, steps: int, shift: float = 1.0) -> Schedule:
        """The levels of `steps` steps by `spacing`, which raises InputError for impossible numbers."""
        return self.spacing(steps, shift)

    def fresh(self, steps: int) -> int:
        """How many arrays of noise `init` takes besides the one that the flow starts from."""
        return 0

    def init(self, noise: Float[Array, "*S"], fresh: Sequence[Float[Array, "*S"]] = ()) -> State:
        """The state before the first call; memory starts at zero and is not used before it is set."""
        # Every array its own buffer, so that a compiled step may be given the state to overwrite.
        memory = [jnp.zeros(noise.shape, jnp.float32) for _ in range(self._memory)]
        return (jnp.array(noise, jnp.float32), *memory, *(jnp.array(x, jnp.float32) for x in fresh))

    def calls(self, schedule: Schedule) -> Calls:
        """The table for `step`; made in float64, kept in float32 on the host."""
        at, mixes = zip(*self._calls(schedule.sigmas), strict=True)
        levels = np.asarray(at)
        return Calls(
            schedule.times[levels].astype(np.float32),
            (levels / max(1, len(schedule.times) - 1)).astype(np.float32),
            np.asarray(mixes).astype(np.float32),
        )

    def _calls(self, sigmas: np.ndarray) -> list[tuple[int, list[np.ndarray]]]:
        """For each network call the level it is made at, and the mix.

        The methods are written on unit vectors: x, what is remembered, v = eye. A sum of them is
        then itself the row of weights.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Euler(Sampler):
    """First order, one call a step: x' = x + (sigma' - sigma) v."""

    def _calls(self, sigmas: np.ndarray) -> list[tuple[int, list[np.ndarray]]]:
        x, v = np.eye(2)
        return [(i, [x + change * v]) for i, change in enumerate(np.diff(sigmas))]


@dataclass(frozen=True, kw_only=True)
class Heun(Sampler):
    """Second order, two calls a step but one for the last, whose end needs no velocity (EDM, algorithm 1)."""

    _memory = 2

    def _calls(self, sigmas: np.ndarray) -> list[tuple[int, list[np.ndarray]]]:
        x, start, v_start, v = np.eye(4)
        *changes, last = np.diff(sigmas)
        calls = []
        for i, change in enumerate(changes):
            calls.append((i, [x + change * v, x, v]))
            calls.append((i + 1, [start + change / 2 * (v_start + v), start, v_start]))
        return [*calls, (len(changes), [x + last * v, x, v])]


@dataclass(frozen=True, kw_only=True)
class DPMPlusPlus(Sampler):
    """DPM-Solver++(2M), midpoint: second order from one call a step (arXiv 2211.01095, algorithm 2).

    The first and the last step are of first order, as in Wan and diffusers.
    """

    spacing: Spacing = WAN_DPM
    _memory = 1

    def _calls(self, sigmas: np.ndarray) -> list[tuple[int, list[np.ndarray]]]:
        x, data_before, v = np.eye(3)
        calls = []
        for i in range(len(sigmas) - 1):
            data = x - sigmas[i] * v
            calls.append((i, [_extrapolate(sigmas, i, x, data, data_before), data]))
        return calls


@dataclass(frozen=True, kw_only=True)
class UniPC(Sampler):
    """UniPC-2, B2(h), on predicted data: each call first corrects the step before (arXiv 2302.04867).

    The predictor is that of DPM-Solver++(2M); the corrector costs no call. First and last step are
    of first order, as in Wan and diffusers.
    """

    spacing: Spacing = WAN_UNIPC
    _memory = 3

    def _calls(self, sigmas: np.ndarray) -> list[tuple[int, list[np.ndarray]]]:
        x, start, data_1, data_2, v = np.eye(5)
        calls = []
        for i in range(len(sigmas) - 1):
            data = x - sigmas[i] * v
            here = _correct(sigmas, i, start, data, data_1, data_2) if i else x
            calls.append((i, [_extrapolate(sigmas, i, here, data, data_1), here, data, data_1]))
        return calls


@dataclass(frozen=True, kw_only=True)
class Consistency(Sampler):
    """For networks distilled to one or two steps: jump to the data, x - t v, then back to the next level with
    fresh noise (Consistency Models, arXiv 2303.01469, algorithm 1; one step is Seaweed-APT's z - v).

    Levels are even before the shift, so that two steps at a shift of 1 are 1 and 0.5.
    """

    def schedule(self, steps: int, shift: float = 1.0) -> Schedule:
        """As of every sampler; noise of every step is held, so there are at most 8."""
        if steps > 8:
            raise InputError(f"The consistency sampler is for 1 to 8 steps, got {steps}.")
        return super().schedule(steps, shift)

    def fresh(self, steps: int) -> int:
        return steps - 1

    def _calls(self, sigmas: np.ndarray) -> list[tuple[int, list[np.ndarray]]]:
        x, *fresh, v = np.eye(len(sigmas))
        calls = []
        for i in range(len(sigmas) - 1):
            data = x - sigmas[i] * v
            again = fresh[i] if fresh[i:] else np.zeros_like(x)
            calls.append((i, [(1 - sigmas[i + 1]) * data + sigmas[i + 1] * again, *fresh]))
        return calls


SAMPLERS: dict[str, type[Sampler]] = {
    "euler": Euler,
    "heun": Heun,
    "unipc": UniPC,
    "dpm++": DPMPlusPlus,
    "consistency": Consistency,
}


def make(name: str) -> Sampler:
    """The sampler called `name`, with its usual spacing.

    Raises:
        InputError: no such sampler.
    """
    if name not in SAMPLERS:
        raise InputError(f"No sampler is called {name!r}; there are {', '.join(SAMPLERS)}.")
    return SAMPLERS[name]()


def _log_snr(sigmas: np.ndarray) -> np.ndarray:
    """lambda = log(alpha / sigma) of the flow, alpha = 1 - sigma; infinite at both ends."""
    with np.errstate(divide="ignore"):
        return np.log1p(-sigmas) - np.log(sigmas)


def _order(sigmas: np.ndarray, i: int) -> int:
    """Order of the step from level i: one at the start, without history, and one into 0."""
    return min(2, i + 1, len(sigmas) - 1 - i)


def _extrapolate(
    sigmas: np.ndarray, i: int, x: np.ndarray, data: np.ndarray, before: np.ndarray
) -> np.ndarray:
    """x at level i + 1 from x and the predicted data at level i and, at order 2, at level i - 1."""
    lam = _log_snr(sigmas)
    h = lam[i + 1] - lam[i]
    if _order(sigmas, i) == 2:
        data = data + (data - before) / (lam[i] - lam[i - 1]) * h / 2
    return sigmas[i + 1] / sigmas[i] * x - (1 - sigmas[i + 1]) * np.expm1(-h) * data


def _correct(
    sigmas: np.ndarray,
    i: int,
    start: np.ndarray,
    data: np.ndarray,
    data_1: np.ndarray,
    data_2: np.ndarray,
) -> np.ndarray:
    """x at level i again, from `start` at level i - 1, now that the data predicted at i is known.

    `data_1`, `data_2` were predicted at levels i - 1, i - 2. Its order is that of the step corrected.
    """
    lam = _log_snr(sigmas)
    h = lam[i] - lam[i - 1]
    growth = np.expm1(-h)
    if _order(sigmas, i - 1) == 1:
        data_1 = data_1 + (data - data_1) / 2
    else:
        # Two conditions, a_1 + a_2 = b_1 and r a_1 + a_2 = b_2, on the weights of the two differences.
        # r is -inf after a start at level 1; a_1 is then 0.
        r = (lam[i - 2] - lam[i - 1]) / h
        phi_2 = growth / -h - 1
        phi_3 = phi_2 / -h - 1 / 2
        b_1, b_2 = phi_2 / growth, 2 * phi_3 / growth
        a_1 = (b_1 - b_2) / (1 - r)
        a_2 = b_1 - a_1
        data_1 = data_1 + a_1 / r * (data_2 - data_1) + a_2 * (data - data_1)
    return sigmas[i] / sigmas[i - 1] * start - (1 - sigmas[i]) * growth * data_1
