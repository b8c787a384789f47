"""Which of the given conditions drive a video (OmniHuman-1, section 3.4), as a pure function.

Activating a condition activates every weaker one, unless told otherwise; a stronger one stays off. Driven by
pose alone, audio is off as well: the paper's "all except audio", for lips that follow the pose.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.errors import InputError

Drive = Literal["auto", "text", "audio", "pose", "audio+pose"]


@dataclass(frozen=True)
class Activation:
    """The conditions that are active, and why each of the others is not."""

    active: frozenset[str]
    why_not: Mapping[str, str]

    def told(self) -> str:
        """One line for the user."""
        on = ", ".join(name for name in STRENGTH if name in self.active) or "none"
        off = "; ".join(f"{name} {self.why_not[name]}" for name in STRENGTH if name in self.why_not)
        return f"Active: {on}" + (f" ({off})." if off else ".")


def activate(
    given: Collection[str], drive: Drive = "auto", without: Collection[str] = ()
) -> Activation:
    """What is active of the conditions `given`.

    Args:
        drive: what drives the video; "auto" is everything strong that is given.
        without: conditions to leave out all the same.

    Raises:
        InputError: nothing to drive with is given, or a name that is no condition.
    """
    for name in (*given, *without):
        if name not in STRENGTH:
            raise InputError(f"No condition is called {name!r}; there are {', '.join(STRENGTH)}.")
    drivers = set(given) - set(without) if drive == "auto" else set(drive.split("+"))
    if missing := sorted(drivers - set(given)):
        raise InputError(f"--drive {drive} needs {' and '.join(missing)}; give --{missing[0]}.")
    top = max((STRENGTH.index(name) for name in drivers), default=-1)
    why_not: dict[str, str] = {}
    for rank, name in enumerate(STRENGTH):
        if name in without:
            why_not[name] = "is left out as asked"
        elif name not in given:
            why_not[name] = "is not given"
        elif rank > top:
            why_not[name] = f"is stronger than {drive}"
        elif name == "audio" and drive == "pose":
            why_not[name] = "is off where pose alone drives"
    return Activation(frozenset(name for name in given if name not in why_not), why_not)
