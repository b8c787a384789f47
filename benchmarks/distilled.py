"""The built-in model and its one- and two-step students, on voices and identities that none was trained on.

    python -m benchmarks.distilled [--runs runs] [--clips 48] [--sheet docs/distilled.png]

Methods are the teacher at 50, 2 and 1 steps, the consistency student, the adversarial student (Seaweed-APT)
at one and two steps, and the baselines of distribution matching (DMD2) and continuous consistency (rCM). A
student whose model directory is not there is said to be missing. Prints one JSON line last, by method:

- `frechet`: distance of the frames' features to those of the drawn clips that were asked for; features are a
  fixed network of random convolutions (below), in units of the drawn frames' own spread. `real` has that of
  drawn clips of other people: what a perfect model of other people would have.
- `lip_corr`: correlation of the mouth in the pixels with the truth; `lip_corr_shuffled` with other clips'.
- `identity_top1`: how often the nearest of 50 reference images by colours is the one given.
- `motion`: how much frames change, against the drawn ones (1: as much); `diversity`: root of the mean squared
  difference of two videos of one request, of 255.
- `first_frame`: how far the mean colour of the first frame is from that of all frames, of 255.
- `denoise_s`, `seconds`: a video of 49 frames of 64x64, warm, alone: from noise to latents, and all of it.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks import mini as unseen
from omnihuman_jax.diffusion.guidance import Constant, Guidance
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.inference.generator import Generator, Request
from omnihuman_jax.inference.request import scales
from omnihuman_jax.metrics import random_features
from omnihuman_jax.models.building import FLOAT32
from omnihuman_jax.models.mini import find
from omnihuman_jax.puppets import scoring
from omnihuman_jax.puppets.reading import mouth_opening

SIZE, BATCH = 64, 12
GIVEN = ("text", "reference", "audio")
SHOWN = (0, 8, 16, 24, 32, 40, 48)  # frames of the sheet


@dataclass(frozen=True)
class Method:
    """A model directory or name, and how it is sampled from (None: by its defaults)."""

    label: str
    model: str
    steps: int
    sampler: str | None = None


def methods(runs: str, shipped: str) -> dict[str, Method]:
    """All of them by name."""
    of = lambda name: str(Path(runs) / name / "model")
    return {
        "teacher50": Method("teacher, 50 steps", "mini", 50),
        "teacher2": Method("teacher, 2 steps", "mini", 2),
        "teacher1": Method("teacher, 1 step", "mini", 1),
        "cd1": Method("consistency, 1 step", of("mini_cd/mini_cd"), 1),
        "cd2": Method("consistency, 2 steps", of("mini_cd/mini_cd"), 2),
        "apt1": Method("APT, 1 step", shipped, 1),
        "apt2": Method("APT, 2 steps", shipped, 2),
        "dmd2_1": Method("DMD2, 1 step", of("mini_dmd2/mini_dmd2"), 1),
        "dmd2_2": Method("DMD2, 2 steps", of("mini_dmd2/mini_dmd2"), 2),
        "rcm1": Method("rCM, 1 step", of("mini_rcm/mini_rcm"), 1),
        "rcm2": Method("rCM, 2 steps", of("mini_rcm/mini_rcm"), 2),
    }


def request(case: unseen.Case, model: Any, method: Method, seed: int) -> Request:
    """What a method is asked for."""
    defaults = model.manifest.sampling
    text, audio = scales(defaults)
    return Request(
        grid=Grid(case.frames, SIZE, SIZE),
        fps=float(unseen.FPS),
        steps=method.steps,
        sampler=method.sampler or defaults.get("sampler", "unipc"),
        shift=defaults["shift"],
        guidance=Guidance(text=Constant(text), audio=Constant(audio)),
        negative_text=defaults.get("negative_text"),
        seed=seed,
        **{name: getattr(case, name) for name in GIVEN},
    )


def videos(
    method: Method, generator: Generator, cases: Sequence[unseen.Case], seed: int
) -> list[np.ndarray]:
    """A video a case."""
    found: list[np.ndarray] = []
    asked = [request(c, generator.model, method, seed + k) for k, c in enumerate(cases)]
    for first in range(0, len(asked), BATCH):
        some = asked[first : first + BATCH]
        found += list(np.concatenate(list(generator.together(some)), axis=1))
    return found


def features(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Of all frames of all clips."""
    return np.concatenate([random_features.features(clip) for clip in clips])


class Reference:
    """Drawn frames, in whose own directions and units the distance is measured."""

    def __init__(self, clips: Sequence[np.ndarray], kept: int = random_features.KEPT) -> None:
        self.seen = features(clips)
        self.units = random_features.Units.of(self.seen, kept)

    def distance(self, clips: Sequence[np.ndarray]) -> float:
        """A number a direction, so that the distance does not grow with their count."""
        return self.units.distance(features(clips), self.seen)


def score(
    clips: Sequence[np.ndarray],
    cases: Sequence[unseen.Case],
    drawn: Sequence[np.ndarray],
    reference: Reference,
    people: Any,
) -> dict[str, Any]:
    """What is measured on the pixels."""
    table = scoring.lip_table([mouth_opening(v) for v in clips], [c.mouth for c in cases])
    change = [float(np.abs(np.diff(v.astype(np.float32), axis=0)).mean()) for v in clips]
    truth = [float(np.abs(np.diff(v.astype(np.float32), axis=0)).mean()) for v in drawn]
    colours = [v.astype(np.float32).mean(axis=(1, 2)) for v in clips]
    ranks = [unseen._rank(v, c, people) for v, c in zip(clips, cases, strict=True)]
    return {
        "frechet": round(reference.distance(clips), 4),
        "lip_corr": round(float(np.mean(table.scores)), 3),
        "lip_corr_shuffled": round(float(np.mean(table.shuffled)), 3),
        "identity_top1": round(float(np.mean([r == 0 for r in ranks])), 3),
        "motion": round(float(np.mean(change) / np.mean(truth)), 3),
        "first_frame": round(float(np.mean([np.abs(c[0] - c.mean(0)).mean() for c in colours])), 2),
    }


