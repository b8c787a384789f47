"""The only place that decides what a clip is good for: framing, faults, and the shares of each.

Clips come in blocks of 32. Every block holds each row of `BLOCK` once, in an order drawn from the
seed, so the shares are exact: 16 of 32 clips teach audio, 11 of 32 teach pose (as in training, where
stronger conditions have less data), all four combinations occur, 5 of 32 should be rejected whole.
"""

from dataclasses import dataclass

import numpy as np

from omnihuman_jax.puppets.identity import randomness

SOUND_FAULTS = ("silent", "no_track", "noise", "music", "dubbed", "hidden_mouth")
"""What spoils lips and sound: a silent track; no track; noise or tones instead of speech; the sound
of another utterance; a mouth behind a mask or microphone."""

REJECTED = ("dark", "frozen", "subtitles", "cut")
"""What spoils a clip whole: too dark to see; a still picture; text over it; another clip from the
middle on."""


@dataclass(frozen=True)
class Plan:
    """What clip a number stands for. `fault` names the first of `faults`, or is None."""

    framing: str  # "portrait", "half-body", "full-body"
    faults: tuple[str, ...]
    teaches: tuple[str, ...]
    desk: bool  # the arms are behind a desk

    @property
    def fault(self) -> str | None:
        return self.faults[0] if self.faults else None


ALWAYS = ("text", "reference")


def _row(framing: str, *faults: str) -> Plan:
    desk = "hidden_pose" in faults
    teaches = list(ALWAYS)
    if not set(faults) & set(SOUND_FAULTS):
        teaches.append("audio")
    if framing != "portrait" and not desk:
        teaches.append("pose")
    if set(faults) & set(REJECTED):
        teaches = []
    return Plan(framing, faults, tuple(teaches), desk)


BLOCK: tuple[Plan, ...] = (
    # sound and pose
    *[_row("half-body")] * 5,
    *[_row("full-body")] * 3,
    # sound only
    *[_row("portrait")] * 6,
    *[_row("half-body", "hidden_pose")] * 2,
    # pose only
    _row("half-body", "silent"),
    _row("half-body", "dubbed"),
    _row("full-body", "hidden_mouth"),
    # neither
    _row("portrait", "silent"),
    _row("portrait", "no_track"),
    _row("portrait", "noise"),
    _row("half-body", "music", "hidden_pose"),
    _row("portrait", "dubbed"),
    _row("half-body", "dubbed", "hidden_pose"),
    _row("portrait", "hidden_mouth"),
    _row("portrait", "noise"),
    # nothing
    _row("half-body", "dark"),
    _row("half-body", "frozen"),
    _row("portrait", "subtitles"),
    _row("half-body", "cut"),
    _row("portrait", "cut"),
)


def make_plan(seed: int, number: int) -> Plan:
    """The plan of clip `number`."""
    block, place = divmod(number, len(BLOCK))
    order = randomness(seed, block, "plan").permutation(len(BLOCK))
    return BLOCK[int(order[place])]


def shares() -> dict[str, float]:
    """What part of the clips teaches each condition."""
    names = ("text", "reference", "audio", "pose")
    return {name: float(np.mean([name in plan.teaches for plan in BLOCK])) for name in names}
