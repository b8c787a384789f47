"""The only place that knows how the methods of OmniHuman-1's Tables 1 and 2 name the videos they write.

Read in their public code, which is named; whatever the method, a folder of <id>.mp4 is taken too, and is
all there is where no code is public. The reference picture and the sound of a clip are expected to have been
named <id>.png and <id>.wav, `/` in an id as `_`.
"""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omnihuman_jax.errors import InputError
from omnihuman_jax.evaluation.cases import ENDING

DIGIT = "[0-9]"


@dataclass(frozen=True)
class Layout:
    """How a method's folder looks.

    Attributes:
        method: as the paper's tables name it.
        patterns: of the file of a clip, `{id}` for its id; the first that finds one is taken.
        source: the public code in which that was read; "" where there is none or it was not verified.
        note: how to run it so that the names come out.
    """

    method: str
    patterns: tuple[str, ...] = ()
    source: str = ""
    note: str = "No naming could be verified publicly: name the videos <id>.mp4."


LAYOUTS = {
    "sadtalker": Layout(
        "SadTalker",
        ("{id}/*.mp4",),
        "OpenTalker/SadTalker, inference.py",
        "It names a video by the time alone: give every clip a --result_dir of its own, OUT/<id>.",
    ),
    "hallo": Layout(
        "Hallo",
        source="fudan-generative-vision/hallo, scripts/inference.py",
        note="It writes the file that --output names: OUT/<id>.mp4.",
    ),
    "v_express": Layout(
        "VExpress",
        source="tencent-ailab/V-Express, inference.py",
        note="It writes the file that --output_path names: OUT/<id>.mp4.",
    ),
    "echomimic": Layout(
        "EchoMimic",
        ("**/{id}_{id}_*_withaudio.mp4",),
        "BadToBest/EchoMimic, infer_audio2vid.py",
        "Give its folder output/, or one of a day; a clip must be there once.",
    ),
    "loopy": Layout("Loopy"),
    "hallo3": Layout(
        "Hallo-3",
        ("{id}-{id}-seed_*/000000_with_audio.mp4",),
        "fudan-generative-vision/hallo3, hallo3/sample_video.py, as copies of it have it",
        "Give its --output-dir; a clip must be there with one seed.",
    ),
    "diffted": Layout("DiffTED"),
    "diffgesture_mimicmotion": Layout(
        "DiffGest. + MimicMotion",
        ("{id}_" + DIGIT * 14 + ".mp4",),
        "Tencent/MimicMotion, inference.py (DiffGesture gives the poses of its pose video)",
        "Name the pose video <id>.mp4; give MimicMotion's --output_dir; a clip must be there once.",
    ),
    "cyberhost": Layout("CyberHost"),
}


def names(layout: str, folder: str, ids: Sequence[str]) -> dict[str, str]:
    """The file of each clip, relative to a method's folder; <id>.mp4 where nothing else is there.

    Raises:
        InputError: no such layout, or two files that could be a clip's.
    """
    if layout not in LAYOUTS:
        raise InputError(f"There is no layout {layout!r}, but {', '.join(LAYOUTS)}.")
    found = {}
    for name in ids:
        generic = f"{name}{ENDING}"
        found[name] = generic
        if Path(folder, generic).is_file():
            continue
        for pattern in LAYOUTS[layout].patterns:
            filled = pattern.replace("{id}", glob.escape(name.replace("/", "_")))
            there = sorted(str(p.relative_to(folder)) for p in Path(folder).glob(filled))
            if len(there) > 1:
                raise InputError(
                    f"{folder} has {len(there)} videos of clip {name}: {there[0]} and {there[1]}; leave one."
                )
            if there:
                found[name] = there[0]
                break
    return found
