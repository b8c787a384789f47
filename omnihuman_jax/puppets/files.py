"""The only place that writes puppets to files: mp4, wav and json of each clip, in parallel, resumable."""

import io
import json
import multiprocessing
import os
import signal
import tempfile
import wave
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from tqdm import tqdm

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError
from omnihuman_jax.media import VideoWriter
from omnihuman_jax.puppets.world import Clip, Settings, clip_name, make_clip

# One thread a clip: the same bytes on every machine, and the processes share the cores among them.
ENCODING = {"crf": "18", "preset": "veryfast", "threads": "1"}
MOST_CLIPS = 1_000_000  # guests of cuts and dubs have numbers from there on


def write_clips(
    out: str,
    settings: Settings,
    clips: int,
    start: int = 0,
    processes: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Write clips `start` to `start + clips - 1` to a folder, local or gs://.

    The json of a clip comes last, so a clip whose json is there is done, and is not made again.

    Args:
        processes: how many work at a time; None: one a core.
        progress: show a bar.

    Returns:
        `written` and `there_before` (clips), `teaches` and `faults` (clips by name, of all of them).

    Raises:
        InputError: no clip, a negative number, no process, a folder that holds clips of another world
            or cannot be written.
    """
    processes = (os.cpu_count() or 1) if processes is None else processes
    if not 1 <= clips <= MOST_CLIPS - max(start, 0):
        raise InputError(f"Ask for at least 1 clip and at most {MOST_CLIPS:,}; got {clips}.")
    if start < 0:
        raise InputError(f"Clips are numbered from 0; the first cannot be {start}.")
    if processes < 1:
        raise InputError(f"At least 1 process is needed, got {processes}.")
    there = _there(out)
    numbers = range(start, start + clips)
    done = [n for n in numbers if f"{clip_name(n)}.json" in there]
    truths = [_truth(out, n) for n in done]
    for number, truth in zip(done, truths, strict=True):
        _check_same(out, number, truth.get("settings"), settings)
    missing = [n for n in numbers if n not in set(done)]
    with tqdm(total=clips, initial=len(done), disable=not progress, unit="clip") as bar:
        for truth in _made(out, settings, missing, min(processes, max(len(missing), 1))):
            truths.append(truth)
            bar.update()
    return {
        "written": len(missing),
        "there_before": len(done),
        "teaches": dict(Counter(name for truth in truths for name in truth["teaches"])),
        "faults": dict(Counter(truth["fault"] or "none" for truth in truths)),
        "voices": sorted({truth["voice"] for truth in truths}),
    }


def write_clip(out: str, settings: Settings, number: int) -> dict[str, Any]:
    """Make one clip and write its mp4, its wav and, last, its json; its truth."""
    clip = make_clip(settings, number)
    base = storage.join(out, clip.name)
    storage.write_bytes(f"{base}.mp4", encoded(clip))
    if clip.sound is not None:
        storage.write_bytes(f"{base}.wav", wav(clip.sound, clip.rate))
    sidecar = json.dumps(clip.sidecar(), ensure_ascii=False, separators=(",", ":"))
    storage.write_bytes(f"{base}.json", sidecar.encode())
    return clip.truth


def encoded(clip: Clip) -> bytes:
    """The clip as an mp4."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        height, width = clip.frames.shape[1:3]
        with VideoWriter(
            file,
            height=height,
            width=width,
            fps=clip.fps,
            sound=clip.sound,
            rate=clip.rate,
            encoding=ENCODING,
        ) as out:
            out.append(clip.frames)
        return file.read_bytes()


def wav(sound: Float32[np.ndarray, "samples"], rate: int) -> bytes:
    """A 16-bit wav, which holds the sound exactly (it lies on that grid)."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound * 32768).astype("<i2").tobytes())
    return buffer.getvalue()


def _there(out: str) -> set[str]:
    if not storage.is_remote(out) and Path(out).is_file():
        raise InputError(f"{out} is a file; give a folder for the clips.")
    return set(storage.files(out, deep=False))


def _truth(out: str, number: int) -> dict[str, Any]:
    path = storage.join(out, f"{clip_name(number)}.json")
    try:
        truth = json.loads(storage.read_bytes(path))["truth"]
        truth["teaches"], truth["fault"], truth["voice"]
    except (ValueError, KeyError, TypeError) as why:
        raise InputError(f"{path} is not a puppet's json; choose another folder.") from why
    return dict(truth)


def _check_same(out: str, number: int, before: Any, settings: Settings) -> None:
    now = asdict(settings)
    if before != now:
        before = before if isinstance(before, dict) else {}
        name = next(key for key in now if before.get(key) != now[key])
        raise InputError(
            f"{out} holds {clip_name(number)} with {name} {before.get(name)}, not {now[name]}; "
            "choose another folder or the same settings."
        )


def _made(
    out: str, settings: Settings, numbers: list[int], processes: int
) -> Iterator[dict[str, Any]]:
    """The truth of each clip as it is written."""
    if processes == 1:
        for number in numbers:
            yield write_clip(out, settings, number)
        return
    # Spawned, not forked: the caller may have threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_ignore_interrupts) as pool:
        jobs = [pool.submit(write_clip, out, settings, number) for number in numbers]
        try:
            for job in as_completed(jobs):
                yield job.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C goes to every process; the main one answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
