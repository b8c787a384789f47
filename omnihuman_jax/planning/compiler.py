"""The only place that asks the TPU compiler for a plan: in a process of its own, ended when it has told all.

What memory a program needs and in which order it runs is known long before there is machine code, which
takes most of the time (a 14B step: half a minute against ten). So the compiler is told to write down what
it has after each of its stages, and is stopped when the stage that lays out memory is written.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omnihuman_jax.ahead import NO_CHIPS
from omnihuman_jax.errors import InputError, StoppedError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.planning import reading
from omnihuman_jax.planning.reading import Kernel, Reading, Sent, Work

NAME = "planned"  # the function that is compiled; its files are told by it
DONE = f"*jit_{NAME}*after_optimizations_after_buffer_assignment.txt"
REPORT = f"*jit_{NAME}*memory-usage-report.txt"
PAUSE = 0.2  # seconds between two looks
_TOTAL = re.compile(r"^Total bytes: (\d+)", re.M)
_ROW = re.compile(r"^ *[\d.]+\w+\( *\d+%\); +([\d.]+)(\w+); +\d+; +\d+; (.*)$", re.M)
_ROOM = re.compile(r"(?:available HBM|Used [\d.]+[KMGT] of) *\(?([\d.]+)([KMGT])")
_UNITS = {letter: 1024**power for power, letter in enumerate("BKMGT")}


@dataclass(frozen=True)
class Job:
    """What is asked: a config with changes (the mesh among them), a slice, a clip's size, a stage.

    Of a distillation also which phase, None for the last, and whose turn: the part's name, None for the
    first. `videos`: how many are made side by side by a network call that is asked about instead of the
    training step; 0 for the step.
    """

    config: str
    changes: tuple[str, ...]
    slice: str
    size: tuple[int, int, int]  # frames, height, width
    stage: str
    phase: str | None = None
    part: str | None = None
    videos: int = 0

    @property
    def grid(self) -> Grid:
        return Grid(*self.size)


@dataclass(frozen=True)
class Answer:
    """What the compiler says of a device.

    Attributes:
        fits: whether the program fits into HBM.
        peak: bytes of HBM that it needs; 0 where the compiler gave up before it knew.
        room: bytes that there are, where the compiler says it.
        largest: the largest part: bytes, and the arrays that lie there one after the other.
        words: the compiler's own, where it does not fit.
        seconds: that asking took.
        reading: what the program does; None where it does not fit.
    """

    fits: bool
    peak: int
    room: int | None = None
    largest: tuple[int, str] | None = None
    words: str | None = None
    seconds: float = 0.0
    reading: Reading | None = None

    def described(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Answer":
        """Of what `described` made."""
        found = told["reading"]
        parts = {"work": Work, "kernels": Kernel, "sent": Sent}
        made = found and Reading(
            **{name: tuple(kind(**one) for one in found[name]) for name, kind in parts.items()}
        )
        largest = told["largest"]
        return cls(**{**told, "reading": made, "largest": largest and tuple(largest)})


def ask(job: Job) -> Answer:
    """Have the program of a job compiled as far as needed.

    Raises:
        InputError: the program cannot be made of that config on that mesh.
        StoppedError: the compiler failed for another reason than memory.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="omnihuman-plan-") as folder:
        with (
            (Path(folder) / "said").open("w+") as said,
            (Path(folder) / "errors").open("w+") as log,
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, json.dumps(asdict(job))],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=log,
                env=_environment(folder),
            )
            try:
                done = _wait(process, Path(folder))
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
            said.seek(0)
            log.seek(0)
            if done is None:
                return _failed(said.read(), log.read(), Path(folder), time.perf_counter() - began)
        text = done.read_text()
        peak, largest = memory(_report(Path(folder)))
    found = reading.read(text)
    seconds = round(time.perf_counter() - began, 1)
    return Answer(True, peak, largest=largest, seconds=seconds, reading=found)


