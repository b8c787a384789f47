"""A raw video → candidates and rejections: the only place that knows the order of the steps.

    probe ─► cuts, at 256 pixels ─► scenes ─► segments ─► scores, at 512 pixels ─► crop ─► final size
             first pass, whole file           second pass, a segment              third, kept ones

Nothing here holds more than one segment, so a film takes no more memory than a clip.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from omnihuman_jax import geometry, skeleton
from omnihuman_jax.data import crop, filters, quality, raw, scenes
from omnihuman_jax.data.candidates import Candidate, Rejection
from omnihuman_jax.data.filters import Thresholds, Verdict
from omnihuman_jax.data.scorers import Scorer
from omnihuman_jax.data.sidecar import Sidecar, read_sidecar
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid

CUTS_SIDE = 256  # the longer side, where cuts are looked for
ANALYSIS_SIDE = 512  # the longer side, where landmarks and scores are measured
STRIP, STRIP_WIDTH = 4, 96  # frames of a thumbnail, and how wide each is


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What clips to make. The defaults are those of the `mini` model.

    Attributes:
        fps: frames a second of every clip.
        lengths: allowed clip lengths, each 4n+1 frames; the longest that fits is taken first.
        areas: pixels of a clip's frame, at the most; the largest that needs no great enlarging is taken.
        max_upscale: how many times larger than in the raw video a clip may show anything.
        min_fps: a raw video with fewer pictures a second is rejected ("frame_rate").
        cut: how much larger than around it a change must be for a cut (scenes.cuts).
        trim: frames left out on both sides of a cut.
        hdr: "map" shows high dynamic range as ordinary video (hdr.py), "reject" rejects it ("hdr").
        lead: seconds of sound kept before and after a clip, for encoders that listen around.
        thresholds: of the filters.
    """

    fps: float = 25.0
    lengths: tuple[int, ...] = (49,)
    areas: tuple[int, ...] = (192 * 192,)
    max_upscale: float = 1.25
    min_fps: float = 12.0
    cut: float = 2.0
    trim: int = 4
    hdr: str = "map"
    lead: float = 1.0
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        if not self.lengths or not self.areas:
            raise InputError("At least one clip length and one area are needed.")
        for length in self.lengths:
            Grid(length, geometry.CELL, geometry.CELL)  # says what is wrong with a length
        for area in self.areas:
            geometry.nearest_size(1, 1, area)
        if not 1 <= self.fps <= 240 or self.max_upscale <= 0 or self.trim < 0 or self.lead < 0:
            raise InputError(
                "fps lies between 1 and 240, max_upscale is above 0, trim and lead are not below; got "
                f"{self.fps:g}, {self.max_upscale:g}, {self.trim} and {self.lead:g}."
            )
        if self.hdr not in ("map", "reject"):
            raise InputError(f"hdr is map or reject, got {self.hdr!r}.")


type Landmarks = Callable[[np.ndarray, float], np.ndarray]
type Speech = Callable[[np.ndarray], float]
type Lips = Callable[[np.ndarray, np.ndarray, float], tuple[float, int] | None]
type People = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Signals:
    """The detectors, passed in; what is not there is not scored.

    Attributes:
        landmarks: (frames UInt8 "F Y X 3", fps) → keypoints Float32 "F 133 3".
        speech: (sound Float32 "samples" at 16 kHz) → the share of it with speech.
        lips: (lip opening Float32 "F" with NaN where unseen, the clip's sound, fps) → how well they
            agree and by how many frames the sound is late, or None where nothing can be said.
        people: (frames) → how many faces are in each, Int "F".
        scorers: further scores of clips that pass everything else (scorers.py).
    """

    landmarks: Landmarks | None = None
    speech: Speech | None = None
    lips: Lips | None = None
    people: People | None = None
    scorers: tuple[Scorer, ...] = ()


