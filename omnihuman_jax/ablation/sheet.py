"""The only place that draws the contact sheet of a study: points one below the other, frames of clips."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from omnihuman_jax.ablation import jobs
from omnihuman_jax.ablation.results import Found
from omnihuman_jax.ablation.study import Study, Videos
from omnihuman_jax.data import raw

TRUTH = "truth"  # folder of the test sets' own videos, below the study's
FRAMES = 5  # of a clip, spread over it
SIDE, LEFT, GAP = 96, 150, 4  # pixels: of a tile's longer side, for labels, between clips and rows
MOST = 300_000  # bytes of the picture


def sheet(
    study: Study, workdir: Path, found: Found, videos: Videos, clips: int = 3
) -> bytes | None:
    """A JPEG of the truth and all whole points, `clips` clips of a set; None where there is no video.

    Clips are the first of the set; the frames of a row are at the same moments in all rows.
    """
    names = (jobs.ids(videos) or ())[:clips]
    places = {
        label: jobs.folder(workdir, point, "videos", videos, videos.seeds[0])
        for point in study.points()
        if (label := point.label) in found.points
    }
    rows = {TRUTH: workdir / TRUTH / videos.name, **places}
    strips = {
        label: [
            _frames(place / f"{name}.mp4") for name in names if (place / f"{name}.mp4").is_file()
        ]
        for label, place in rows.items()
    }
    strips = {label: each for label, each in strips.items() if len(each) == len(names) and each}
    if not strips:
        return None
    width = LEFT + sum(FRAMES * SIDE + GAP for _ in names)
    picture = Image.new("RGB", (width, len(strips) * (SIDE + GAP)), "white")
    draw = ImageDraw.Draw(picture)
    for row, (label, each) in enumerate(strips.items()):
        y = row * (SIDE + GAP)
        draw.text((4, y + SIDE // 2 - 8), label, fill="black", font_size=15)
        for column, frames in enumerate(each):
            for place, frame in enumerate(frames):
                tile = Image.fromarray(frame)
                tile.thumbnail((SIDE, SIDE))
                if max(tile.size) < SIDE:
                    scale = SIDE / max(tile.size)
                    size = round(tile.width * scale), round(tile.height * scale)
                    tile = tile.resize(size, Image.Resampling.LANCZOS)
                picture.paste(tile, (LEFT + column * (FRAMES * SIDE + GAP) + place * SIDE, y))
    return _small(picture)


def _frames(path: Path) -> UInt8[np.ndarray, "F Y X 3"]:
    facts = raw.probe(str(path))
    frames = np.stack(list(raw.frames(str(path), facts, facts.fps, whole=True)))
    return frames[np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)]


def _small(picture: Image.Image) -> bytes:
    """As a JPEG of at most `MOST` bytes."""
    for quality in (88, 80, 70, 55, 40, 25):
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=quality, optimize=True)
        if data.tell() <= MOST:
            break
    return data.getvalue()
