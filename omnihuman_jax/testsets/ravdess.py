"""The only place that knows how RAVDESS names its files: seven numbers that say all about a recording.

RAVDESS (Livingstone & Russo 2018, Zenodo 1188976): 24 actors speak and sing two sentences in eight
moods. **CC BY-NC-SA 4.0.** Of its 7,356 files the test set draws from the 2,452 with picture and sound.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnihuman_jax.errors import InputError
from omnihuman_jax.testsets.clips import Clip, Collection, Missing, folder_of, videos_by_name

LICENCE = "RAVDESS: CC BY-NC-SA 4.0"
HOMEPAGE = "https://zenodo.org/records/1188976"
VOCAL = {1: "speech", 2: "song"}
EMOTION = {
    1: "neutral",
    2: "calm",
    3: "happy",
    4: "sad",
    5: "angry",
    6: "fearful",
    7: "disgusted",
    8: "surprised",
}
STATEMENT = {1: "Kids are talking by the door.", 2: "Dogs are sitting by the door."}
INTENSITY = {1: "normal", 2: "strong"}
SUNG = 6  # the first six moods are sung as well
DID_NOT_SING = 18  # this actor


def published() -> tuple[str, ...]:
    """The names, without ending, of all recordings with picture and sound: 1,440 spoken, 1,012 sung."""
    names = []
    for vocal, mood, strength, words, time, actor in itertools.product(
        VOCAL, EMOTION, INTENSITY, STATEMENT, (1, 2), range(1, 25)
    ):
        sung = vocal == 2
        if (EMOTION[mood] == "neutral" and strength == 2) or (
            sung and (mood > SUNG or actor == DID_NOT_SING)
        ):
            continue
        names.append("-".join(f"{n:02d}" for n in (1, vocal, mood, strength, words, time, actor)))
    return tuple(names)


def collection(source: str) -> Collection:
    """The recordings `01-01-*.mp4` and `01-02-*.mp4` in any folder below `source`.

    So `Actor_01/…`, `Video_Speech_Actor_01/Actor_01/…` and a flat folder are all found.

    Raises:
        InputError: no such folder, or none of the recordings in it.
    """
    root = folder_of(source)
    ids, videos = published(), videos_by_name(root)
    if not any(name in videos for name in ids):
        raise InputError(
            f"There is no recording of RAVDESS with picture and sound in {source}: none is named as "
            "Actor_01/01-01-01-01-01-01-01.mp4 is."
        )
    known = frozenset(ids)
    return Collection(root=root, ids=ids, clip=lambda name: _clip(name, known, videos))


def meaning(name: str) -> dict[str, Any]:
    """What a file name says.

    >>> meaning("01-02-05-02-01-01-12")["emotion"]
    'angry'
    """
    _, vocal, mood, strength, words, time, actor = map(int, name.split("-"))
    return {
        "vocal": VOCAL[vocal],
        "emotion": EMOTION[mood],
        "intensity": INTENSITY[strength],
        "statement": STATEMENT[words],
        "repetition": time,
        "actor": actor,
        "sex": "male" if actor % 2 else "female",
    }


def _clip(name: str, known: frozenset[str], videos: Mapping[str, Path]) -> Clip:
    if name not in known:
        raise Missing("RAVDESS has no such recording")
    if name not in videos:
        raise Missing(f"there is no {name}.mp4")
    said = meaning(name)
    person = "man" if said["sex"] == "male" else "woman"
    does = "speaks" if said["vocal"] == "speech" else "sings"
    mood = ("very " if said["intensity"] == "strong" else "") + said["emotion"]
    return Clip(
        id=name,
        video=videos[name],
        identity=f"ravdess-{said['actor']:02d}",
        text=f"A {person} {does} to the camera, {mood}.",
        attributes=said,
    )