def differing(
    method: Method, generator: Generator, cases: Sequence[unseen.Case], first: Sequence[np.ndarray]
) -> float:
    """Root of the mean squared difference of two videos of one request."""
    again = videos(method, generator, cases, seed=10_000)
    gaps = [
        np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2)
        for a, b in zip(again, first[: len(cases)], strict=True)
    ]
    return round(float(np.sqrt(np.mean(gaps))), 2)


def timed(method: Method, generator: Generator, case: unseen.Case, rounds: int) -> dict[str, float]:
    """Seconds of one video alone, medians of warm rounds."""
    asked = request(case, generator.model, method, 0)
    spans: dict[str, list[float]] = {"denoise_s": [], "seconds": []}
    for number in range(rounds + 1):
        marks: dict[str, float] = {}

        def note(phase: str, done: int, total: int, marks: dict[str, float] = marks) -> None:
            marks.setdefault(f"{phase} begins", time.perf_counter())
            if done == total:
                marks[f"{phase} ends"] = time.perf_counter()

        began = time.perf_counter()
        for _ in generator(replace(asked, seed=number), progress=note):
            pass
        if number:
            spans["seconds"].append(time.perf_counter() - began)
            spans["denoise_s"].append(marks["denoise ends"] - marks["denoise begins"])
    return {name: round(float(np.median(each)), 4) for name, each in spans.items()}


def sheet(rows: Sequence[tuple[str, Sequence[np.ndarray]]], path: str, scale: int = 2) -> None:
    """All methods one below the other: frames of two clips each."""
    side, left, gap = SIZE * scale, 190, 6
    shown = [clip[list(SHOWN)] for clip in rows[0][1][:2]]
    width = left + sum(len(frames) * side + gap for frames in shown)
    picture = Image.new("RGB", (width, len(rows) * (side + gap)), "white")
    draw = ImageDraw.Draw(picture)
    for row, (label, clips) in enumerate(rows):
        y = row * (side + gap)
        draw.text((4, y + side // 2 - 8), label, fill="black", font_size=16)
        x = left
        for clip in clips[:2]:
            for frame in clip[list(SHOWN)]:
                tile = Image.fromarray(frame).resize((side, side), Image.Resampling.LANCZOS)
                picture.paste(tile, (x, y))
                x += side
            x += gap
    picture.quantize(256).save(path, optimize=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--runs", default="runs", metavar="DIR", help="where students were trained (default: runs)")
    add("--shipped", default="mini-1step", metavar="NAME_OR_DIR",
        help="the adversarial student (default: mini-1step)")  # fmt: skip
    add("--clips", type=int, default=48, metavar="N", help="clips that speak (default: 48)")
    add("--first", type=int, default=57_000, metavar="N",
        help="number of the first unseen clip, 50,000 to 59,000 (default: 57000)")  # fmt: skip
    add("--only", nargs="+", metavar="METHOD", help="of the methods, by name (default: all)")
    add(
        "--rounds", type=int, default=5, metavar="N", help="warm videos that are timed (default: 5)"
    )
    add("--sheet", metavar="PNG", help="write all methods side by side (default: nothing)")
    args = parser.parse_args(arguments)
    if not 2 <= args.clips <= 50 or not 50_000 <= args.first <= 59_000:
        parser.error(
            f"--clips is 2 to 50 and --first 50000 to 59000, got {args.clips}, {args.first}."
        )
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    unseen.FIRST = args.first
    known = methods(args.runs, args.shipped)
    if odd := set(args.only or ()) - known.keys():
        raise InputError(f"There is no method {sorted(odd)[0]!r}, but {', '.join(known)}.")
    cases = [unseen.case(number, SIZE, unseen.LONG) for number in unseen.mixed(args.clips)]
    drawn = [c.drawn() for c in cases]
    reference = Reference(drawn)
    people = unseen._people([c.number for c in cases], SIZE)
    unseen.FIRST = unseen.KNOWN
    others = [unseen.case(number, SIZE, unseen.LONG).drawn() for number in unseen.mixed(args.clips)]
    found: dict[str, Any] = {
        "clips": len(cases),
        "real": {"frechet": round(reference.distance(others), 4)},
    }
    rows: list[tuple[str, Sequence[np.ndarray]]] = [("drawn: the truth", drawn)]
    for name, method in known.items():
        if args.only and name not in args.only:
            continue
        try:
            generator = Generator(find(method.model), FLOAT32, kept={})
        except InputError as why:
            found[name] = {"missing": str(why)}
            continue
        clips = videos(method, generator, cases, seed=0)
        found[name] = score(clips, cases, drawn, reference, people)
        found[name]["diversity"] = differing(method, generator, cases[:12], clips)
        found[name] |= timed(method, generator, cases[0], args.rounds)
        rows.append((method.label, clips))
        print(f"{name}: {json.dumps(found[name])}", file=sys.stderr, flush=True)
    if "teacher50" in found:
        for name, each in found.items():
            if name in known and "seconds" in each:
                whole, steps = found["teacher50"]["seconds"], found["teacher50"]["denoise_s"]
                each["times_as_fast"] = round(whole / each["seconds"], 1)
                each["denoises_as_fast"] = round(steps / each["denoise_s"], 1)
    if args.sheet:
        sheet(rows, args.sheet)
    print(json.dumps(found))


if __name__ == "__main__":
    try:
        main()
    except InputError as why:
        sys.exit(f"error: {why}")
