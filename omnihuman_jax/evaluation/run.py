"""The only place that evaluates a folder of videos: clip by clip, kept as it goes, then the set.

    pair videos with the test set -> each clip's metrics, into its file -> all processes' clips -> summary

Every result is kept under a key of the video's bytes, the truth, the metric's version and the weights.
Whoever kills it loses the metric at hand; the same command goes on with what is missing.
"""

import hashlib
import math
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from omnihuman_jax import health, processes, storage
from omnihuman_jax.data.raw import DecodeError, local
from omnihuman_jax.errors import InputError
from omnihuman_jax.evaluation import accumulator, baselines, cases, page, registry, summary
from omnihuman_jax.evaluation.accumulator import Accumulator, Estimate
from omnihuman_jax.evaluation.cases import Case, Cases
from omnihuman_jax.evaluation.metric import ClipMetric, Metric, NotComputedError, SetMetric
from omnihuman_jax.evaluation.networks import Networks
from omnihuman_jax.evaluation.summary import Found, Row, Summary

Say = Callable[[str], None]
PATIENCE = 24 * 3600  # seconds that processes wait for each other's clips
MANIFEST = ".jsonl"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is evaluated, and how.

    Attributes:
        videos: a folder with <id>.mp4 of each clip, or a manifest .jsonl; local or gs://.
        testset: a folder made by `omnihuman testset`; None with a manifest.
        out: where results go, seen by all processes; None for `evaluation` in the videos' folder.
        weights: a folder of what metrics look through, by name; None without.
        metrics: names; None for all.
        ids: clips of the test set; None for all.
        name: of the run in tables; None for that of the videos' folder.
        layout: of which method of the papers' tables the folder is (baselines.LAYOUTS); None for <id>.mp4.
        seed: of the bootstrap.
    """

    videos: str
    testset: str | None = None
    out: str | None = None
    weights: str | None = None
    metrics: tuple[str, ...] | None = None
    ids: tuple[str, ...] | None = None
    name: str | None = None
    layout: str | None = None
    seed: int = 0


def evaluate(settings: Settings, say: Say = print) -> Summary:
    """Everything that is missing, then the summary of all clips; written below `settings.out`.

    Processes that were joined (processes.joined) take turns at the clips, and the first one sums up.

    Raises:
        InputError: videos, test set, weights or names that are not there; no video at all.
    """
    metrics = registry.named(settings.metrics)
    found = _cases(settings)
    out = place(settings)
    if settings.weights is not None and not Path(settings.weights).is_dir():
        raise InputError(
            f"--weights is a folder of networks by name; there is no {settings.weights}."
        )
    mine = found.ids[jax.process_index() :: jax.process_count()]
    _clips(found, mine, metrics, out, settings, say)
    processes.barrier("clips", PATIENCE)
    if jax.process_index() == 0:
        made = summed(found, metrics, out, settings)
        summary.write(out, made)
        page.write(made, found)
    processes.barrier("summary", PATIENCE)
    return summary.load(out)


def place(settings: Settings) -> str:
    """Where results go."""
    if settings.out is not None:
        return settings.out
    base = settings.videos
    return storage.join(str(Path(base).parent) if base.endswith(MANIFEST) else base, "evaluation")


def _cases(settings: Settings) -> Cases:
    if settings.videos.endswith(MANIFEST):
        if settings.testset is not None:
            raise InputError("A manifest says itself what was asked for; leave --testset out.")
        return cases.chosen(cases.of_manifest(settings.videos), settings.ids)
    if settings.testset is None:
        raise InputError(
            f"Give --testset DIR, or a manifest {MANIFEST} in place of {settings.videos}."
        )
    named = None
    if (layout := settings.layout) is not None:
        named = lambda ids: baselines.names(layout, settings.videos, ids)
    found = cases.of_testset(settings.videos, settings.testset, named)
    return cases.chosen(found, settings.ids)


def _clips(
    found: Cases,
    mine: Sequence[str],
    metrics: Sequence[Metric],
    out: str,
    settings: Settings,
    say: Say,
) -> None:
    """This process's clips, one at a time on each of its devices."""
    free: queue.Queue[Any] = queue.Queue()
    for device in _devices():
        free.put((device, Networks(settings.weights)))

    def one(number: int) -> None:
        taken = free.get()
        try:
            device, networks = taken
            with jax.default_device(device):
                told = clip(found.of(mine[number]), metrics, out, networks)
            say(f"{number + 1} of {len(mine)}, {mine[number]}: {told}")
        finally:
            free.put(taken)

    with ThreadPoolExecutor(free.qsize()) as pool, health.watched(len(mine)) as watched:
        jobs = [pool.submit(one, number) for number in range(len(mine))]
        try:
            for done, job in enumerate(jobs, 1):
                job.result()
                watched(done)
        finally:
            pool.shutdown(cancel_futures=True)


def _devices() -> list[Any]:
    """Those of this process; of a CPU's one, for its cores are shared anyway."""
    devices = jax.local_devices()
    return devices[:1] if devices[0].platform == "cpu" else devices


