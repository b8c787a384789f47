"""The only place that compares runs on one test set: which is best, and from which it surely differs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omnihuman_jax.errors import InputError
from omnihuman_jax.evaluation import accumulator, registry
from omnihuman_jax.evaluation.accumulator import LEVEL, RESAMPLES, Accumulator
from omnihuman_jax.evaluation.metric import SetMetric
from omnihuman_jax.evaluation.run import gathered
from omnihuman_jax.evaluation.summary import Summary


@dataclass(frozen=True)
class Cell:
    """A run's value of a metric.

    Attributes:
        best: whether no other run's is better.
        differs: whether the best run's value surely differs from it (95 %, paired bootstrap over the clips
            that both have); False for the best itself, None where nothing can be said.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    best: bool = False
    differs: bool | None = None


@dataclass(frozen=True)
class Comparison:
    """All metrics of all runs: `cells[metric][k]` is that of run k."""

    testset: str
    runs: tuple[str, ...]
    clips: tuple[int, ...]
    cells: dict[str, list[Cell]]
    better: dict[str, str | None]


def compared(runs: Sequence[Summary], seed: int = 0) -> Comparison:
    """The table's content.

    Raises:
        InputError: no run, runs of different test sets, or two of one name.
    """
    if not runs:
        raise InputError("Give at least one run that was evaluated.")
    first = runs[0]
    for run in runs[1:]:
        if run.testset != first.testset or set(run.clips) != set(first.clips):
            raise InputError(
                f"{run.name} was evaluated on another test set ({run.testset}; {len(run.clips)} clips) than "
                f"{first.name} ({first.testset}; {len(first.clips)} clips); only runs on one can be compared."
            )
    names = [run.name for run in runs]
    if double := [name for name in names if names.count(name) > 1]:
        raise InputError(f"Two runs are called {double[0]}; evaluate one with another --name.")
    order = [name for name in registry.METRICS if any(name in run.metrics for run in runs)]
    return Comparison(
        testset=first.testset,
        runs=tuple(names),
        clips=tuple(len(run.clips) - len(run.missing) for run in runs),
        cells={metric: _cells(metric, runs, seed) for metric in order},
        better={metric: registry.METRICS[metric].better for metric in order},
    )


def _cells(name: str, runs: Sequence[Summary], seed: int) -> list[Cell]:
    metric = registry.METRICS[name]
    found = [run.metrics[name].estimate if name in run.metrics else None for run in runs]
    values = [None if each is None else each.value for each in found]
    there = [k for k, value in enumerate(values) if value is not None]
    best = None
    if metric.better is not None and len(there) > 1:
        sign = 1 if metric.better == "lower" else -1
        best = min(there, key=lambda k: sign * float(values[k]))  # type: ignore[arg-type]
    kept = {k: gathered(metric, runs[k]) for k in there} if best is not None else {}
    cells = []
    for k, each in enumerate(found):
        if each is None or each.value is None:
            cells.append(Cell(None))
            continue
        is_best = best is not None and each.value == values[best]
        differs = None
        if best is not None:
            differs = False if is_best else surely_differ(kept[best], kept[k], seed)
        cells.append(Cell(each.value, each.low, each.high, is_best, differs))
    return cells


def surely_differ(one: Accumulator, other: Accumulator, seed: int = 0) -> bool | None:
    """Whether the 95 % interval of the difference leaves out 0, over clips drawn for both alike.

    None where fewer than two clips are in both.
    """
    both = sorted(one.results.keys() & other.results.keys())
    if len(both) < 2:
        return None
    functions = [
        Accumulator(one.metric, {n: each.results[n] for n in both}).function()
        for each in (one, other)
    ]
    count = one.metric.resamples if isinstance(one.metric, SetMetric) else RESAMPLES
    away = lambda chosen: functions[0](chosen) - functions[1](chosen)
    found = accumulator.resampled(away, accumulator.draws(len(both), count, seed))
    if len(found) < count / 2:
        return None
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return bool(low > 0 or high < 0)


def layout_of(testset: str) -> str:
    """Which of the paper's tables a test set belongs to: portrait, body, or all."""
    name = re.split(r"[ ,]", testset)[0]
    return {"celebv_hq": "portrait", "ravdess": "portrait", "half_body": "body"}.get(name, "all")
