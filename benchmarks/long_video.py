"""A talk of ten minutes by an unseen puppet: do memory, face, lips and seams stay as they were?

python -m benchmarks.long_video [--seconds 600]

The built-in model makes it in segments joined by motion frames, from a caption, a picture and the sound.
Scored are pixels alone, as in benchmarks/mini.py. The last line is one JSON object:

- `rss_growth_mb`: resident memory after the last segment less that after the second (before it, programs
  are compiled); `rss_mb` at the start, after two segments, in the middle and at the end.
- `lip_corr_first`, `lip_corr_last`: correlation of mouths with the truth in the first and the last minute (or
  half, if there are not two), a mean over pieces of 49 frames.
- `identity_first`, `identity_last`: how often the nearest of 50 people is the right one, over 25 frames.
- `seam_percentile`: which percentile of all differences between neighbouring frames the median seam is (goal:
  below 99); `seam_p99_ratio`: 99th percentile of seams over that of all others.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import mini as scores
from omnihuman_jax.diffusion.guidance import Constant, Guidance
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import MOTION_FRAMES, Grid
from omnihuman_jax.inference import segments
from omnihuman_jax.inference.generator import Generator, Request
from omnihuman_jax.inference.request import scales
from omnihuman_jax.models.mini import find
from omnihuman_jax.puppets import scoring
from omnihuman_jax.puppets.reading import mouth_opening
from omnihuman_jax.puppets.world import Settings, preview

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> float:
    """Megabytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


def talk(number: int, size: int, seconds: float) -> scores.Case:
    """A clip of that length; the reference is its first frame."""
    clip = preview(Settings(seconds=seconds, height=size, width=size, fps=scores.FPS), number)
    frames = len(clip.motion.poses)
    return scores.Case(number, clip, 0, frames, clip.caption)


def lips(case: scores.Case, video: np.ndarray, start: int) -> float:
    """Correlation of mouths, a mean over pieces as long as those of benchmarks/mini.py."""
    truth = case.mouth[start : start + len(video)]
    pieces = range(0, len(video) - scores.LONG + 1, scores.LONG)
    cut = [slice(k, k + scores.LONG) for k in pieces]
    found = [scoring.correlation(mouth_opening(video[c]), truth[c]) for c in cut]
    return round(float(np.mean(found)), 3)


def identity(case: scores.Case, video: np.ndarray, start: int) -> float:
    """How often somebody looks like himself, over pieces of a second."""
    people = scores._people([case.number], video.shape[1])
    poses = case.pose[start : start + len(video)]
    pieces = [slice(k, k + scores.SHORT) for k in range(0, len(video) - 24, scores.SHORT)]
    everyone, looks = people
    own = everyone.index(case.number)
    ranks = [
        scoring.rank(scores.colour_reading.look(video[c], poses[c]), looks, own) for c in pieces
    ]
    return round(float(np.mean([rank == 0 for rank in ranks])), 3)


def seams(changes: np.ndarray, clip: int) -> dict[str, float]:
    """`changes[i]` is the mean difference of frames i and i + 1."""
    frames = len(changes) + 1
    at = np.array([s + MOTION_FRAMES - 1 for s in segments.starts(frames, clip)[1:]])
    others = np.delete(changes, at)
    return {
        "seam_percentile": round(100 * float(np.mean(others < np.median(changes[at]))), 1),
        "seam_p99_ratio": round(
            float(np.percentile(changes[at], 99) / np.percentile(others, 99)), 3
        ),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="mini", metavar="NAME_OR_DIR", help="(default: mini)")
    add("--seconds", type=float, default=600, metavar="S", help="(default: 600)")
    add("--size", type=int, default=64, metavar="N", help="height and width (default: 64)")
    add(
        "--number", type=int, metavar="N", help="of the puppet (default: the first unseen portrait)"
    )
    args = parser.parse_args(arguments)
    if not 8 <= args.seconds <= 600:
        parser.error(f"--seconds lies between 8 and 600, got {args.seconds:g}.")
    number = scores.some("portrait", 1)[0] if args.number is None else args.number
    case = talk(number, args.size, args.seconds)
    model = find(args.model)
    defaults = model.manifest.sampling
    text, audio = map(Constant, scales(defaults))
    request = Request(
        grid=Grid(int(defaults["frames"]), args.size, args.size),
        frames=case.frames,
        fps=float(scores.FPS),
        reference=case.clip.frame(0),
        audio=case.clip.sound,
        text=case.text,
        steps=defaults["steps"],
        shift=defaults["shift"],
        guidance=Guidance(text=text, audio=audio),
    )
    span = min(60 * scores.FPS, case.frames // 2)
    # What is scored at the end has its memory from the start. (It is copied there: views, even of no
    # frame at all, would keep whole pieces, and so the whole video.)
    head, tail = (np.ones((span, args.size, args.size, 3), np.uint8) for _ in range(2))
    memory, changes = [resident()], []
    before, made, began = None, 0, time.monotonic()
    for piece in Generator(model)(request):
        shown = piece.astype(np.float32)
        joined = shown if before is None else np.concatenate([before[None], shown])
        changes.append(np.abs(np.diff(joined, axis=0)).mean((1, 2, 3)))
        before = shown[-1]
        for kept, start in ((head, 0), (tail, case.frames - span)):
            into = slice(max(0, made - start), max(0, made - start + len(piece)))
            kept[into] = piece[max(0, start - made) :][: len(kept[into])]
        made += len(piece)
        done = made // request.grid.frames
        if done >= len(memory) * 2 and len(memory) < 2:
            memory.append(resident())
        if made >= case.frames / 2 and len(memory) == 2:
            memory.append(resident())
    memory.append(resident())
    seconds = time.monotonic() - began
    print(
        json.dumps(
            {
                "model": args.model,
                "seconds": args.seconds,
                "frames": made,
                "segments": len(segments.starts(case.frames, request.grid.frames)),
                "rss_growth_mb": round(memory[-1] - memory[1], 1),
                "rss_mb": [round(m) for m in memory],
                "lip_corr_first": lips(case, head, 0),
                "lip_corr_last": lips(case, tail, case.frames - span),
                "identity_first": identity(case, head, 0),
                "identity_last": identity(case, tail, case.frames - span),
                **seams(np.concatenate(changes), request.grid.frames),
                "made_in_s": round(seconds, 1),
            }
        )
    )


if __name__ == "__main__":
    try:
        main()
    except InputError as why:
        sys.exit(f"error: {why}")
