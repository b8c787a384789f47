"""What a user gets of a request: the video with its contact sheet, and what to know before looking at it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.diffusion import samplers
from omnihuman_jax.inference import segments
from omnihuman_jax.inference.generator import Request
from omnihuman_jax.media import ContactSheet, VideoWriter
from omnihuman_jax.models.directory import ModelDirectory


def write(generate: Callable[[], Iterator[np.ndarray]], request: Request, path: str) -> int:
    """Frames to the video at `path`, and to its contact sheet beside it, as they come; how many came."""
    return write_all(lambda: (piece[None] for piece in generate()), [request], [path])


def write_all(
    generate: Callable[[], Iterator[np.ndarray]], requests: Sequence[Request], paths: Sequence[str]
) -> int:
    """The same for videos that are made together: pieces are UInt8 "B F Y X 3".

    The files are opened first: a folder that cannot be written to is known before the work, not after. A
    piece is encoded while the next is made.
    """
    sheets = [ContactSheet(request.length, request.fps) for request in requests]
    made = 0

    def append(pieces: np.ndarray, first: int) -> None:
        for video, sheet, piece in zip(videos, sheets, pieces, strict=True):
            video.append(piece)
            for number, frame in enumerate(piece, first):
                sheet.add(number, frame)

    with ThreadPoolExecutor(1) as other, ExitStack() as stack:
        videos = [
            stack.enter_context(
                VideoWriter(
                    path,
                    height=request.grid.height,
                    width=request.grid.width,
                    fps=request.fps,
                    sound=request.audio,
                )
            )
            for request, path in zip(requests, paths, strict=True)
        ]
        last: Future[None] | None = None
        try:
            for pieces in generate():
                if last is not None:
                    last.result()  # one piece waits, no more
                last = other.submit(append, pieces, made)
                made += pieces.shape[1]
        finally:
            if last is not None:
                last.result()
    for sheet, path in zip(sheets, paths, strict=True):
        sheet.save(Path(path).with_suffix(".png"))
    return made


def summary(model: str, request: Request) -> str:
    """One line: what is given, how much is made of it, how."""
    grid, frames, given = request.grid, request.length, _given(request)
    count = len(segments.starts(frames, grid.frames))
    pieces, each = (
        (f" in {count} segments of {grid.frames}", " a segment") if count > 1 else ("", "")
    )
    return (
        f"{model}: {' + '.join(given)} -> {frames} frames of {grid.height}x{grid.width}{pieces} at "
        f"{request.fps:g} fps, {request.steps} steps of {request.sampler} "
        f"({evaluations(request)} evaluations of the network{each})"
    )


def evaluations(request: Request) -> int:
    """Velocities that a clip takes: of each sampler call, one for each pass of the guidance that counts."""
    sampler = samplers.make(request.sampler)
    calls = sampler.calls(sampler.schedule(request.steps, request.shift))
    return request.guidance.plan(_given(request), calls.time, calls.progress).evaluations


def _given(request: Request) -> list[str]:
    return [name for name in STRENGTH if getattr(request, name) is not None]


def notes(model: ModelDirectory, request: Request) -> list[str]:
    """What the user must know of his wishes and of this model before looking at the video."""
    told = list(request.notes)
    known = limits(model)
    if known is not None:
        told.append(known)
    elif request.reference is not None and model.config("dit").audio is None:
        told.append(
            "Note: this is plain Wan2.1, which was never trained to follow a reference image."
        )
    return told


def limits(model: ModelDirectory) -> str | None:
    """What must be known of a model whatever is asked of it, if anything."""
    if model.manifest.provenance.get("untrained"):
        return "Note: the weights of this model are UNTRAINED; the video will be noise."
    if knows := model.manifest.sampling.get("knows"):
        return f"Note: this model was trained on {knows} only; it knows nothing else."
    return None
