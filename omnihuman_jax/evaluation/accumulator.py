"""The only place that adds up results of clips: over batches and hosts, with a bootstrap interval.

What is kept is a result a clip, by its id. Merging is the union, and sums run in the order of ids: however
the clips were shared out, the value is the same.
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from omnihuman_jax.errors import InputError
from omnihuman_jax.evaluation.metric import ClipMetric, Features, Metric, SetMetric

RESAMPLES = 1000
LEVEL = 0.95
FEW = 10  # clips: with fewer an interval says little


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A metric of a set.

    Attributes:
        low, high: of the 95 % bootstrap interval over clips; None for fewer than two clips.
        count: clips that have a result.
        samples: rows of features behind a set metric; `count` for a clip metric.
        why: what it needs, where there is no value.
        warning: why the value is to be taken with care; "" if it is not.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    count: int = 0
    samples: int = 0
    why: str = ""
    warning: str = ""


@dataclass(frozen=True)
class Accumulator:
    """Results of a metric by clip: numbers of a clip metric, features of a set metric."""

    metric: Metric
    results: Mapping[str, Any] = field(default_factory=dict)

    def add(self, results: Mapping[str, Any]) -> "Accumulator":
        """With more clips. Raises: InputError: one of them is there already."""
        if double := self.results.keys() & results.keys():
            raise InputError(f"Clip {min(double)} has two results of {self.metric.name}.")
        return Accumulator(self.metric, {**self.results, **results})

    def merged(self, other: "Accumulator") -> "Accumulator":
        """Those of both, whoever measured them. Raises: InputError: of one clip or not one metric."""
        if other.metric.name != self.metric.name:
            raise InputError(f"{self.metric.name} and {other.metric.name} cannot be added up.")
        return self.add(other.results)

    @property
    def ids(self) -> list[str]:
        """In the order in which everything is summed."""
        return sorted(self.results)

    def value(self) -> float:
        """The metric of all clips. Raises: InputError: there is none."""
        if not self.results:
            raise InputError(f"{self.metric.name} needs at least one clip.")
        return self.function()(range(len(self.results)))

    def estimate(self, seed: int = 0) -> Estimate:
        """The value with its interval, number of clips and samples, and a warning where they are few."""
        count = len(self.results)
        if not count:
            return Estimate(value=None, why="needs a clip that has it")
        function = self.function()
        samples = count
        if isinstance(self.metric, SetMetric):
            samples = sum(len(next(iter(self.results[k].values()))) for k in self.ids)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                value = function(range(count))
            except InputError as why:
                return Estimate(value=None, count=count, samples=samples, why=str(why))
        told = [str(each.message) for each in said if issubclass(each.category, UserWarning)]
        if count < FEW:
            told.append(f"{count} clips are few; the interval says little.")
        low, high = None, None
        if count > 1:
            low, high = interval(function, value, count, self._resamples(), seed, self.metric)
        return Estimate(
            value=value, low=low, high=high, count=count, samples=samples, warning=" ".join(told)
        )

    def _resamples(self) -> int:
        return self.metric.resamples if isinstance(self.metric, SetMetric) else RESAMPLES

    def function(self) -> Callable[[Sequence[int]], float]:
        """From numbers of clips, in the order of ids, to the value."""
        results = [self.results[name] for name in self.ids]
        if isinstance(self.metric, SetMetric):
            return self.metric.value(results)
        numbers = np.array(results, np.float64)
        return lambda chosen: float(numbers[list(chosen)].mean())


def draws(count: int, resamples: int, seed: int) -> Int[np.ndarray, "resamples count"]:
    """Numbers of clips drawn with repetition; each row sorted, so that sums keep their order."""
    random = np.random.default_rng([seed, count])
    return np.sort(random.integers(count, size=(resamples, count)), axis=1)


def interval(
    function: Callable[[Sequence[int]], float],
    value: float,
    count: int,
    resamples: int,
    seed: int,
    metric: Metric,
) -> tuple[float | None, float | None]:
    """The 95 % percentile interval over clips drawn with repetition (Efron 1979).

    A Fréchet distance of clips that repeat is biased upwards; for set metrics the resamples' spread about
    their own median is therefore put about the value.
    """
    found = resampled(function, draws(count, resamples, seed))
    if not len(found):
        return None, None
    low, middle, high = np.quantile(found, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    if isinstance(metric, SetMetric):
        low, high = low - middle + value, high - middle + value
        low = max(low, 0.0)
    return float(low), float(high)


def resampled(
    function: Callable[[Sequence[int]], float], rows: Int[np.ndarray, "resamples count"]
) -> Float64[np.ndarray, "found"]:
    """The value of each row; those that have none (all the same clip) are left out."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in rows:
            try:
                value = function(row.tolist())
            except InputError:
                continue
            if math.isfinite(value):
                found.append(value)
    return np.array(found, np.float64)


def fingerprint(*parts: str) -> str:
    """Sixteen letters that change when a part does."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def of(metric: Metric, results: Mapping[str, float | Features]) -> Accumulator:
    """The accumulator of results that are there. Raises: InputError: a number that is not finite."""
    if isinstance(metric, ClipMetric):
        for name, number in results.items():
            if not math.isfinite(float(number)):  # type: ignore[arg-type]
                raise InputError(f"{metric.name} of clip {name} is {number}.")
    return Accumulator(metric, dict(results))
