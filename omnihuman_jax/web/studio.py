"""What a click does: check the form, wait in line, make the video, tell how far it is. Knows no Gradio."""

import dataclasses
import functools
import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from omnihuman_jax import media
from omnihuman_jax.errors import InputError
from omnihuman_jax.inference import results, segments
from omnihuman_jax.inference.generator import Generator, Request
from omnihuman_jax.inference.request import prepare
from omnihuman_jax.models.wav2vec2 import SAMPLE_RATE
from omnihuman_jax.web import form
from omnihuman_jax.web.form import Form
from omnihuman_jax.web.limits import Limits
from omnihuman_jax.web.shelf import Shelf

LEFT = 60.0  # seconds after which a page that does not ask any more counts as closed
PARTS = {"crf": "23", "preset": "ultrafast"}  # of libx264, for previews
log = logging.getLogger(__name__)


class StopRequested(Exception):
    """Somebody pressed Stop, closed the page, or is stopping the server."""


@dataclass(frozen=True)
class Phase:
    """How far a phase is.

    Attributes:
        spent: seconds in it so far.
        first: what was done at its first report of progress, and the seconds until then. They
            include compiling, so they tell nothing of the rest.
    """

    done: int
    total: int
    spent: float = 0.0
    first: tuple[int, float] | None = None

    def now(self, done: int, total: int, seconds: float) -> "Phase":
        """The phase, `seconds` later."""
        spent = self.spent + seconds
        first = (done, spent) if self.first is None and done else self.first
        return Phase(done, total, spent, first)

    @property
    def left(self) -> float | None:
        """Seconds to go at the speed since the first report; None until there is a second."""
        if self.first is None or self.done <= self.first[0]:
            return None
        speed = (self.spent - self.first[1]) / (self.done - self.first[0])
        return speed * (self.total - self.done)


@dataclass(eq=False)
class Job:
    """A video that is waited for, being made, or made.

    Attributes:
        name: the id of the request on the shelf.
        notes: what to know before looking at it.
        settings: everything that makes it.
        command: the command line that makes the same.
        part: the newest part to look at, and from which to which second.
        spent: seconds that it took.
    """

    name: str
    notes: list[str]
    settings: dict[str, Any]
    command: str
    future: Future[Path] = field(default_factory=Future)
    phases: dict[str, Phase] = field(default_factory=dict)
    part: tuple[Path, float, float] | None = None
    spent: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)
    looked: float = field(default_factory=time.monotonic)
    _at: float = 0.0
    _phase: str = ""

    @property
    def done(self) -> bool:
        return self.future.done()

    @property
    def stopped(self) -> bool:
        """Whether it ended because it was to end."""
        return self.done and (
            self.future.cancelled() or isinstance(self.future.exception(), StopRequested)
        )

    def said(self) -> str:
        """One line on a video that is made."""
        made = self.settings
        return (
            f"{made['frames']} frames of {made['height']}x{made['width']}, {made['seconds']:g} s, "
            f"made in {max(1, round(self.spent))} s."
        )

    def report(self, phase: str, done: int, total: int) -> None:
        """What the generator tells; raises StopRequested if nobody wants the rest."""
        now = time.monotonic()
        seconds = now - self._at if phase == self._phase else 0.0
        before = self.phases.get(phase, Phase(0, total))
        self.phases = self.phases | {phase: before.now(done, total, seconds)}
        self._phase, self._at = phase, now
        self.go_on()

    def go_on(self) -> None:
        """Nothing, if somebody still waits for this.

        Raises:
            StopRequested: nobody does.
        """
        if self.stop.is_set() or time.monotonic() - self.looked > LEFT:
            raise StopRequested