def prepare(
    path: str, source: str, settings: Settings, signals: Signals
) -> Iterator[Candidate | Rejection]:
    """What one raw video gives, in order of time. `path` is local or gs://, `source` its name in ids.

    A file at fault costs only itself: what libav raises on it is a DecodeError (raw.py draws that
    boundary around libav alone), which becomes one rejection "decode", as a wrong sidecar becomes one
    "sidecar", both marked as failed. The whole file is decoded before its first clip is given, so
    that no part of a damaged file is used. Any other error is ours and is raised.
    """
    try:
        sidecar = read_sidecar(path)
    except InputError as why:
        yield Rejection(id=source, source=source, reason="sidecar", detail=str(why), failed=True)
        return
    try:
        with raw.local(path) as file:
            yield from _prepared(file, source, sidecar, settings, signals)
    except raw.DecodeError as why:
        yield Rejection(id=source, source=source, reason="decode", detail=str(why), failed=True)


def thumbnail(frames: UInt8[np.ndarray, "F Y X 3"]) -> bytes:
    """Four frames, evenly spaced, side by side, each 96 pixels wide, as JPEG. Nothing of no frames."""
    if not len(frames):
        return b""
    shown = frames[np.linspace(0, len(frames) - 1, min(STRIP, len(frames))).round().astype(int)]
    size = STRIP_WIDTH, max(1, round(frames.shape[1] * STRIP_WIDTH / frames.shape[2]))
    small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in shown]
    strip = cv2.cvtColor(np.concatenate(small, axis=1), cv2.COLOR_RGB2BGR)
    _, coded = cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return coded.tobytes()


def _prepared(
    file: str, source: str, sidecar: Sidecar, settings: Settings, signals: Signals
) -> Iterator[Candidate | Rejection]:
    facts = raw.probe(file)
    unfit = _unfit(facts, settings)
    if unfit:
        step = max(facts.seconds / STRIP, 1e-3)
        some = raw.frames(file, facts, 1 / step, count=STRIP, size=_fitted(facts, CUTS_SIDE))
        yield Rejection(
            id=source,
            source=source,
            reason=unfit[0],
            detail=unfit[1],
            seconds=facts.seconds,
            thumbnail=b"" if facts.transfer == "dolby" else thumbnail(np.stack(list(some))),
        )
        return
    small = raw.frames(file, facts, settings.fps, size=_fitted(facts, CUTS_SIDE), whole=True)
    found, total = scenes.cuts(small, settings.fps, settings.cut)
    video = _Video(file, source, facts, raw.sound(file, facts), sidecar, settings, signals)
    for number, scene in enumerate(scenes.scenes(found, total, settings.trim)):
        yield from video.clips(number, scene)


def _unfit(facts: raw.Facts, settings: Settings) -> tuple[str, str] | None:
    """Why no clip can come of the file, and in numbers."""
    if facts.fps < settings.min_fps:
        return "frame_rate", f"{facts.fps:.4g} pictures a second, at least {settings.min_fps:g}"
    if facts.interlaced:
        return "interlaced", "the pictures are interlaced; deinterlace them first"
    if facts.transfer == "dolby":
        return "hdr", "Dolby Vision without a layer for other screens"
    if facts.transfer and settings.hdr == "reject":
        return "hdr", f"high dynamic range or wide colours ({facts.transfer})"
    return None


