"""Writes tiny copies of collections in their published layouts, whose every piece tells where it is from."""

import json
from pathlib import Path

import numpy as np

from omnihuman_jax.media import VideoWriter
from omnihuman_jax.testsets import ravdess

RATE = 16_000
RED, BLUE = (200, 40, 40), (40, 40, 200)
BITS = 6


def numbered(frames, height, width):
    """Frame k has a stripe for each bit of k, white for a one."""
    pixels = np.zeros((frames, height, width, 3), np.uint8)
    for k in range(frames):
        for bit, stripe in enumerate(np.array_split(np.arange(width), BITS)):
            pixels[k, :, stripe] = 230 if k >> bit & 1 else 20
    return pixels


def numbers(pixels):
    """The k of each frame."""
    stripes = np.array_split(pixels.astype(float).mean(axis=(1, 3)), BITS, axis=1)
    return [
        sum((part[k].mean() > 125) << bit for bit, part in enumerate(stripes))
        for k in range(len(pixels))
    ]


def steps(samples):
    """A tone whose pitch rises with time, so that a piece tells where it is from."""
    seconds = np.arange(samples) / RATE
    return (0.4 * np.sin(2 * np.pi * (300 * seconds + 150 * seconds**2))).astype(np.float32)


def write(path: Path, frames=50, size=(64, 96), fps=25, *, silent=False, pixels=None):
    """A video of these pixels, numbered by default, with the rising tone."""
    pixels = numbered(frames, *size) if pixels is None else pixels
    sound = None if silent else steps(round(len(pixels) / fps * RATE))
    height, width = pixels.shape[1:3]
    with VideoWriter(path, height=height, width=width, fps=fps, sound=sound, rate=RATE) as out:
        out.append(pixels)


def celebv_entry(ytb, start, end, box=(0.0, 1.0, 0.0, 1.0), appearance=(1, 0), action=(0, 0, 1)):
    return {
        "ytb_id": ytb,
        "duration": {"start_sec": start, "end_sec": end},
        "bbox": dict(zip(("top", "bottom", "left", "right"), box, strict=True)),
        "attributes": {
            "appearance": list(appearance),
            "action": list(action),
            "emotion": {"sep_flag": False, "labels": "neutral"},
        },
        "version": "v0.1",
    }


def celebv_info(folder: Path, clips):
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"appearance_mapping": ["young", "bald"], "action_mapping": ["nod", "sing", "talk"]}
    content = {"meta_info": meta, "clips": clips}
    (folder / "celebvhq_info.json").write_text(json.dumps(content))


def ravdess_copy(folder: Path, names, layout="Actor_{}"):
    for name in names:
        write(folder / layout.format(name[-2:]) / f"{name}.mp4", 25)
    return names


def spoken(count):
    """Names of recordings, of several actors."""
    return ravdess.published()[:count]


def manifest(folder: Path, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
