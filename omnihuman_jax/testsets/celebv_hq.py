"""The only place that knows how CelebV-HQ is published: `celebvhq_info.json` and two folders of videos.

CelebV-HQ (Zhu et al., ECCV 2022, arXiv 2207.12393): 35,666 clips of 15,653 people, 83 attributes. The
publisher gives the list, never the videos. **Non-commercial research only; no redistribution.**
"""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnihuman_jax.errors import InputError
from omnihuman_jax.testsets.clips import (
    Clip,
    Collection,
    Missing,
    Unusable,
    Window,
    folder_of,
    videos_by_name,
)

LICENCE = "CelebV-HQ: non-commercial research only, no redistribution"
HOMEPAGE = "https://celebv-hq.github.io"
FILE = "celebvhq_info.json"
MARGIN = 0.02  # of the frame, put around a box before it is made square


def collection(source: str) -> Collection:
    """The clips of `celebvhq_info.json` in `source`, and the videos in any folder below it.

    A clip is `<clip id>.mp4`, as the publisher's script cuts and crops it, or is cut and cropped here,
    in the same way, from `<YouTube id>.mp4`. Who somebody is the publisher does not say.

    Raises:
        InputError: no such folder, no such file in it, or one of another layout.
    """
    root = folder_of(source)
    path = root / FILE
    if not path.is_file():
        raise InputError(
            f"There is no {FILE} in {source}; put the publisher's list beside the videos."
        )
    try:
        info = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as why:
        raise InputError(f"{path} is no JSON: {' '.join(str(why).split())}.") from why
    try:
        entries = {name: _checked(name, entry) for name, entry in info["clips"].items()}
        names = {kind: info["meta_info"][f"{kind}_mapping"] for kind in ("appearance", "action")}
    except (KeyError, TypeError, AttributeError) as why:
        said = f"no {why.args[0]!r} where one is due" if isinstance(why, KeyError) else str(why)
        raise InputError(f"{path} has another layout than CelebV-HQ's: {said}.") from why
    except ValueError as why:
        raise InputError(f"{path} has another layout than CelebV-HQ's: {why}.") from why
    videos = videos_by_name(root)
    return Collection(
        root=root,
        ids=tuple(entries),
        clip=lambda name: _clip(name, entries, names, videos, path),
    )


def square(box: Mapping[str, float], height: int, width: int) -> Window:
    """The part of a frame that the publisher's script crops to: a margin, then a square inside.

    `box` is top, bottom, left, right as shares of the frame; the side is the shorter one's, even. It
    lies where the script has it to within a pixel, which ffmpeg rounds by the file's colour format.
    """
    top, bottom = max(box["top"] - MARGIN, 0), min(box["bottom"] + MARGIN, 1)
    left, right = max(box["left"] - MARGIN, 0), min(box["right"] + MARGIN, 1)
    rows, columns = (
        (round(top * height), round(bottom * height)),
        (round(left * width), round(right * width)),
    )
    half = min(rows[1] - rows[0], columns[1] - columns[0]) // 2
    return sum(rows) // 2 - half, sum(columns) // 2 - half, 2 * half, 2 * half


def _checked(name: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    times = entry["duration"]["start_sec"], entry["duration"]["end_sec"]
    sides = [entry["bbox"][side] for side in ("top", "bottom", "left", "right")]
    if not isinstance(entry["ytb_id"], str) or not isinstance(entry["attributes"], dict):
        raise ValueError(f"clip {name} needs a ytb_id of text and attributes by name")
    if not all(math.isfinite(number) for number in (*times, *sides)):
        raise ValueError(f"clip {name} has a time or a side that is no finite number")
    return entry


def _clip(
    name: str,
    entries: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, Any],
    videos: Mapping[str, Path],
    info: Path,
) -> Clip:
    if name not in entries:
        raise Missing(f"{FILE} lists no such clip")
    entry = entries[name]
    times, box = entry["duration"], entry["bbox"]
    if not 0 <= times["start_sec"] < times["end_sec"]:
        raise Unusable(f"{FILE} has it from {times['start_sec']} to {times['end_sec']} s")
    if not (box["top"] < box["bottom"] and box["left"] < box["right"]):
        raise Unusable(f"{FILE} has an empty box for it")
    attributes = dict(entry["attributes"], ytb_id=entry["ytb_id"])
    for kind, meanings in names.items():
        flags = attributes.get(kind, ())
        if len(flags) != len(meanings):
            raise InputError(f"{info}: clip {name} has {len(flags)} {kind}s, not {len(meanings)}.")
        attributes[kind] = [m for m, flag in zip(meanings, flags, strict=True) if flag]
    if name in videos:
        return Clip(id=name, video=videos[name], files=(info,), attributes=attributes)
    if entry["ytb_id"] not in videos:
        raise Missing(f"there is neither {name}.mp4 nor {entry['ytb_id']}.mp4")
    return Clip(
        id=name,
        video=videos[entry["ytb_id"]],
        start=times["start_sec"],
        end=times["end_sec"],
        window=functools.partial(square, box),
        files=(info,),
        attributes=attributes,
    )
