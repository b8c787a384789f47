"""The only place that notices that a run has collapsed: a number that fell below what it must not fall below.

Adversarial training ends so: the discriminator tells real from made without effort (its loss goes to 0) or
the generator makes one picture for all (Seaweed-APT, arXiv 2501.08316, sections 3.4 and 5).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnihuman_jax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Floor:
    """A number of which a run says that it has collapsed.

    Attributes:
        name: of a tally, "critic/loss" or "diversity".
        least: its mean must not fall below.
        over: how many updates that tell it the mean is of; nothing is said before so many.
    """

    name: str
    least: float
    over: int = 50

    def __post_init__(self) -> None:
        if self.over < 1:
            raise InputError(
                f"The floor of {self.name!r} is of at least 1 update, got {self.over}."
            )


class Collapse:
    """Watches the floors of a run, from a start or restart on."""

    def __init__(self, floors: Sequence[Floor]) -> None:
        self._seen = {floor: deque[tuple[int, float]](maxlen=floor.over) for floor in floors}

    def see(self, step: int, tallies: Mapping[str, Any]) -> tuple[Floor, float, int] | None:
        """Take note of update `step`, counted from 1. A floor broken, the mean, and the last good update.

        The mean is of the updates behind that one.
        """
        for floor, seen in self._seen.items():
            if floor.name not in tallies:
                continue
            total, count = np.asarray(tallies[floor.name], np.float64)
            if count:
                seen.append((step, float(total / count)))
            mean = float(np.mean([value for _, value in seen])) if seen else 0.0
            if len(seen) == floor.over and mean < floor.least:
                return floor, mean, seen[0][0] - 1
        return None