def _environment(folder: str) -> dict[str, str]:
    flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
    own = {**NO_CHIPS, **os.environ, "JAX_PLATFORMS": "cpu"}
    own["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # what it holds would write nothing down
    package = str(Path(__file__).parents[2])
    own["PYTHONPATH"] = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    return own | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}


def _wait(process: "subprocess.Popen[bytes]", folder: Path) -> Path | None:
    """The program as it is once memory is laid out; None if the process ends before."""
    size = -1
    while True:
        ended = process.poll() is not None
        found = next(iter(folder.glob(DONE)), None)
        if found is not None:
            now = found.stat().st_size
            if ended or (now and now == size):
                return found
            size = now
        elif ended:
            return None
        time.sleep(PAUSE)


def _report(folder: Path) -> str:
    found = next(iter(sorted(folder.glob(REPORT))), None)
    return found.read_text() if found is not None else ""


def memory(report: str) -> tuple[int, tuple[int, str] | None]:
    """Bytes of HBM in all, and the largest part of them, by the compiler's report."""
    total, row = _TOTAL.search(report), _ROW.search(report)
    if total is None:
        return 0, None
    if row is None:
        return int(total[1]), None
    return int(total[1]), (int(float(row[1]) * _UNITS[row[2][0]]), row[3].strip())


def _failed(said: str, log: str, folder: Path, seconds: float) -> Answer:
    """What became of a process that ended by itself."""
    lines = said.strip().splitlines()
    try:
        told = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        last = (log.strip().splitlines() or ["no word"])[-1]
        raise StoppedError(f"The TPU compiler's process ended without an answer: {last}") from None
    if told["kind"] == "input":
        raise InputError(told["words"])
    if told["kind"] != "memory":
        raise StoppedError(f"The TPU compiler could not compile it: {told['words']}")
    peak, largest = memory(_report(folder))
    room = _ROOM.search(told["words"])
    return Answer(
        False,
        peak,
        room=int(float(room[1]) * _UNITS[room[2]]) if room else None,
        largest=largest,
        words=told["words"].splitlines()[0],
        seconds=round(seconds, 1),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile a job, in the process that `ask` starts; says in JSON why there is no program."""
    (given,) = sys.argv[1:] if arguments is None else arguments
    told = json.loads(given)
    job = Job(**{**told, "changes": tuple(told["changes"]), "size": tuple(told["size"])})
    try:
        _compile(job)
    except InputError as why:
        print(json.dumps({"kind": "input", "words": str(why)}))
    except Exception as why:  # noqa: BLE001  whatever it is, the asking process tells it
        kind = "memory" if "RESOURCE_EXHAUSTED" in str(why) else "failed"
        print(json.dumps({"kind": kind, "words": str(why) or repr(why)}))
    else:
        print(json.dumps({"kind": "done", "words": "compiled to the end"}))


def _compile(job: Job) -> None:
    import jax

    from omnihuman_jax import ahead, config
    from omnihuman_jax import mesh as meshes
    from omnihuman_jax.planning import program

    experiment = program.phase_of(config.load(job.config, job.changes), job.phase)
    devices = ahead.devices(job.slice)
    sizes = dict(vars(experiment.mesh))
    if job.videos:
        sizes = meshes.sizes_for_videos(job.videos, len(devices))
    mesh = meshes.make_mesh(devices=devices, **sizes)
    with jax.set_mesh(mesh):
        if job.videos:
            made = program.network_call(program.sizes(experiment), mesh, job.grid, job.videos)
        else:
            stages = program.stages_of(experiment)
            stage = next(stage for stage in stages if stage.name == job.stage)
            made = program.program(experiment, mesh, job.grid, stage, job.part)

        def planned(*arguments: Any) -> Any:
            return made.step(*arguments)

        jax.jit(planned, **made.options).lower(*made.arguments).compile()


if __name__ == "__main__":
    main()
