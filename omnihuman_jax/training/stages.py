"""The only place that knows omni-condition stages: which conditions are trained, and how often."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt32

from omnihuman_jax.conditions import NAMES, STRENGTH, Conditions
from omnihuman_jax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of a run: so many updates on batches of so many clips (of all hosts together)."""

    name: str
    steps: int
    batch: int

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise InputError(
                f"Stage {self.name!r} needs steps and batch of at least 1, got steps={self.steps} "
                f"batch={self.batch}."
            )


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """Of all samples of a stage, the share that is given each condition (OmniHuman-1, section 3.3).

    The defaults are those of the last stage. What is published disagrees (research/papers.md 1.2): the
    paper (v2) says that the ratios of text, reference, audio and pose are "progressively halved", finds
    50 % audio best of 10, 50 and 100 % (Table 3), sets pose to 50 % (section 4.3), and finds that a high
    reference ratio (70 %) lets fewer errors pile up in long videos than a low one (30 %, Fig. 6); the
    ICCV version's notes say text 90 %, audio 50 %, pose 25 %. Pose at half of the samples with audio is
    25 % of all, which agrees with both.

    Text and reference are dropped by chance, a sample at a time. Audio and pose are ratios of the data:
    that share of samples is drawn from the clips that can teach them, and the others are drawn from all
    clips and train the weaker conditions, those that a filter rejected among them (principle 1).

    Attributes:
        text: also trains the null text that guidance needs; so does audio below 1.
        pose: of all samples, each of which is given audio too if `audio` is not 0: the paper stacks them.
        motion: share of samples whose first latents are given clean, as the end of the segment before
            (section 3.4; the paper gives no number, ours).
        unordered: say true to give a stronger condition a higher ratio, against principle 2.
    """

    text: float = 0.9
    reference: float = 0.7
    audio: float = 0.5
    pose: float = 0.25
    motion: float = 0.3
    unordered: bool = False

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in (*STRENGTH, "motion")}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise InputError(f"The ratio of {name} is a share between 0 and 1, got {share:g}.")
        if self.pose and self.audio and self.pose > self.audio:
            raise InputError(
                f"Samples with pose are among those with audio, so pose={self.pose:g} cannot be more "
                f"than audio={self.audio:g}; lower it, or give audio=0 for a stage without sound."
            )
        active = [name for name in STRENGTH if shares[name] > 0]
        for weak, strong in itertools.pairwise(active):
            if shares[strong] > shares[weak] and not self.unordered:
                raise InputError(
                    f"The stronger the condition, the lower its ratio (OmniHuman-1, principle 2): "
                    f"{strong}={shares[strong]:g} is more than {weak}={shares[weak]:g}. "
                    "Lower it, or say unordered=true."
                )

    def mix(self) -> dict[frozenset[str], float]:
        """The share of samples to draw from clips that can teach each set (`data.plan.Plan`)."""
        audio, pose = frozenset({"audio"}), frozenset({"pose"})
        if not self.audio:
            groups = {frozenset(): 1 - self.pose, pose: self.pose}
        else:
            groups = {
                frozenset(): 1 - self.audio,
                audio: self.audio - self.pose,
                audio | pose: self.pose,
            }
        # A group of share 0 stays: what a mix names is kept from all other samples.
        named: dict[frozenset[str], float] = {audio | pose: 0.0}
        return named | groups


@dataclass(frozen=True, kw_only=True)
class OmniStage(Stage):
    """A stage of omni-condition training.

    Attributes:
        ratios: how often each condition is given.
        data: records of this stage alone, instead of the task's.
        shift: of the training times towards noise at this stage's clips; None: by their tokens.
    """

    ratios: Ratios = field(default_factory=Ratios)
    data: str | None = None
    shift: float | None = None


# Section 3.3: first text and reference, then audio, then pose.
TEXT_AND_REFERENCE = Ratios(audio=0.0, pose=0.0)
AND_AUDIO = Ratios(pose=0.0)
AND_POSE = Ratios()


def at(stages: Sequence[Stage], step: int) -> tuple[int, int]:
    """Number of the stage that update `step` belongs to, and the first update of it.

    Raises:
        IndexError: the last stage ends before.
    """
    first = 0
    for number, stage in enumerate(stages):
        if step < first + stage.steps:
            return number, first
        first += stage.steps
    raise IndexError(f"The stages have {first} steps; there is no step {step}.")


def total(stages: Sequence[Stage]) -> int:
    """Updates of all stages together."""
    return sum(stage.steps for stage in stages)


def drop(
    conditions: Conditions,
    ratios: Ratios,
    key: PRNGKeyArray,
    sample: UInt32[Array, "B"],
) -> Conditions:
    """The conditions with text and reference left out of as many samples as the ratios say.

    Audio and pose come as the mix drew them. What is dropped is a function of the key and the sample.
    """

    for name in ("text", "reference"):
        conditions = conditions.keep(name, chosen(key, sample, name, getattr(ratios, name)))
    return conditions


def chosen(
    key: PRNGKeyArray, sample: UInt32[Array, "B"], name: str, share: float
) -> Bool[Array, "B"]:
    """Which samples are given a condition, each with chance `share`: a function of key, sample and name."""
    number = NAMES.index(name)

    def one(s: UInt32[Array, ""]) -> Float[Array, ""]:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, s), number))

    return jax.vmap(one)(sample) < share


def subset(present: Mapping[str, Bool[Array, "B"]], clips: int) -> dict[str, Bool[Array, "B"]]:
    """Which samples were given exactly which drivers, by name "text+reference+audio"; "none" for none.

    Only the subsets in use: with or without each of reference, audio and pose; text is left out of the
    names, since it is nearly always there.
    """
    everyone = jnp.ones((clips,), bool)
    found: dict[str, Bool[Array, "B"]] = {}
    have = {name: present.get(name, ~everyone) for name in STRENGTH[1:]}
    for bits in range(8):
        chosen = [name for i, name in enumerate(have) if bits >> i & 1]
        match = everyone
        for name, given in have.items():
            match &= given if name in chosen else ~given
        found["+".join(chosen) or "text only"] = match
    return found