def clip(case: Case, metrics: Sequence[Metric], out: str, networks: Networks) -> str:
    """Compute what is missing of a clip, and keep each result as it comes; says what was done.

    Raises:
        InputError: weights that are damaged.
    """
    row = summary.read_row(out, case.id) or Row(id=case.id, video=case.video)
    row = replace(row, video=case.video)
    if not storage.is_file(case.video):
        return _lost(row, metrics, out, f"needs the video {Path(case.video).name}")
    content = hashlib.sha256(storage.read_bytes(case.video)).hexdigest()
    computed, kept = [], 0
    with local(case.video) as file:
        case.video = file
        for metric in metrics:
            try:
                weights = networks.fingerprint(metric.network)
            except NotComputedError as why:
                row = _told(row, metric.name, None, str(why), None)
                continue
            key = accumulator.fingerprint(
                content, case.known.digest, metric.name, str(metric.version), weights
            )
            if row.keys.get(metric.name) == key and _there(row, metric, out):
                kept += 1
                continue
            try:
                row = _measured(row, metric, case, networks, out, key)
            except DecodeError as why:
                return _lost(row, metrics, out, f"needs a whole video: {why}")
            computed.append(metric.name)
            summary.write_row(out, row)
    summary.write_row(out, row)
    return f"{', '.join(computed) or 'nothing new'}{f' ({kept} kept)' if kept else ''}"


def _measured(row: Row, metric: Metric, case: Case, networks: Networks, out: str, key: str) -> Row:
    try:
        network = networks(metric.network)
        if isinstance(metric, SetMetric):
            features = metric.features(case, network)
            summary.write_features(out, metric.name, case.id, features)
            return _told(row, metric.name, None, "", key)
        assert isinstance(metric, ClipMetric)
        value = float(metric.measure(case, network))
    except NotComputedError as why:
        return _told(row, metric.name, None, str(why), key)
    if not math.isfinite(value):
        return _told(
            row, metric.name, None, f"needs a video of which it is finite, not {value}", key
        )
    return _told(row, metric.name, value, "", key)


def _told(row: Row, name: str, value: float | None, why: str, key: str | None) -> Row:
    """With the result of a metric."""
    keys = {k: v for k, v in row.keys.items() if k != name}
    reasons = {k: v for k, v in row.why.items() if k != name}
    return replace(
        row,
        values={**row.values, name: value},
        why={**reasons, name: why} if why else reasons,
        keys={**keys, name: key} if key else keys,
    )


def _there(row: Row, metric: Metric, out: str) -> bool:
    """Whether the kept result is whole."""
    if metric.name in row.why or not isinstance(metric, SetMetric):
        return True
    return summary.has_features(out, metric.name, row.id)


def _lost(row: Row, metrics: Sequence[Metric], out: str, why: str) -> str:
    """Nothing can be measured on this video."""
    names = [metric.name for metric in metrics]
    lost = replace(row, values=dict.fromkeys(names), why=dict.fromkeys(names, why), keys={})
    summary.write_row(out, lost)
    return why


def summed(found: Cases, metrics: Sequence[Metric], out: str, settings: Settings) -> Summary:
    """The summary of what is kept of all clips.

    Raises:
        InputError: a clip's file is not there, or there is no video at all.
    """
    rows: dict[str, Row] = {}
    for name in found.ids:
        row = summary.read_row(out, name)
        if row is None:
            raise InputError(
                f"There is no result of clip {name} in {out}; give an --out that all processes see."
            )
        rows[name] = row
    missing = {name: why for name, row in rows.items() if (why := _no_video(row, metrics))}
    if len(missing) == len(rows):
        name = next(iter(missing))
        raise InputError(
            f"None of the test set's {len(rows)} clips has a video in {settings.videos}: {name} "
            f"{missing[name]}."
        )
    whole = Summary(
        name=settings.name or _folder_name(settings.videos),
        testset=found.testset,
        metrics={},
        clips=found.ids,
        missing=missing,
        rows=rows,
        folder=out,
    )
    return replace(whole, metrics={m.name: _found(m, whole, settings.seed) for m in metrics})


def _folder_name(videos: str) -> str:
    path = Path(videos)
    return (path.stem if videos.endswith(MANIFEST) else path.resolve().name) or "run"


def _no_video(row: Row, metrics: Sequence[Metric]) -> str:
    reasons = {row.why.get(metric.name, "") for metric in metrics}
    if row.keys or len(reasons) != 1:
        return ""
    only = reasons.pop()
    return only if only.startswith(("needs the video", "needs a whole video")) else ""


def _found(metric: Metric, whole: Summary, seed: int) -> Found:
    kept = gathered(metric, whole)
    if kept.results:
        return Found.of(metric, kept.estimate(seed))
    return Found.of(metric, Estimate(value=None, why=_reason(metric.name, whole.rows)))


def gathered(metric: Metric, whole: Summary) -> Accumulator:
    """All results of a metric in a run."""
    if isinstance(metric, SetMetric):
        return accumulator.of(metric, whole.features(metric.name))
    return accumulator.of(metric, whole.values(metric.name))


def _reason(name: str, rows: Mapping[str, Row]) -> str:
    """What most clips say is needed."""
    reasons = [why for row in rows.values() if (why := row.why.get(name))]
    return max(sorted(set(reasons)), key=reasons.count, default="needs a video")


def lines(made: Summary) -> Iterator[str]:
    """The summary in words, a line a metric, and a line a warning."""
    warned: dict[str, list[str]] = {}
    for name, found in made.metrics.items():
        e = found.estimate
        if e.value is None:
            yield f"{name:20} not computed: {e.why}"
            continue
        spread = "" if e.low is None else f" [{e.low:.4g}, {e.high:.4g}]"
        better = {"higher": " ↑", "lower": " ↓", None: ""}[found.better]
        more = f", {e.samples} {found.samples}" if found.samples != "clips" else ""
        if e.warning:
            warned.setdefault(e.warning, []).append(name)
        yield f"{name:20}{better:2} {e.value:.4g}{spread} of {e.count} clips{more}"
    for warning, names in warned.items():
        yield f"{', '.join(names)}: {warning}"
