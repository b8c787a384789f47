"""The only place that says what a metric is: a number a clip, or features a clip and a number of the set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from omnihuman_jax.evaluation.cases import Case

Better = Literal["higher", "lower"] | None
Features = Mapping[str, np.ndarray]
"""What a set metric keeps of a clip, by name; rows are samples."""


class NotComputedError(Exception):
    """A metric has no value here; says in a few words what it needs."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What all metrics have.

    Attributes:
        better: which values are better; None where neither end is.
        definition: what is computed, with the paper or the code that says so.
        network: what it looks through (networks.KINDS); None for nothing that needs weights.
        version: of what is computed; another one makes kept results stale.
        samples: what its samples are, in the plural.
    """

    name: str
    better: Better
    definition: str
    network: str | None = None
    version: int = 1
    samples: str = "clips"


@dataclass(frozen=True, kw_only=True)
class ClipMetric(Metric):
    """A number of each clip; that of a set is their mean.

    Attributes:
        measure: (the clip, the network or None) -> number; raises NotComputedError where a clip lacks
            what it takes.
    """

    measure: Callable[[Case, Any], float]


@dataclass(frozen=True, kw_only=True)
class SetMetric(Metric):
    """A number of a set alone, from features of its clips.

    Attributes:
        features: (the clip, the network or None) -> arrays by name, rows are samples.
        value: features of all clips of the set -> a function from the numbers of those to take, with
            repetitions, to the number; what all have in common is computed once.
        resamples: of the bootstrap: few where one value takes seconds.
    """

    features: Callable[[Case, Any], Features]
    value: Callable[[Sequence[Features]], Callable[[Sequence[int]], float]]
    resamples: int = 200


def stacked(parts: Sequence[Features], name: str, chosen: Sequence[int]) -> np.ndarray:
    """The rows of the chosen clips, one below the other, in float64."""
    return np.concatenate([np.asarray(parts[k][name], np.float64) for k in chosen])
