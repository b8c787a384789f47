"""The only place that watches a training run: averages, speed, goodput, memory, samples, the progress line.

The numbers of a step are read when the next one has been given to the device, so that reading never lets
it wait: `Report.step` returns while the step it was told of is still being computed.
"""

import contextlib
import secrets
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float64

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError
from omnihuman_jax.media import ContactSheet, VideoWriter
from omnihuman_jax.training.flops import peak
from omnihuman_jax.training.goodput import KINDS, Ledger, Lives, share
from omnihuman_jax.training.progress import Progress
from omnihuman_jax.training.task import Cost, Sample, Tallies
from omnihuman_jax.training.trackers import (
    RECORD,
    Place,
    Record,
    TensorBoard,
    Tracker,
    Wandb,
    one_line,
)

LIVES, ID = "goodput.json", "wandb-id.txt"
GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is shown of a run, and how often.

    Attributes:
        every: steps that one report sums up.
        wandb: "offline" keeps a run below the workdir and makes no network access (`wandb sync` sends it),
            "online" sends it at once.
        project: of wandb.
        tensorboard: whether to write event files for TensorBoard.
        profile: first step and number of steps of a `jax.profiler` trace, below WORKDIR/profile.
        sample_every: steps between two sample videos; 0 for none.
        trial_every: steps between two evaluations of the model as it is (task.trial); 0 for none.
    """

    every: int = 10
    wandb: Literal["offline", "online", "off"] = "offline"
    project: str = "omnihuman"
    tensorboard: bool = True
    profile: tuple[int, ...] | None = None
    sample_every: int = 0
    trial_every: int = 0

    def __post_init__(self) -> None:
        if self.every < 1 or min(self.sample_every, self.trial_every) < 0:
            raise InputError(
                "watch.every is at least 1, watch.sample_every and watch.trial_every at least 0, got "
                f"{self.every}, {self.sample_every} and {self.trial_every}."
            )
        if self.wandb not in ("offline", "online", "off"):
            raise InputError(f"watch.wandb is offline, online or off, got {self.wandb!r}.")
        if self.profile is not None and (len(self.profile) != 2 or min(self.profile) < 1):
            raise InputError(
                "watch.profile is the first step, counted from 1, and the number of steps, such as "
                f"20,3; got {self.profile}."
            )


@dataclass
class _Given:
    """A step that the device has been given."""

    step: int
    tallies: Tallies
    cost: Cost
    extra: Mapping[str, float]
    since: float
    done: float | None = None


@dataclass
class _Interval:
    """What has been read since the last report."""

    sums: dict[str, Float64[np.ndarray, "2"]] = field(default_factory=dict)
    paces: list[float] = field(default_factory=list)
    steps: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # the ledger's, when it began


class Report:
    """Watches one life of a run: from a restart, or the beginning, to the end.

    On other hosts than the first nothing is written; they only keep the same pace. Used from one thread.
    """

    def __init__(
        self,
        folder: str,
        watch: Watch,
        *,
        name: str,
        config: Mapping[str, Any],
        run_id: str = "",
        resumed_at: int | None = None,
        total: int | None = None,
        began: float | None = None,
    ) -> None:
        """`folder`: the workdir, local or gs://. `config`: JSON. `resumed_at`: the last step that is kept.

        `run_id` is wandb's, which is the same in every life of a run and never that of another run; left
        out, one is made and kept in the workdir. `total`: steps of the whole run, for the time to go.
        `began`: `time.perf_counter()` when this life began, if that was before this call.

        Raises:
            InputError: wandb or tensorboardX is asked for and not there; no access to the workdir.
        """
        self.watch, self.total = watch, total
        self.last: dict[str, Any] = {}  # the last report
        self._at = resumed_at or 0
        self._writes = jax.process_index() == 0
        self.progress = Progress(total, self._at, name, shown=self._writes)
        self._ledger, self._interval = Ledger(began), _Interval()
        self._pending: _Given | None = None
        self._last: _Given | None = None  # that was read
        self._scores: dict[str, float] = {}
        self._profiling = self._closed = False
        self._trackers: list[Tracker] = []
        device = jax.local_devices()[0]
        self._devices, self._peak = jax.device_count(), peak(device.device_kind)
        if self._writes:
            self._begin(folder, name, config, run_id)
        self._watched: SimpleQueue[_Given | None] = SimpleQueue()
        self._watcher = threading.Thread(
            target=_note_ends, args=(self._watched, self._ledger.clock)
        )
        self._watcher.daemon = True
        self._watcher.start()
        self._profile()

    def _begin(self, folder: str, name: str, config: Mapping[str, Any], run_id: str) -> None:
        self._place = Place(folder, [RECORD, LIVES, ID], self.message)
        local = self._place.folder
        self._record = Record(local, self._at)
        redone = sum(told.get("seconds/step", 0.0) for told in self._record.dropped)
        lives = local / LIVES
        self._lives = Lives(lives.read_bytes() if lives.exists() else None, redone)
        if self.watch.wandb != "off":
            wandb = Wandb(
                local,
                self.watch.wandb,
                project=self.watch.project,
                name=name,
                run_id=run_id or _kept_id(local / ID),
                config=config,
            )
            self._trackers.append(wandb)
            if wandb.address:
                self.message(f"The run is shown at {wandb.address}")
        if self.watch.tensorboard:
            self._trackers.append(TensorBoard(local, config, self._at))

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """What the host does in the block, for goodput: "compile", "data", "save", "restore", "sample".

        Raises:
            InputError: a kind that does not exist.
        """
        if kind not in KINDS:
            raise InputError(f"Time is spent on one of {', '.join(KINDS)}, not {kind!r}.")
        with self._ledger.spent(kind):
            yield

    def step(
        self, step: int, tallies: Tallies, cost: Cost, extra: Mapping[str, float] | None = None
    ) -> None:
        """Step number `step` (from 1) was given to the device; returns at once.

        Waits for the step before, whose numbers it reads: the host is never more than a step ahead.

        Args:
            tallies: sums and counts, the same on every host.
            cost: of the batch, that of all hosts.
            extra: numbers that the host knows, the learning rate for instance; the last ones are shown.
        """
        given = _Given(step, tallies, cost, dict(extra or {}), self._ledger.given())
        for value in tallies.values():
            value.copy_to_host_async()
        self._watched.put(given)
        before, self._pending = self._pending, given
        if before is not None:
            self._read(before)
        self._at = step
        self._profile()

    def sample(self, step: int, sample: Sample) -> None:
        """Write samples/step-00001000.mp4 and its contact sheet, and report the scores."""
        if not self._writes:
            return
        with self._ledger.spent("sample"):
            self._settle()
            video = self._place.folder / "samples" / f"step-{step:08}.mp4"
            sheet = video.with_suffix(".png")
            video.parent.mkdir(exist_ok=True)
            _write_sample(sample, video, sheet)
            self._scores = {name: float(value) for name, value in sample.scores.items()}
            scores = {f"sample/{name}": value for name, value in self._scores.items()}
            self._record.write({"step": step, "sample": f"samples/{video.name}", **scores})
            self._tell(lambda tracker: tracker.sample(step, video, sheet, scores))

    def trial(self, step: int, folder: str, found: Mapping[str, float]) -> None:
        """Report metrics of the model as it is; its videos and their evaluation are in `folder`."""
        if not self._writes:
            return
        self._settle()
        numbers = {f"trial/{name}": float(value) for name, value in found.items()}
        self._record.write({"step": step, "trial": folder, **numbers})
        self._tell(lambda tracker: tracker.log(step, numbers))

    def message(self, line: str) -> None:
        """A line above the progress line."""
        self.progress.message(line)

    def close(self) -> None:
        """Report the steps that are left and put everything away. More calls do nothing.

        Raises:
            ConnectionError, InputError: the record could not be copied to gs://.
        """
        if self._closed:
            return
        self._closed = True
        try:
            # After an error of the device the last step may never end, and nobody waits who is in haste.
            if not isinstance(sys.exception(), jax.errors.JaxRuntimeError | KeyboardInterrupt):
                self._settle()
            self._watched.put(None)
            self._stop_profile()
            if self._writes:
                self._ledger.close()
                if self._last is not None and self._interval.steps:
                    self._report(self._last)
                self._write_lives()
                self._tell(lambda tracker: tracker.close())
                self._record.close()
                self._place.close()
        finally:
            self.progress.close()

    def _settle(self) -> None:
        """Read the last step now."""
        before, self._pending = self._pending, None
        if before is not None:
            self._read(before)

    def _read(self, given: _Given) -> None:
        """Add the numbers of a step to the interval, and report it if it is whole."""
        numbers = jax.device_get(given.tallies)
        done = self._ledger.clock() if given.done is None else given.done
        pace = self._ledger.step(given.since, done)
        if not self._writes:
            return
        interval = self._interval
        interval.steps += 1
        if pace is not None:
            interval.paces.append(pace)
        for name, value in numbers.items():
            interval.sums.setdefault(name, np.zeros(2))
            interval.sums[name] += value
        self._last = given
        self.progress.step(given.step)
        if given.step % self.watch.every == 0:
            self._report(given)

    def _report(self, given: _Given) -> None:
        interval, seconds = self._interval, dict(self._ledger.seconds)
        self._interval = _Interval(seconds=seconds)
        pace = statistics.median(interval.paces) if interval.paces else None
        means = _means(interval.sums)
        spent = {kind: s - interval.seconds.get(kind, 0.0) for kind, s in seconds.items()}
        numbers: dict[str, float | None] = {
            **means,
            **given.extra,
            **(self._speed(pace, given.cost) if pace else {}),
            "goodput": share(spent),
            "goodput_life": share(self._lives.seconds(seconds)),
            **_memory(),
            **{f"seconds/{kind}": s for kind, s in spent.items() if s},
        }
        told = {name: float(value) for name, value in numbers.items() if value is not None}
        step = given.step
        self.last = {"step": step, "steps": interval.steps, "time": time.time(), **told}
        self._record.write(self.last)
        self._write_lives()
        self._tell(lambda tracker: tracker.log(step, told))
        self.progress.report(step, told | self._scores, pace)
        if bad := sorted(name for name, mean in means.items() if not np.isfinite(mean)):
            self.message(f"Step {step}: not finite since the last report: {', '.join(bad)}.")

    def _speed(self, pace: float, cost: Cost) -> dict[str, float | None]:
        """By the time from step to step, waiting for data and all, but not what happens now and then."""
        each = cost.flops / pace / self._devices
        return {
            "step_ms": 1e3 * pace,
            "samples_per_s": cost.samples / pace,
            "tokens_per_s": cost.tokens / pace,
            "tflops_per_device": each / 1e12 if each else None,
            "mfu": each / self._peak if each and self._peak else None,
        }

    def _write_lives(self) -> None:
        told = self._lives.dump(self._ledger.seconds)
        storage.write_bytes(str(self._place.folder / LIVES), told)

    def _tell(self, do: Any) -> None:
        """Whoever fails is left out from then on: training does not end because nobody looks at it."""
        for tracker in list(self._trackers):
            try:
                do(tracker)
            except OSError as why:
                self._trackers.remove(tracker)
                who = type(tracker).__name__
                self.message(f"{who} has stopped; {RECORD} goes on: {one_line(why)}")

    def _profile(self) -> None:
        """Begin or end the trace between two steps."""
        if self.watch.profile is None or not self._writes:
            return
        first, count = self.watch.profile
        if self._at + 1 == first:
            self._settle()  # so that the trace has whole steps
            jax.profiler.start_trace(str(self._place.folder / "profile"))
            self._profiling = True
        elif self._at + 1 == first + count:
            self._settle()
            self._stop_profile()

    def _stop_profile(self) -> None:
        if self._profiling:
            jax.profiler.stop_trace()
            self._profiling = False
            self.message(f"The profile is in {self._place.workdir}/profile.")


def _note_ends(given: "SimpleQueue[_Given | None]", clock: Any) -> None:
    """In a thread: note when the device has done each step, while the host does other things."""
    while (one := given.get()) is not None:
        try:
            jax.block_until_ready(one.tallies)
        except jax.errors.JaxRuntimeError:
            return  # whoever reads the numbers meets it too
        one.done = clock()


def _means(sums: Mapping[str, Float64[np.ndarray, "2"]]) -> dict[str, float]:
    """Sum over count; nothing where nobody was counted. What is not finite stays so: never left out."""
    means = {}
    for name, (total, count) in sorted(sums.items()):
        if count != 0:
            means[name] = float(total / count)
        elif not np.isfinite(total):
            means[name] = float("nan")
    return means


def _memory() -> dict[str, float]:
    """Of this host's fullest device, its peak; of this process, now. In GB."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
    found = {"device_peak_gb": max(peaks) / GB} if peaks else {}
    pages = Path("/proc/self/statm")
    if pages.exists():  # on Linux
        found["host_gb"] = int(pages.read_text().split()[1]) * 4096 / GB
    return found


def _write_sample(sample: Sample, video: Path, sheet: Path) -> None:
    frames = np.asarray(sample.frames)
    sound = None if sample.sound is None else np.asarray(sample.sound, np.float32)
    count, height, width, _ = frames.shape
    with VideoWriter(video, height=height, width=width, fps=sample.fps, sound=sound) as out:
        out.append(frames)
    shown = ContactSheet(count, sample.fps)
    for index in shown.shown:
        shown.add(index, frames[index])
    shown.save(sheet)


def _kept_id(path: Path) -> str:
    """The id of this run: that of its first life."""
    if not path.exists():
        storage.write_bytes(str(path), secrets.token_hex(4).encode())
    return path.read_text()
