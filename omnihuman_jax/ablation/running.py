"""The only place that runs the commands of a study: side by side, each once, on from where it was stopped.

A command that has made what it makes is not run again. Whoever kills this process, or the machine, loses
what the commands under way lose: a training its updates since the last checkpoint, a video.
"""

import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from omnihuman_jax.errors import InputError

LOGS, LOCK = "logs", ".lock"
PAUSE = 0.05  # seconds between two looks at what is running
VISIBLE = ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS")

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command of a study.

    Attributes:
        name: "train audio-10"; also names its log.
        kind: "first", "train", "generate" or "evaluate".
        point: its label; "" for what all points share.
        command: words, the first "omnihuman" or "python".
        makes: files that are there when it is done.
        after: names of jobs that come before it.
        amount: how much work it is, in `unit`; None where that is not known yet.
    """

    name: str
    kind: str
    point: str
    command: tuple[str, ...]
    makes: tuple[Path, ...]
    after: tuple[str, ...] = ()
    amount: int | None = None
    unit: str = ""

    @property
    def done(self) -> bool:
        """Whether all that it makes is there."""
        return all(path.is_file() for path in self.makes)

    @property
    def line(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.command)


@dataclass(frozen=True)
class Outcome:
    """How a call of `run` ended.

    Attributes:
        ran: names of jobs that were finished in this call.
        failed: of those that failed → the last line of their log.
        waiting: of those that wait for a failed one.
        stopped: whether a signal ended it.
    """

    ran: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()
    stopped: bool = False


def run(
    jobs: Sequence[Job],
    workdir: Path,
    *,
    side_by_side: int = 1,
    devices: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
    say: Say = print,
) -> Outcome:
    """Run what is not done, `side_by_side` at a time.

    Args:
        devices: numbers of accelerators that are shared out among them; none: all see all.
        about: of a job by name, what decided its result beside its command, as JSON.

    Raises:
        InputError: something else works in `workdir`, or a job was begun there by another command.
    """
    shares = shared(devices, side_by_side)
    (workdir / LOGS).mkdir(parents=True, exist_ok=True)
    with _alone(workdir) as lock, _Signals() as signals:
        for job in jobs:
            _check(job, workdir, (about or {}).get(job.name))
        return _Work(jobs, workdir, shares, about or {}, lock, signals, say)()


def shared(devices: Sequence[str], parts: int) -> list[tuple[str, ...]]:
    """Devices of each of the commands that run at a time, equally many.

    Raises:
        InputError: they cannot be shared out so.
    """
    if parts < 1:
        raise InputError(f"At least 1 command runs at a time, got --jobs {parts}.")
    if devices and (len(devices) % parts or len(set(devices)) < len(devices)):
        raise InputError(
            f"--devices are different numbers that --jobs shares out equally; got {len(devices)} for "
            f"{parts}."
        )
    each = len(devices) // parts
    return [tuple(devices[i * each : (i + 1) * each]) for i in range(parts)]


class _Work:
    """One call of `run`."""

    def __init__(
        self,
        jobs: Sequence[Job],
        workdir: Path,
        shares: list[tuple[str, ...]],
        about: Mapping[str, Any],
        lock: int,
        signals: "_Signals",
        say: Say,
    ) -> None:
        self.workdir, self.about, self.lock, self.signals = workdir, about, lock, signals
        self.say = say
        self.free = list(enumerate(shares))
        self.done = {job.name for job in jobs if job.done and not _begun(workdir, job).is_file()}
        self.left = [job for job in jobs if job.name not in self.done]
        self.total = len(self.left)
        self.ran: list[str] = []
        self.failed: dict[str, str] = {}
        self.running: list[tuple[Job, subprocess.Popen[bytes], Any, float]] = []

    def __call__(self) -> Outcome:
        try:
            while self.running or (not self.signals.asked and self._start()):
                self._look()
                if self.signals.asked:
                    self._end()
                else:
                    self._start()
                time.sleep(PAUSE)
        finally:
            self._end()
            for _, process, _, _ in self.running:
                process.wait()
        waiting = tuple(job.name for job in self.left)
        return Outcome(tuple(self.ran), self.failed, waiting, self.signals.asked)

    def _start(self) -> bool:
        """Begin as many as have what they wait for; whether any runs now."""
        ready = [job for job in self.left if self.done.issuperset(job.after)]
        for job, slot in zip(ready, list(self.free), strict=False):
            self.left.remove(job)
            self.free.remove(slot)
            self._note(job)
            with _log(self.workdir, job).open("ab") as log:
                process = subprocess.Popen(
                    real(job.command),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env=_environment(slot[1]),
                    pass_fds=(self.lock,),  # kept by whoever outlives us
                )
            self.say(f"{job.name}: begins")
            self.running.append((job, process, slot, time.monotonic()))
        return bool(self.running)

    def _look(self) -> None:
        """Take leave of those that have ended."""
        for entry in list(self.running):
            job, process, slot, began = entry
            code = process.poll()
            if code is None:
                continue
            self.running.remove(entry)
            self.free.append(slot)
            self.free.sort()
            spent = f"{time.monotonic() - began:.0f} s"
            if code == 0 and job.done:
                _begun(self.workdir, job).unlink()
                self.done.add(job.name)
                self.ran.append(job.name)
                self.say(f"{job.name}: done, {spent} ({len(self.ran)} of {self.total})")
            elif self.signals.asked:
                self.left.append(job)
                self.say(f"{job.name}: stopped")
            else:
                self.failed[job.name] = _last(_log(self.workdir, job)) or f"exit code {code}"
                self.say(f"{job.name}: failed, {spent}: {self.failed[job.name]}")

    def _end(self) -> None:
        for _, process, _, _ in self.running:
            if process.poll() is None:
                process.terminate()

    def _note(self, job: Job) -> None:
        """What it is begun by, so that nobody goes on with it by anything else."""
        path = _record(self.workdir, job)
        if not path.is_file():
            part = path.with_suffix(".part")
            part.write_text(json.dumps(_made_by(job, self.about.get(job.name)), indent=1))
            part.replace(path)
        _begun(self.workdir, job).touch()


def real(command: Sequence[str]) -> list[str]:
    """The command with this Python and this package, wherever a shell would find others."""
    first, *rest = command
    if first == "omnihuman":
        return [sys.executable, "-m", "omnihuman_jax", *rest]
    return [sys.executable, *rest] if first == "python" else [*command]


def _made_by(job: Job, about: Any) -> Any:
    return json.loads(json.dumps({"command": job.command, "about": about}))


def _check(job: Job, workdir: Path, about: Any) -> None:
    """Refuse to go on with what was begun by another command or other settings."""
    path = _record(workdir, job)
    if job.kind == "first" or not path.is_file():
        return
    try:
        before = json.loads(path.read_bytes())
    except ValueError as why:
        raise InputError(f"{path} is damaged; delete it, and what it is about: {why}.") from why
    now = _made_by(job, about)
    if before != now:
        part = "command" if before.get("command") != now["command"] else "config"
        raise InputError(
            f"{job.name} was begun in {workdir} with another {part} (see {path}); take another --workdir, "
            f"or delete {workdir / job.point} and that file."
        )


def _record(workdir: Path, job: Job) -> Path:
    return workdir / LOGS / f"{job.name.replace(' ', '_')}.json"


def _begun(workdir: Path, job: Job) -> Path:
    """There from the beginning of a command to its good end: what it makes may be half made."""
    return workdir / LOGS / f"{job.name.replace(' ', '_')}.begun"


def _log(workdir: Path, job: Job) -> Path:
    return workdir / LOGS / f"{job.name.replace(' ', '_')}.log"


def _last(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _environment(devices: Sequence[str]) -> dict[str, str]:
    shown = {name: ",".join(devices) for name in VISIBLE} if devices else {}
    return {**os.environ, **shown}


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[int]:
    """A lock on the folder that this process and all its commands hold, until the last of them ends.

    Raises:
        InputError: somebody else holds it.
    """
    file = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"Another `ablate`, or a command that it began, is at work in {workdir}; wait for its end."
            ) from None
        yield file
    finally:
        os.close(file)


class _Signals:
    """Whether somebody wants us to stop: SIGTERM or SIGINT."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
