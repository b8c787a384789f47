"""The only place that gathers the numbers of a study and tells differences from chance."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from omnihuman_jax.ablation import jobs
from omnihuman_jax.ablation.study import BASE, Point, Study, Videos
from omnihuman_jax.errors import InputError
from omnihuman_jax.evaluation import accumulator, registry, summary
from omnihuman_jax.evaluation.accumulator import LEVEL
from omnihuman_jax.evaluation.metric import SetMetric

RESAMPLES = 4000
SET_RESAMPLES = 100  # a Fréchet distance takes its time
FORMAT = 1
Value = Callable[
    [Sequence[int]], float
]  # numbers of clips, with repetitions -> the metric of these


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % bootstrap interval over clips; no interval (None) for fewer than two."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def sure(self) -> bool:
        """Of a difference: whether 0 is outside the interval."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of a set of videos over all points.

    Attributes:
        better: "higher", "lower", or None where neither is.
        clips: point → clip → its number, a mean over the seeds of the noise.
        wholes: point → its value and interval for each seed, of a metric that clips alone have not.
        apart: point → how much more it has than the base, over the clips of both.
        why: what it needs, where no point has it.
    """

    name: str
    better: str | None
    definition: str
    clips: Mapping[str, Mapping[str, float]]
    wholes: Mapping[str, Sequence[Estimate]]
    apart: Mapping[str, Estimate]
    why: str = ""

    def of(self, label: str) -> Estimate | None:
        """Of a point; None where it has none. Of several seeds of a whole, the mean of values and ends."""
        if found := self.clips.get(label):
            return estimate(np.array([found[k] for k in sorted(found)]))
        if some := self.wholes.get(label):
            ends = [[e.low, e.high] for e in some if e.low is not None and e.high is not None]
            low, high = np.mean(ends, axis=0).tolist() if ends else (None, None)
            value = float(np.mean([e.value for e in some]))
            return Estimate(value=value, low=low, high=high, count=some[0].count)
        return None


@dataclass(frozen=True, kw_only=True)
class Found:
    """All numbers of a study.

    Attributes:
        points: labels of those that were evaluated whole, in the study's order.
        missing: label → what of it is not there.
        metrics: by set of videos.
        updates: that each point was trained for.
    """

    points: tuple[str, ...]
    missing: Mapping[str, str]
    metrics: Mapping[str, tuple[Metric, ...]]
    updates: Mapping[str, int]


def estimate(numbers: Float[np.ndarray, "clips"], seed: int = 0) -> Estimate:
    """Mean of numbers of clips and its percentile interval over clips drawn with repetition (Efron 1979).

    Of differences of the same clips it is the paired bootstrap.
    """
    count = len(numbers)
    low, high = None, None
    if count > 1:
        rows = accumulator.draws(count, RESAMPLES, seed)
        ends = np.quantile(numbers[rows].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        low, high = ends.tolist()
    return Estimate(value=float(numbers.mean()), low=low, high=high, count=count)


def gather(study: Study, workdir: Path) -> Found:
    """What is there in `workdir`.

    Raises:
        InputError: a damaged evaluation.
    """
    points = study.points()
    missing = {p.label: why for p in points if (why := _lacking(study, workdir, p))}
    whole = [p for p in points if p.label not in missing]
    return Found(
        points=tuple(p.label for p in whole),
        missing=missing,
        metrics={v.name: _metrics(workdir, whole, v) for v in study.videos},
        updates={p.label: study.steps(p) for p in points},
    )


def _lacking(study: Study, workdir: Path, point: Point) -> str:
    if not (workdir / point.label / "train" / "model" / jobs.MODEL).is_file():
        return "not trained"
    for videos in study.videos:
        for seed in videos.seeds:
            if not _file(workdir, point, videos, seed).is_file():
                return f"no evaluation of {videos.name}, seed {seed}"
    return ""


def _file(workdir: Path, point: Point, videos: Videos, seed: int) -> Path:
    return jobs.folder(workdir, point, "evaluation", videos, seed) / "summary.json"


def _metrics(workdir: Path, points: Sequence[Point], videos: Videos) -> tuple[Metric, ...]:
    read = {
        (p.label, seed): _evaluation(_file(workdir, p, videos, seed).parent)
        for p in points
        for seed in videos.seeds
    }
    names = list(dict.fromkeys(name for said, _ in read.values() for name in said["metrics"]))
    return tuple(_metric(name, points, videos.seeds, read) for name in names)


def _metric(
    name: str, points: Sequence[Point], seeds: Sequence[int], read: Mapping[Any, Any]
) -> Metric:
    clips: dict[str, dict[str, float]] = {}
    wholes: dict[str, list[Estimate]] = {}
    about: dict[str, Any] = {}
    for point in points:
        found = [read[point.label, seed] for seed in seeds]
        about = found[0][0]["metrics"].get(name, about)
        rows = [{k: v[name] for k, v in rows.items() if name in v} for _, rows in found]
        shared = set.intersection(*(set(each) for each in rows))
        if shared:
            clips[point.label] = {k: float(np.mean([r[k] for r in rows])) for k in sorted(shared)}
        elif not any(rows):
            said = [each["metrics"].get(name, {}) for each, _ in found]
            wholes[point.label] = [
                _estimate(each) for each in said if each.get("value") is not None
            ]
    wholes = {label: each for label, each in wholes.items() if each}
    folders = {label: [read[label, seed][0]["folder"] for seed in seeds] for label in wholes}
    return Metric(
        name=name,
        better=about.get("better"),
        definition=str(about.get("definition", "")),
        clips=clips,
        wholes=wholes,
        apart=_apart(clips) if clips else _sets_apart(name, folders),
        why=str(about.get("why", "")),
    )


def _apart(clips: Mapping[str, Mapping[str, float]]) -> dict[str, Estimate]:
    """Differences from the base, of numbers of clips."""
    base = clips.get(BASE, {})
    found = {}
    for label, own in clips.items():
        both = sorted(own.keys() & base.keys())
        if both and label != BASE:
            found[label] = estimate(np.array([own[k] - base[k] for k in both]))
    return found


def _sets_apart(name: str, folders: Mapping[str, Sequence[Path]]) -> dict[str, Estimate]:
    """The same of a metric of sets: both sets are drawn anew, of the same clips, from their kept features."""
    metric = registry.METRICS.get(name)
    if not isinstance(metric, SetMetric) or BASE not in folders:
        return {}
    kept = {
        label: [summary.load(str(folder)).features(name) for folder in each]
        for label, each in folders.items()
    }
    shared = sorted(set.intersection(*(set(each) for some in kept.values() for each in some)))
    if len(shared) < 2:
        return {}
    values = {
        label: [metric.value([each[k] for k in shared]) for each in some]
        for label, some in kept.items()
    }
    return _drawn_apart(values, len(shared), min(metric.resamples, SET_RESAMPLES))


def _drawn_apart(
    values: Mapping[str, Sequence[Value]], clips: int, resamples: int
) -> dict[str, Estimate]:
    """How much more each point has than the base, each a mean over seeds.

    A Fréchet distance of clips that repeat is biased, and of both points alike: it is not in the difference.
    """
    rows = [range(clips), *accumulator.draws(clips, resamples, 0).tolist()]
    drawn = {
        label: np.array([np.mean([value(row) for value in some]) for row in rows])
        for label, some in values.items()
    }
    found = {}
    for label, own in drawn.items():
        if label != BASE:
            value, *some = (own - drawn[BASE]).tolist()
            low, high = np.quantile(some, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
            found[label] = Estimate(value=value, low=low, high=high, count=clips)
    return found


def _estimate(said: Mapping[str, Any]) -> Estimate:
    return Estimate(
        value=float(said["value"]),
        low=said.get("low"),
        high=said.get("high"),
        count=int(said.get("count", 0)),
    )


def _evaluation(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """The summary of an evaluation, with its folder, and the numbers of its clips.

    Raises:
        InputError: it is not what `omnihuman evaluate` writes.
    """
    try:
        said = json.loads((folder / "summary.json").read_bytes())
        rows = {}
        for name in said["clips"]:
            file = folder / "clips" / f"{name}.json"
            values = json.loads(file.read_bytes())["values"] if file.is_file() else {}
            rows[name] = {k: float(v) for k, v in values.items() if v is not None}
        said["metrics"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as why:
        raise InputError(f"{folder} holds a damaged evaluation ({why!r}); delete it.") from why
    return said | {"folder": folder}, rows


def write(path: Path, found: Found) -> None:
    """Everything as JSON, with differences from the base."""
    metrics = {
        videos: {
            metric.name: {
                "better": metric.better,
                "definition": metric.definition,
                "points": {p: _told(metric.of(p)) for p in found.points},
                "less_base": {p: _told(metric.apart.get(p)) for p in found.points if p != BASE},
            }
            for metric in each
        }
        for videos, each in found.metrics.items()
    }
    content = {
        "format": FORMAT,
        "points": list(found.points),
        "missing": dict(found.missing),
        "updates": dict(found.updates),
        "metrics": metrics,
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _told(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)