class Studio:
    """Makes one video at a time; the others wait in line.

        studio = Studio("mini", mini(), Generator(mini(), kept={}), Limits(), Shelf(folder))
        job = studio.submit(Form(text="a cat"))
        job.future.result()  # the path of the video

    Whoever waits for a job says so now and then with `look`; a job that nobody waits for ends.
    """

    def __init__(self, name: str, generator: Generator, limits: Limits, shelf: Shelf) -> None:
        self.name, self.model, self.limits, self.shelf = name, generator.model, limits, shelf
        self._generator = generator
        self._line: list[Job] = []
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, "omnihuman-studio")

    def example(self) -> tuple[str, str]:
        """Names of the example picture and sound that suit the model."""
        return self.model.manifest.sampling.get("example", "portrait.jpg"), "speech.flac"

    def submit(self, filled: Form) -> Job:
        """Put a form in line.

        Raises:
            InputError: the line is full, or the form or a file cannot work; in the words of the page.
        """
        self._room()
        try:
            for path in filled.files().values():
                self.limits.check_file(path)
            self.limits.check_inputs(filled.reference, filled.audio)
            given, extra = filled, []
            if filled.empty:
                reference, audio = map(self.shelf.example, self.example())
                given, extra = (
                    dataclasses.replace(filled, reference=reference, audio=audio),
                    [NOTHING],
                )
            request = prepare(given.wish(), self.model)
            self.limits.check(request)
            self._generator.check(request)
        except InputError as why:
            raise InputError(form.told(why, filled.files())) from why
        name, kept = self.shelf.put(given)
        job = Job(
            name=name,
            notes=[*extra, *results.notes(self.model, request)],
            settings=given.settings(self.name, self.model, request),
            command=filled.command(self.name),
        )
        with self._lock:
            try:
                self._room_now()
            except InputError:
                self.shelf.forget(name)
                raise
            job.future = self._worker.submit(self._make, job, kept)
            self._line.append(job)
        job.future.add_done_callback(functools.partial(self._ended, job))
        return job

    def look(self, job: Job) -> int:
        """Say that somebody waits for it; how many are before it in line."""
        job.looked = time.monotonic()
        with self._lock:
            return self._line.index(job) if job in self._line else 0

    def stop(self, name: str) -> None:
        """End a job at its next step, or take it out of the line. Nothing if there is none."""
        with self._lock:
            found = [job for job in self._line if job.name == name]
        for job in found:
            job.stop.set()
            job.future.cancel()

    def sweep(self) -> None:
        """Delete what is older than the limits say, but nothing that is waited for."""
        with self._lock:
            waited = {job.name for job in self._line}
        self.shelf.sweep(self.limits.hours, waited)

    def close(self, patience: float = 10.0) -> bool:
        """End all jobs; whether the running one did so in `patience` seconds."""
        with self._lock:
            line = list(self._line)
        for job in line:
            self.stop(job.name)
        self._worker.shutdown(wait=False, cancel_futures=True)
        until = time.monotonic() + patience
        while not all(job.done for job in line) and time.monotonic() < until:
            time.sleep(0.05)
        return all(job.done for job in line)

    def failure(self, job: Job) -> str | None:
        """What went wrong with a job that is done, for its visitor; None if nothing did."""
        if job.stopped:
            return "Stopped."
        if (why := job.future.exception()) is None:
            return None
        if isinstance(why, InputError):
            why = InputError(form.told(why, self.shelf.get(job.name).files()))
        return self.told(why)

    def told(self, why: BaseException) -> str:
        """An error as a visitor is told of it; what is not his fault goes to the log in full."""
        if isinstance(why, InputError):
            return str(why)
        log.error("The page failed", exc_info=why)
        return f"The server failed ({type(why).__name__}); its log says more."

    def _make(self, job: Job, filled: Form) -> Path:
        job.go_on()
        began = time.monotonic()
        request = prepare(filled.wish(), self.model)  # again: a line of decoded sounds is large
        out = self.shelf.video(job.name)
        generate = lambda: self._parts(job, request, self._generator(request, job.report))
        results.write(generate, request, str(out))
        out.with_suffix(".json").write_text(json.dumps(job.settings, indent=1))
        job.spent = time.monotonic() - began
        return out

    def _parts(
        self, job: Job, request: Request, frames: Iterator[np.ndarray]
    ) -> Iterator[np.ndarray]:
        """The frames as they come; every segment but the last becomes a part to look at meanwhile."""
        clip, total = request.grid.frames, request.frames or request.grid.frames
        ends = iter([first + clip for first in segments.starts(total, clip)])
        end, begun, made = next(ends), 0, 0
        gathered: list[np.ndarray] = []
        for piece in frames:
            job.go_on()
            yield piece
            gathered.append(piece)
            made += len(piece)
            if end <= made < total:
                self._show(job, request, np.concatenate(gathered), begun)
                gathered, begun, end = [], made, next(ends)

    def _show(self, job: Job, request: Request, frames: np.ndarray, begun: int) -> None:
        path = self.shelf.preview(job.name, begun)
        start, stop = begun / request.fps, (begun + len(frames)) / request.fps
        sound = request.audio
        if sound is not None:
            sound = sound[round(start * SAMPLE_RATE) : round(stop * SAMPLE_RATE)]
        with media.VideoWriter(
            path,
            height=request.grid.height,
            width=request.grid.width,
            fps=request.fps,
            sound=sound,
            encoding=PARTS,
        ) as video:
            video.append(frames)
        job.part = path, start, stop

    def _room(self) -> None:
        with self._lock:
            self._room_now()

    def _room_now(self) -> None:
        if len(self._line) > self.limits.queue:
            raise InputError(
                f"The line is full: {len(self._line) - 1} videos wait for the one being made. "
                "Try again in a few minutes."
            )

    def _ended(self, job: Job, future: Future[Path]) -> None:
        with self._lock:
            if job in self._line:
                self._line.remove(job)
        for part in self.shelf.video(job.name).parent.glob("part-*.mp4"):
            part.unlink(missing_ok=True)


NOTHING = "Nothing was given: the built-in picture and speech are used."
