"""The only place that looks for how to run on a slice: mesh, what is computed again, parts of a batch.

What can be reckoned from sizes alone orders the choices; the compiler is asked about the fastest that may
fit, and each of its answers corrects the reckoning.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import PATCH, Grid
from omnihuman_jax.models.building import Remat
from omnihuman_jax.models.dit import DiTConfig
from omnihuman_jax.planning import estimate
from omnihuman_jax.planning.chips import Slice
from omnihuman_jax.planning.compiler import Answer
from omnihuman_jax.planning.program import Held
from omnihuman_jax.training.flops import Flops
from omnihuman_jax.training.stages import Stage

REMATS: tuple[Remat, ...] = ("none", "attention", "full")
MOST = 16  # devices that share the tokens of a clip
CLOSE = 1.1  # a choice is asked about up to this share of the room, since the reckoning is rough


@dataclass(frozen=True)
class Choice:
    """One way to run."""

    fsdp: int
    context: int
    remat: Remat
    accumulate: int

    @property
    def changes(self) -> tuple[str, ...]:
        """As `omnihuman train` takes them."""
        return (
            "mesh.data=1",
            f"mesh.fsdp={self.fsdp}",
            f"mesh.context={self.context}",
            "mesh.tensor=1",
            f"task.remat={self.remat}",
            f"update.accumulate={self.accumulate}",
        )


@dataclass(frozen=True)
class Reckoned:
    """A choice with what sizes alone say: bytes a device, seconds a step."""

    choice: Choice
    bytes: float
    seconds: float


@dataclass(frozen=True)
class Tried:
    """A choice with what the compiler says; `seconds` of a step where it fits."""

    choice: Choice
    answer: Answer
    seconds: float | None


def choices(slice_: Slice, stage: Stage, stages: Sequence[Stage]) -> list[Choice]:
    """All ways to share the batch over the slice; those that suit every stage, if there are any.

    Raises:
        InputError: the batch is too small for the slice, however the clips are shared.
    """
    found = []
    for power in range(MOST.bit_length()):
        context = 2**power
        fsdp, rest = divmod(slice_.devices, context)
        if rest or fsdp < 1 or stage.batch % fsdp:
            continue
        own = stage.batch // fsdp
        parts = [n for n in range(1, own + 1) if own % n == 0]
        found += [Choice(fsdp, context, remat, n) for n, remat in itertools.product(parts, REMATS)]
    if not found:
        raise InputError(
            f"A batch of {stage.batch} cannot be shared by the {slice_.devices} devices of "
            f"{slice_.name}, with up to {MOST} of them for a clip; use a smaller slice, or stages."
            f"{stage.name}.batch={-(-slice_.devices // MOST)} or a multiple of it."
        )
    all_ = [c for c in found if all(s.batch % (c.fsdp * c.accumulate) == 0 for s in stages)]
    return all_ or found


def reckon(
    choice: Choice,
    slice_: Slice,
    stage: Stage,
    network: DiTConfig,
    grid: Grid,
    work: Flops,
    held: Held,
) -> Reckoned:
    """Memory and time of a choice, from sizes alone."""
    own = stage.batch / choice.fsdp / choice.accumulate  # clips of a group of devices, at a time
    frames, height, width = grid.latent_shape
    tokens = own * (grid.tokens + grid.tokens / frames) / choice.context
    row = tokens * network.width * 2  # bytes of one activation
    kept = {"full": 1, "attention": 2, "dots": 12, "none": 40}[choice.remat]
    gradients = held.gradient * (2 if choice.accumulate > 1 else 1)
    layer = 4 * held.parameters / network.layers  # gathered, with its gradient, in bfloat16
    inside = tokens * 2 * (6 * network.mlp + 20 * network.width)
    # Pose maps are made whole by every device of a group; three are alive at once.
    maps = 3 * own * grid.frames * (height * PATCH) * (width * PATCH) * 2
    maps *= network.pose.hidden if network.pose is not None else 0
    bytes_ = (held.state + held.frozen + gradients) / slice_.devices
    bytes_ += kept * network.layers * row + layer + inside + maps
    rates = estimate.rates(slice_.chip, int(tokens * choice.context / own), network.head_width)
    clips = stage.batch / slice_.devices
    seconds = estimate.by_hand(work, network, grid, choice.remat, rates, clips).computing
    gathers = 2 if choice.remat == "none" else 3
    weights = choice.accumulate * (gathers + 2) * held.parameters * 2
    seconds += weights / (4 * slice_.chip.link)
    if choice.context > 1:
        far = max(1.0, choice.context / 4)
        seconds += choice.accumulate * 12 * network.layers * row * far / (2 * slice_.chip.link)
    return Reckoned(choice, bytes_, seconds)


def best(
    reckoned: Sequence[Reckoned],
    room: float,
    ask: Callable[[Choice], Answer],
    seconds: Callable[[Answer], float],
    tries: int,
) -> list[Tried]:
    """What was tried, the best first: the fastest that fits, else the one that lacks least.

    Args:
        room: bytes of HBM of a device.
        ask: the compiler.
        seconds: of a step, of an answer that fits.
        tries: how often the compiler is asked at most.
    """
    left = sorted(reckoned, key=lambda one: one.seconds)
    more, slower = 1.0, 1.0  # what the compiler said over what was reckoned
    tried: list[Tried] = []
    while left and len(tried) < tries:
        fastest = min((t.seconds for t in tried if t.seconds is not None), default=None)
        hopeful = [
            one
            for one in left
            if one.bytes * more <= room * (CLOSE if not tried else 1.0)
            and (fastest is None or one.seconds * slower < fastest)
        ]
        if not hopeful and fastest is not None:
            break
        one = hopeful[0] if hopeful else min(left, key=lambda o: o.bytes)
        left.remove(one)
        answer = ask(one.choice)
        took = seconds(answer) if answer.fits else None
        tried.append(Tried(one.choice, answer, took))
        more = answer.peak / one.bytes if answer.peak else more * 1.25
        if took is not None:
            slower = took / one.seconds
        elif not hopeful:
            break  # even the least does not fit
    return sorted(tried, key=_rank)


def _rank(one: Tried) -> tuple[bool, float]:
    return one.seconds is None, one.seconds if one.seconds is not None else float(one.answer.peak)
