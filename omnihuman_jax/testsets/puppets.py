"""The only place that knows which clips of `omnihuman puppets` test a model: those without a fault.

Nothing in them is anybody's: they may be used and passed on freely.
"""

import json
from pathlib import Path
from typing import Any

from omnihuman_jax.data.sidecar import read_sidecar
from omnihuman_jax.errors import InputError
from omnihuman_jax.testsets.clips import Clip, Collection, Missing, folder_of, videos_by_name

LICENCE = "puppets: free, they are nobody"
HOMEPAGE = ""


def collection(source: str) -> Collection:
    """The clips NAME.mp4 with a NAME.json that tells their truth, in any folder below `source`.

    Left out are those with a `fault` (silence, noise, another's voice, …), which is put there for
    filters to find. The sound is NAME.wav if it is there, which no codec has touched. The truth goes
    into the attributes, its values a frame cut like the video.

    Raises:
        InputError: no such folder, or no such clips in it.
    """
    root = folder_of(source)
    found = {}
    for video in videos_by_name(root).values():
        content = _content(video.with_suffix(".json"))
        truth = content.get("truth")
        if isinstance(truth, dict) and truth.get("fault") is None:
            found[video.relative_to(root).with_suffix("").as_posix()] = (video, content)
    if not found:
        raise InputError(
            f"There is no puppet without a fault in {source}; write some with `omnihuman puppets {source}`."
        )

    def clip(name: str) -> Clip:
        if name not in found:
            raise Missing(f"there is no {name}.mp4 with its .json, or it has a fault")
        return _clip(name, *found[name])

    return Collection(root=root, ids=tuple(found), clip=clip, needs_sound=False)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError) as why:
        raise InputError(f"{path} is no JSON: {' '.join(str(why).split())}.") from why
    return content if isinstance(content, dict) else {}


def _clip(name: str, video: Path, content: dict[str, Any]) -> Clip:
    sidecar, truth = read_sidecar(str(video)), content["truth"]
    fps, mouth = truth.get("fps"), truth.get("mouth")
    if not isinstance(fps, int | float) or not fps > 0 or not isinstance(mouth, list) or not mouth:
        raise InputError(f"{video.with_suffix('.json')} has a truth without fps and mouth.")
    a_frame = {k: v for k, v in truth.items() if isinstance(v, list) and len(v) == len(mouth)}
    sound = video.with_suffix(".wav")
    return Clip(
        id=name,
        video=video,
        sound=sound if sound.is_file() else None,
        pose=sidecar if sidecar.keypoints is not None else None,
        truth=a_frame,
        truth_fps=float(fps),
        files=(video.with_suffix(".json"),),
        identity=str(truth.get("identity") or sidecar.speaker),
        text=sidecar.caption,
        attributes={k: v for k, v in truth.items() if k not in a_frame and k != "fps"}
        | {k: v for k in ("language", "transcript") if (v := getattr(sidecar, k))},
    )
