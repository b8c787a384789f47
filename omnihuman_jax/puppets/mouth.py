"""The only place that knows the shape of a mouth: how far open and how round, to lips and inner edge.

Units: the height of the head. The truth `mouth` in [0, 1] is drawn as a gap of `GAP * mouth` between
the inner lips in the middle of the mouth, whatever the rounding.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from omnihuman_jax.puppets.identity import Identity
from omnihuman_jax.puppets.shapes import Points

GAP = 0.215
HALF = 0.135  # half a mouth at rest
Y = 0.285  # where the lips meet, below the middle of the head
SIDE = 11  # points of a lip from corner to corner
JAW = 0.42  # how much of the gap the chin gives


@dataclass(frozen=True)
class Mouth:
    """Four lips' edges, each from the image's left corner to its right, `SIDE` points."""

    upper: Points  # inner edges
    lower: Points
    above: Points  # outer edges
    below: Points

    @property
    def hole(self) -> Points:
        """What is open."""
        return np.concatenate([self.upper, self.lower[::-1]])

    @property
    def lips(self) -> Points:
        """Both lips and what is between them."""
        return np.concatenate([self.above, self.below[::-1]])


def shape(who: Identity, opening: float, rounding: float, smile: float = 0.3) -> Mouth:
    """The mouth `opening` in [0, 1] wide and `rounding` in [0, 1] round; corners rise with `smile`."""
    half = HALF * who.face.mouth * (1 + 0.08 * smile) * (1 - 0.42 * rounding)
    x = np.linspace(-1, 1, SIDE)
    round_ = np.sqrt(1 - x**2)
    bow = round_ ** (0.75 + 0.25 * rounding)
    gap = GAP * opening
    lift = -0.035 * smile * (1 - rounding) * x**2
    # A smile's own line sags when closed; opening pulls it straight.
    line = Y + lift + 0.012 * smile * (1 - x**2) * (1 - opening)
    upper = line - 0.28 * gap * bow
    lower = line + 0.72 * gap * bow
    thick = who.face.lips * (1 + 0.35 * rounding)
    cupid = 1 - 0.28 * np.exp(-((x / 0.22) ** 2)) * (1 - rounding)
    above = upper - 0.034 * thick * round_**0.8 * cupid
    below = lower + 0.046 * thick * round_**0.7
    outer = x * (half + 0.012)
    pair = lambda y, at=x * half: np.stack([at, y], axis=1)
    return Mouth(pair(upper), pair(lower), pair(above, outer), pair(below, outer))


def between(edge_above: Points, edge_below: Points, start: float, end: float) -> Points:
    """The part of the hole from `start` to `end` of the way down, as an outline (teeth, tongue)."""
    top = edge_above + (edge_below - edge_above) * start
    bottom = edge_above + (edge_below - edge_above) * end
    return np.concatenate([top, bottom[::-1]])


def landmarks(mouth: Mouth) -> Float[np.ndarray, "20 2"]:
    """iBUG's points 48 to 67: outer lips clockwise from the image's left corner, then inner lips."""
    at = lambda edge, *places: np.stack(
        [[np.interp(p, np.linspace(-1, 1, SIDE), edge[:, k]) for k in (0, 1)] for p in places]
    )
    outer_above = at(mouth.above, -1, -0.6, -0.25, 0, 0.25, 0.6, 1)
    outer_below = at(mouth.below, 0.6, 0.25, 0, -0.25, -0.6)
    inner_above = at(mouth.upper, -0.9, -0.4, 0, 0.4, 0.9)
    inner_below = at(mouth.lower, 0.4, 0, -0.4)
    return np.concatenate([outer_above, outer_below, inner_above, inner_below])