@dataclass(frozen=True)
class _Video:
    """A raw video that can be used, and all that its segments share."""

    file: str
    source: str
    facts: raw.Facts
    sound: Float32[np.ndarray, "samples"] | None
    sidecar: Sidecar
    settings: Settings
    signals: Signals

    @property
    def given(self) -> dict[str, float]:
        """Scores that somebody else measured."""
        return dict(self.sidecar.scores)

    def clips(self, number: int, scene: range) -> Iterator[Candidate | Rejection]:
        """What one scene gives. The part after its last whole clip is left out silently."""
        lengths = self.settings.lengths
        segments = scenes.segments(scene, lengths)
        if not segments:
            strip = b""
            if len(scene):
                strip = thumbnail(self._frames(scene, _fitted(self.facts, CUTS_SIDE)))
            yield Rejection(
                id=f"{self.source}#{number:04d}",
                source=self.source,
                reason="duration",
                detail=f"{len(scene)} frames between cuts, at least {min(lengths)} are kept",
                seconds=len(scene) / self.settings.fps,
                thumbnail=strip,
            )
        for place, segment in enumerate(segments):
            name = f"{self.source}#{number:04d}.{place:03d}"
            yield self._clip(name, segment, scene)

    def _clip(self, name: str, segment: range, scene: range) -> Candidate | Rejection:
        thresholds = self.settings.thresholds
        frames = self._frames(segment, _fitted(self.facts, ANALYSIS_SIDE))
        grey = quality.luma(frames)
        content = quality.content(grey)
        scores = self._picture_scores(_cut(grey, content))
        broken = filters.rejection(scores, thresholds)
        if broken:
            return self._rejected(name, *broken, frames, scores)
        content = _scaled(content, self.facts.height / grey.shape[1])
        if self._view(None, content) is None:
            detail = (
                f"{self.facts.height}x{self.facts.width} pixels, enlarged at most "
                f"{self.settings.max_upscale:g} times, do not reach {min(self.settings.areas)}"
            )
            return self._rejected(name, "resolution", detail, frames, scores)
        pose = self._pose(frames, segment)
        view = self._view(pose, content) or self._view(None, content)
        assert view is not None  # asked before
        shown = None if pose is None else view.pose(pose)
        scores |= self._person_scores(frames, grey, pose, shown) | self.given
        scores |= self._sound_scores(segment, shown, view) | self.given
        verdict = self._judged(scores, shown)
        if verdict.reason is None and self.signals.scorers:
            for scorer in self.signals.scorers:
                scores |= scorer(frames, self._heard(segment, 0)[0], self.settings.fps)
            scores |= self.given
            verdict = self._judged(scores, shown)
        if verdict.reason is not None:
            return self._rejected(name, verdict.reason, verdict.detail, frames, scores)
        return self._candidate(name, segment, scene, view, shown, scores, verdict.teaches)

    def _candidate(
        self,
        name: str,
        segment: range,
        scene: range,
        view: crop.View,
        pose: np.ndarray | None,
        scores: Mapping[str, float],
        teaches: frozenset[str],
    ) -> Candidate:
        # LatentSync: what SyncNet finds shifted by a few frames is moved to 0. Its offset o says that
        # picture i belongs to the sound of picture i - o (joonson/syncnet_python), at 25 a second.
        shift = scores.get("offset", 0.0) / 25 if "audio" in teaches and "sync_c" in scores else 0.0
        heard, lead = self._heard(segment, self.settings.lead, shift)
        frames = self._shown(segment, view)
        return Candidate(
            id=name,
            source=self.source,
            grid=Grid(len(segment), view.height, view.width),
            fps=self.settings.fps,
            frames=frames,
            reference=self._reference(name, segment, scene, view, frames, pose),
            sound=heard,
            lead=lead,
            text=self.sidecar.caption,
            pose=pose if _anybody(pose) else None,
            teaches=teaches,
            scores=dict(sorted(scores.items())),
        )

    def _rejected(
        self, name: str, reason: str, detail: str, frames: np.ndarray, scores: Mapping[str, float]
    ) -> Rejection:
        return Rejection(
            id=name,
            source=self.source,
            reason=reason,
            detail=detail,
            seconds=len(frames) / self.settings.fps,
            scores=dict(sorted(scores.items())),
            thumbnail=thumbnail(frames),
        )

    def _judged(self, scores: Mapping[str, float], pose: np.ndarray | None) -> Verdict:
        return filters.judge(
            scores,
            self.settings.thresholds,
            has_text=bool(self.sidecar.caption),
            has_pose=_anybody(pose),
            has_sound=self.sound is not None,
        )

    def _picture_scores(self, grey: UInt8[np.ndarray, "F Y X"]) -> dict[str, float]:
        """What pixels tell. Those given are not measured."""
        fps = self.settings.fps
        scores = {
            "brightness": lambda: quality.brightness(grey),
            "sharpness": lambda: quality.sharpness(grey),
            "clarity": lambda: self.facts.bits_per_pixel,
            "motion": lambda: quality.motion(grey, fps),
            "frozen": lambda: quality.frozen(grey, fps),
            "text_area": lambda: quality.text_area(grey),
        }
        return self._measured(scores) | self.given

    def _person_scores(
        self,
        frames: np.ndarray,
        grey: np.ndarray,
        pose: np.ndarray | None,
        shown: np.ndarray | None,
    ) -> dict[str, float]:
        """What keypoints tell: of what is `shown`; sharpness of faces and hands in the whole picture."""
        # Where keypoints are given it is known who is meant, and no detector runs.
        people = self.signals.people if self.sidecar.keypoints is None else None
        counted = self._measured({"people": lambda: _faces(people, frames)} if people else {})
        if pose is None or shown is None:
            return counted
        return counted | self._measured(
            {
                "face_visible": lambda: quality.face_visible(shown),
                "face_size": lambda: quality.face_size(shown),
                "face_sharpness": lambda: quality.face_sharpness(grey, pose),
                "hand_visible": lambda: quality.hand_visible(shown),
                "hand_sharpness": lambda: quality.hand_sharpness(grey, pose),
                "person_visible": lambda: quality.person_visible(shown),
                "pose_visible": lambda: quality.pose_visible(shown),
            }
        )

    def _sound_scores(
        self, segment: range, pose: np.ndarray | None, view: crop.View
    ) -> dict[str, float]:
        """Whether somebody speaks, and whether these lips do."""
        heard, _ = self._heard(segment, 0)
        if heard is None:
            return {}
        speech, lips = self.signals.speech, self.signals.lips
        scores = self._measured({"speech_ratio": lambda: speech(heard)} if speech else {})
        if lips is not None and pose is not None and "lip_correlation" not in self.given:
            opening = skeleton.lip_opening(pose, view.width / view.height)
            found = lips(opening, heard, self.settings.fps)
            if found is not None:
                scores |= {"lip_correlation": float(found[0]), "lip_lag": float(found[1])}
        return scores

    def _measured(self, scores: Mapping[str, Callable[[], float | None]]) -> dict[str, float]:
        """The scores that are not given and could be measured."""
        values = {name: None if name in self.given else f() for name, f in scores.items()}
        return {name: float(value) for name, value in values.items() if value is not None}

    def _pose(self, frames: np.ndarray, segment: range) -> Float32[np.ndarray, "F 133 3"] | None:
        """Keypoints given, or else looked for; None where neither is done."""
        if self.sidecar.keypoints is not None:
            return self.sidecar.pose(self.settings.fps, len(segment), segment.start)
        if self.signals.landmarks is not None:
            return np.asarray(self.signals.landmarks(frames, self.settings.fps), np.float32)
        return None

    def _view(self, pose: np.ndarray | None, content: crop.Box) -> crop.View | None:
        picture = self.facts.height, self.facts.width
        person = None if pose is None else crop.person(pose, *picture)
        box = crop.around(person, content)
        return crop.view(box, content, picture, self.settings.areas, self.settings.max_upscale)

    def _heard(
        self, segment: range, lead: float, shift: float = 0.0
    ) -> tuple[Float32[np.ndarray, "samples"] | None, int]:
        """The sound of a segment, with up to `lead` seconds before and after, and how long before is."""
        if self.sound is None:
            return None, 0
        rate, fps = raw.SOUND_RATE, self.settings.fps
        start = round((segment.start / fps - shift) * rate)
        stop = start + round(len(segment) / fps * rate)
        before = max(0, start - round(lead * rate))
        after = min(max(stop, len(self.sound)), stop + round(lead * rate))
        heard = np.array(self.sound[max(0, before) : after], np.float32)
        lead_in = start - before
        if lead_in < 0:  # moved to before the file begins
            heard, lead_in = np.pad(heard, (-lead_in, 0)), 0
        missing = (stop - start) + lead_in - len(heard)  # the track ends before the clip does
        return np.pad(heard, (0, max(0, missing))), lead_in

    def _reference(
        self,
        name: str,
        segment: range,
        scene: range,
        view: crop.View,
        frames: np.ndarray,
        pose: np.ndarray | None,
    ) -> UInt8[np.ndarray, "Y X 3"]:
        """A frame of the scene outside the clip in which the person is seen, or else one of the clip.

        Drawn by the clip's id: the same in every run, and nowhere in particular, so that a model cannot
        learn that the reference is the first frame.
        """
        draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        outside = [k for k in scene if k not in segment]
        if outside:
            place = outside[draw % len(outside)]
            one = range(place, place + 1)
            there = None
            if pose is not None:
                there = self._pose(self._frames(one, _fitted(self.facts, ANALYSIS_SIDE)), one)
            if pose is None or there is None or _as_visible(view.pose(there), pose):
                return self._shown(one, view)[0]
        usable = np.arange(len(frames))
        if pose is not None and quality.faces(pose).any():
            usable = np.flatnonzero(quality.faces(pose))
        return frames[usable[draw % len(usable)]].copy()

    def _shown(self, segment: range, view: crop.View) -> UInt8[np.ndarray, "F Y X 3"]:
        """The frames as they will be encoded; only the part that is shown is kept in memory."""
        rows = slice(view.top, view.top + view.height)
        columns = slice(view.left, view.left + view.width)
        stream = self._stream(segment, view.scaled)
        return np.stack([frame[rows, columns].copy() for frame in stream])

    def _frames(self, segment: range, size: tuple[int, int]) -> UInt8[np.ndarray, "F Y X 3"]:
        return np.stack(list(self._stream(segment, size)))

    def _stream(self, segment: range, size: tuple[int, int]) -> Iterator[np.ndarray]:
        return raw.frames(
            self.file,
            self.facts,
            self.settings.fps,
            first=segment.start,
            count=len(segment),
            size=size,
        )


