"""The only place that pairs generated videos with what was asked for: a test set, or a manifest."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from omnihuman_jax import media, storage
from omnihuman_jax.data import raw
from omnihuman_jax.errors import InputError
from omnihuman_jax.testsets.reading import TestSet, open_testset

RATE = 16_000
ENDING = ".mp4"
NAMES = ("id", "video", "reference", "audio", "truth")


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a clip without looking at the generated video.

    Attributes:
        reference: the picture that was given.
        sound: 16 kHz, what was to be heard; None without.
        pose: keypoints of every frame of the truth (skeleton.JOINTS); None without.
        fps: of the truth; None where there is none: the video's own then.
        attributes: what else the test set says.
        frames: decodes what really happened; None without.
        mp4: that as the bytes of a video file.
        digest: of all of it: another one makes kept results stale.
    """

    reference: UInt8[np.ndarray, "Y X 3"] | None = None
    sound: Float32[np.ndarray, "samples"] | None = None
    pose: Float32[np.ndarray, "F J 3"] | None = None
    fps: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    frames: Callable[[], np.ndarray] | None = None
    mp4: Callable[[], bytes] | None = None
    digest: str = ""


@dataclass
class Case:
    """A generated video and what it was asked for; decoded once, when somebody looks."""

    id: str
    video: str
    known: Known
    _seen: dict[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def _facts(self) -> raw.Facts:
        return raw.probe(self.video)

    @property
    def fps(self) -> float:
        """The rate at which frames are compared: that of the truth."""
        return self.known.fps or round(self._facts.fps, 3)

    @cached_property
    def frames(self) -> UInt8[np.ndarray, "F Y X 3"]:
        """The video, at the truth's rate. Raises: DecodeError: it is damaged."""
        return np.stack(list(raw.frames(self.video, self._facts, self.fps, whole=True)))

    @cached_property
    def sound(self) -> Float32[np.ndarray, "samples"] | None:
        """What the video lets hear, 16 kHz; None if it is silent. Raises: DecodeError: damaged."""
        return raw.sound(self.video, self._facts)

    @cached_property
    def truth(self) -> UInt8[np.ndarray, "F Y X 3"] | None:
        """What really happened."""
        return None if self.known.frames is None else self.known.frames()

    def once(self, name: str, made: Callable[[], Any]) -> Any:
        """What several metrics need is computed once: `made()` for the first who asks by that name."""
        if name not in self._seen:
            self._seen[name] = made()
        return self._seen[name]


@dataclass(frozen=True)
class Cases:
    """All clips of a test set with their videos, in its order.

    Attributes:
        testset: its name and a fingerprint of all clips: equal for equal sets.
        of: the case of an id.
    """

    testset: str
    ids: tuple[str, ...]
    of: Callable[[str], Case]

    def __iter__(self) -> Iterator[Case]:
        return map(self.of, self.ids)


def sized(frames: UInt8[np.ndarray, "F Y X 3"], height: int, width: int) -> np.ndarray:
    """Scaled to a size, bicubic with a filter where it gets smaller; as it is if it has it."""
    if frames.shape[1:3] == (height, width):
        return frames
    bicubic = Image.Resampling.BICUBIC
    return np.stack(
        [np.asarray(Image.fromarray(f).resize((width, height), bicubic)) for f in frames]
    )


def paired(
    case: Case,
) -> tuple[UInt8[np.ndarray, "F Y X 3"], UInt8[np.ndarray, "F Y X 3"]] | None:
    """Video and truth frame by frame, as long as the shorter, at the truth's size; None without truth."""
    truth = case.truth
    if truth is None:
        return None
    count = min(len(truth), len(case.frames))
    made = case.once("at the truth's size", lambda: sized(case.frames, *truth.shape[1:3]))
    return made[:count], truth[:count]


def of_testset(
    videos: str,
    testset: str | Path,
    named: Callable[[Sequence[str]], Mapping[str, str]] | None = None,
) -> Cases:
    """`videos/<id>.mp4` for each clip of a test set, or what `named` makes of the ids.

    Raises:
        InputError: no such folder, or no such test set.
    """
    folder = Path(videos)
    if not storage.is_remote(videos) and not folder.is_dir():
        raise InputError(f"There is no folder {videos}; give one with <id>{ENDING} of each clip.")
    found = open_testset(testset)
    numbers = {name: k for k, name in enumerate(found.ids.ids)}
    files = {name: f"{name}{ENDING}" for name in numbers} if named is None else named([*numbers])

    def case(name: str) -> Case:
        return Case(name, storage.join(videos, files[name]), known_of(found, numbers[name]))

    return Cases(_named(found), tuple(numbers), case)


def known_of(testset: TestSet, number: int) -> Known:
    """What a test set says of one of its clips."""
    clip = testset[number]
    sums = hashlib.sha256(clip.mp4)
    for part in (clip.reference, clip.sound, clip.pose):
        sums.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
    sums.update(json.dumps(dict(clip.attributes), sort_keys=True).encode())
    return Known(
        reference=clip.reference,
        sound=clip.sound,
        pose=clip.pose,
        fps=float(clip.fps),
        attributes={**clip.attributes, "identity": clip.identity, "text": clip.text},
        frames=clip.video,
        mp4=lambda: clip.mp4,
        digest=sums.hexdigest(),
    )


def _named(testset: TestSet) -> str:
    ids = testset.ids
    whole = [ids.set, ids.fps, ids.size, {name: ids.sources[name] for name in ids.ids}]
    sums = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return f"{ids.set}, {len(ids.ids)} clips, {sums[:12]}"


def of_manifest(path: str) -> Cases:
    """A line of JSON a clip: {"id", "video", "reference", "audio", "truth"}; files may lie beside it.

    `reference` is a picture, `audio` any sound, `truth` a video; each may be left out.

    Raises:
        InputError: not such a file, or an id twice.
    """
    known: dict[str, tuple[str, Known]] = {}
    base = str(Path(path).parent)
    for number, line in enumerate(
        storage.read_bytes(path).decode("utf-8", "replace").splitlines(), 1
    ):
        if line.strip():
            row = _line(path, number, line)
            if row["id"] in known:
                raise InputError(f"{path}, line {number}: the id {row['id']!r} was there before.")
            places = {name: _beside(base, row.get(name)) for name in NAMES[1:]}
            known[row["id"]] = str(places["video"]), _of_files(places)
    if not known:
        raise InputError(f"{path} has no line.")
    sums = hashlib.sha256("\n".join(f"{n}:{k.digest}" for n, (_, k) in known.items()).encode())

    def case(name: str) -> Case:
        return Case(name, *known[name])

    return Cases(f"manifest, {len(known)} clips, {sums.hexdigest()[:12]}", tuple(known), case)


def _line(path: str, number: int, line: str) -> dict[str, str]:
    try:
        row = json.loads(line)
    except ValueError as why:
        raise InputError(f"{path}, line {number} is no JSON: {why}.") from why
    if not isinstance(row, dict) or not {"id", "video"} <= row.keys() <= set(NAMES):
        raise InputError(
            f"{path}, line {number}: needs id and video, and may have {', '.join(NAMES[2:])}."
        )
    if not all(isinstance(value, str) and value for value in row.values()) or ".." in row["id"]:
        raise InputError(f"{path}, line {number}: all values are texts, and an id has no '..'.")
    return row


def _beside(base: str, file: str | None) -> str | None:
    if file is None or storage.is_remote(file) or Path(file).is_absolute():
        return file
    return storage.join(base, file)


def _of_files(places: Mapping[str, str | None]) -> Known:
    reference, audio, truth = places["reference"], places["audio"], places["truth"]
    sums = hashlib.sha256()
    for place in (reference, audio, truth):
        sums.update(
            b"-" if place is None else Path(media.files.existing(place, "a file")).read_bytes()
        )
    return Known(
        reference=None if reference is None else media.read_image(reference),
        sound=None if audio is None else media.read_audio(audio, RATE),
        fps=None if truth is None else round(raw.probe(truth).fps, 3),
        frames=None if truth is None else lambda: _decoded(truth),
        mp4=None if truth is None else lambda: storage.read_bytes(truth),
        digest=sums.hexdigest(),
    )


def _decoded(path: str) -> np.ndarray:
    facts = raw.probe(path)
    return np.stack(list(raw.frames(path, facts, round(facts.fps, 3), whole=True)))


def chosen(cases: Cases, ids: Sequence[str] | None) -> Cases:
    """Some of them, in their order. Raises: InputError: an id that is not there."""
    if ids is None:
        return cases
    if odd := set(ids) - set(cases.ids):
        raise InputError(f"There is no clip {min(odd)} in the test set.")
    return Cases(cases.testset, tuple(n for n in cases.ids if n in set(ids)), cases.of)
