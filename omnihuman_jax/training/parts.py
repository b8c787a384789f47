"""The only place that knows that parameters may be in parts: networks trained by turns, each below its name.

`student/blocks/up/kernel` is `blocks/up/kernel` of the part "student". A run that trains one network has one
part, all of its parameters, whose paths have no name before them.
"""

from collections.abc import Mapping
from typing import Any

WHOLE = "network"  # the one part of a run that trains one network
AVERAGE = "average"  # where a loss finds the moving average, if its turn asks for it,
COUNT = "count"  # and how many updates of its part were before this one, float32 scalar


def own(part: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to a part, by the names it has in its own network."""
    if part == WHOLE:
        return dict(tree)
    start = f"{part}/"
    return {path.removeprefix(start): leaf for path, leaf in tree.items() if path.startswith(start)}


def under(part: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The other way round: a network's own names below the name of the part."""
    return dict(tree) if part == WHOLE else {f"{part}/{path}": leaf for path, leaf in tree.items()}


def others(part: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """What does not belong to a part."""
    mine = under(part, own(part, tree))
    return {path: leaf for path, leaf in tree.items() if path not in mine}
