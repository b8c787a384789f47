"""The only place that knows all metrics by name."""

from collections.abc import Sequence

from omnihuman_jax.errors import InputError
from omnihuman_jax.evaluation import of_gestures, of_people, of_pictures, of_puppets
from omnihuman_jax.evaluation.metric import Metric

_ALL = (
    *of_pictures.METRICS,
    *of_people.METRICS,
    *of_puppets.METRICS,
    *of_gestures.METRICS,
)
METRICS: dict[str, Metric] = {each.name: each for each in _ALL}


def named(names: Sequence[str] | None) -> list[Metric]:
    """Metrics in the order of the registry; None for all.

    Raises:
        InputError: there is none of that name.
    """
    if names is None:
        return list(METRICS.values())
    if odd := [name for name in names if name not in METRICS]:
        raise InputError(f"There is no metric {odd[0]!r}, but {', '.join(METRICS)}.")
    return [metric for name, metric in METRICS.items() if name in set(names)]
