"""The only place that knows the files of an evaluation: summary.json, clips/, features/."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError
from omnihuman_jax.evaluation.accumulator import Estimate
from omnihuman_jax.evaluation.metric import Features, Metric

FORMAT = 1
FILE, CLIPS, FEATURES, PAGE = "summary.json", "clips", "features", "report.html"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was found of one clip.

    Attributes:
        video: its file, as `evaluate` was given it.
        values: by metric; of set metrics 0 rows or more of features stand in `counts` instead.
        why: by metric, what it needs where there is no result.
        keys: by metric, of what the result was computed from.
    """

    id: str
    video: str
    values: Mapping[str, float | None] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A metric of a whole set: what was estimated, and what it means."""

    estimate: Estimate
    better: str | None
    definition: str
    samples: str = "clips"

    @staticmethod
    def of(metric: Metric, estimate: Estimate) -> "Found":
        return Found(
            estimate=estimate,
            better=metric.better,
            definition=metric.definition,
            samples=metric.samples,
        )

    @property
    def value(self) -> float | None:
        return self.estimate.value


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A run: all metrics of a set of videos.

    Attributes:
        testset: name and fingerprint: equal for equal test sets.
        clips: ids, in the order of the test set.
        missing: ids that have no video, or a damaged one → why.
        rows: what was found of each clip, by id.
        folder: where it lies.
    """

    name: str
    testset: str
    metrics: Mapping[str, Found]
    clips: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, Row] = field(default_factory=dict)
    folder: str = ""

    def values(self, metric: str) -> dict[str, float]:
        """A clip metric's numbers by id, of the clips that have one."""
        found = {name: row.values.get(metric) for name, row in self.rows.items()}
        return {name: value for name, value in found.items() if value is not None}

    def features(self, metric: str) -> dict[str, Features]:
        """A set metric's features by id, of the clips that have them.

        Raises:
            InputError: a file of them is gone or damaged.
        """
        there = [
            name for name, row in self.rows.items() if metric in row.keys and metric not in row.why
        ]
        return {name: read_features(self.folder, metric, name) for name in there}


def write(folder: str, summary: Summary) -> None:
    """summary.json alone; clips and features are written as they are found."""
    metrics = {}
    for name, found in summary.metrics.items():
        each = asdict(found.estimate)
        for optional in ("why", "warning"):
            if not each[optional]:
                del each[optional]
        more = {"better": found.better, "definition": found.definition, "of": found.samples}
        metrics[name] = each | more
    content: dict[str, Any] = {
        "format": FORMAT,
        "name": summary.name,
        "testset": summary.testset,
        "metrics": metrics,
        "clips": list(summary.clips),
        "missing": dict(summary.missing),
    }
    storage.write_bytes(storage.join(folder, FILE), _json(content))


def load(folder: str) -> Summary:
    """A finished evaluation, with its clips' rows.

    Raises:
        InputError: none there, a damaged one, or one of a newer version.
    """
    path = storage.join(folder, FILE)
    if not storage.is_file(path):
        raise InputError(f"There is no {FILE} in {folder}; make one with `omnihuman evaluate`.")
    content = _read(path)
    version = content.get("format")
    if version != FORMAT:
        raise InputError(f"{path} has format {version}, and this program reads {FORMAT}.")
    try:
        names = Estimate.__dataclass_fields__.keys()
        metrics = {
            name: Found(
                estimate=Estimate(**{k: v for k, v in each.items() if k in names}),
                better=each["better"],
                definition=each["definition"],
                samples=each["of"],
            )
            for name, each in content["metrics"].items()
        }
        clips = tuple(content["clips"])
        return Summary(
            name=content["name"],
            testset=content["testset"],
            metrics=metrics,
            clips=clips,
            missing=content["missing"],
            rows={name: row for name in clips if (row := read_row(folder, name)) is not None},
            folder=folder,
        )
    except (KeyError, TypeError, AttributeError) as why:
        raise InputError(f"{path} is damaged: {why!r}.") from why


def _place(folder: str, id: str, *below: str) -> str:
    return storage.join(folder, *below, *id.split("/"))


def write_row(folder: str, row: Row) -> None:
    """One clip's file; it appears whole or not at all."""
    content = {k: v for k, v in asdict(row).items() if v or k not in ("why", "keys")}
    storage.write_bytes(f"{_place(folder, row.id, CLIPS)}.json", _json(content))


def read_row(folder: str, id: str) -> Row | None:
    """One clip's file; None if there is none. Raises: InputError: it is damaged."""
    path = f"{_place(folder, id, CLIPS)}.json"
    if not storage.is_file(path):
        return None
    content = _read(path)
    try:
        return Row(**content)
    except TypeError as why:
        raise InputError(f"{path} is damaged: {why}.") from why


def write_features(folder: str, metric: str, id: str, features: Features) -> None:
    """One clip's features of a set metric."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(features)
    np.savez_compressed(buffer, **arrays)
    path = f"{_place(folder, id, FEATURES, metric)}.npz"
    storage.write_bytes(path, buffer.getvalue())


def read_features(folder: str, metric: str, id: str) -> Features:
    """Raises: InputError: they are not there, or damaged."""
    path = f"{_place(folder, id, FEATURES, metric)}.npz"
    data = storage.read_bytes(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, EOFError, KeyError) as why:
        raise InputError(f"{path} is damaged: {why}; delete it.") from why


def has_features(folder: str, metric: str, id: str) -> bool:
    """Whether that file is there."""
    return storage.is_file(f"{_place(folder, id, FEATURES, metric)}.npz")


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _read(path: str) -> dict[str, Any]:
    try:
        content = json.loads(storage.read_bytes(path))
    except (ValueError, RecursionError) as why:
        raise InputError(f"{path} is no JSON: {' '.join(str(why).split())}; delete it.") from why
    if not isinstance(content, dict):
        raise InputError(f"{path} is not what `omnihuman evaluate` writes.")
    return content