def _faces(people: People, frames: UInt8[np.ndarray, "F Y X 3"]) -> float:
    """How many faces there are for a fifth of the time or more; some frames are looked at."""
    return float(np.percentile(people(quality.some(frames)), 80, method="lower"))


def _anybody(pose: np.ndarray | None) -> bool:
    return pose is not None and bool((pose[..., 2] > 0).any())


def _as_visible(there: np.ndarray, clip: np.ndarray) -> bool:
    """Whether a single frame shows the face if the clip does, and else anybody."""
    if quality.face_visible(clip) >= 0.5:
        return bool(quality.faces(there)[0])
    return quality.person_visible(there) > 0 or quality.person_visible(clip) < 0.5


def _fitted(facts: raw.Facts, side: int) -> tuple[int, int]:
    """Height and width with the longer of them `side` at most."""
    scale = min(1.0, side / max(facts.height, facts.width))
    return max(1, round(facts.height * scale)), max(1, round(facts.width * scale))


def _scaled(box: crop.Box, scale: float) -> crop.Box:
    return crop.Box(box.top * scale, box.left * scale, box.height * scale, box.width * scale)


def _cut(grey: UInt8[np.ndarray, "F Y X"], box: crop.Box) -> UInt8[np.ndarray, "F y x"]:
    rows, columns = slice(int(box.top), int(box.bottom)), slice(int(box.left), int(box.right))
    return grey[:, rows, columns]
