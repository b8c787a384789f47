"""The only place that knows thresholds: which clips are kept, and which conditions each may teach.

Two kinds of decision (OmniHuman-1, section 4.1 and principle 1). A *bound* on the picture rejects a clip.
The paper's two criteria, lip-sync for audio and visibility for pose, never reject: a clip that fails them
still teaches the weaker conditions. A score that is absent ("not scored") rejects nothing and proves
nothing: what rests on it is not taught.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from omnihuman_jax.conditions import STRENGTH


@dataclass(frozen=True, kw_only=True)
class Between:
    """The values with which a clip is kept, both ends included; not bounded where not given."""

    least: float | None = None
    most: float | None = None

    def broken(self, value: float) -> str | None:
        """Which end `value` is beyond, "least" or "most"; None if it is within. NaN is beyond."""
        if self.least is not None and not value >= self.least:
            return "least"
        return "most" if self.most is not None and not value <= self.most else None


@dataclass(frozen=True, kw_only=True)
class AudioCriterion:
    """When a clip may teach audio: somebody is seen speaking what is heard.

    Attributes:
        speech: least share of the clip with speech; SpeakerVid-5M drops what is to 0.8 no speech.
        face: least share of frames with the face seen. Ours.
        face_size: least height of the face as a share of the picture's: smaller lips are lost in
            latents. Ours.
        people: most faces in the picture, where they are counted: whose voice is it?
        sync_c: least confidence of SyncNet, 3 as LatentSync.
        offset: most frames (at 25 a second) by which SyncNet finds the sound shifted, 6 as LatentSync;
            the sound is then moved to 0.
        lip_correlation: least correlation of lip opening and loudness, asked where SyncNet did not
            run. Ours: on puppets it was 0.71 and more for a mouth that speaks what is heard, 0.47 and
            less under another's voice (two seconds each, shifts of up to 6 frames tried).
        lip_lag: most frames by which the sound fits the lips best when shifted. Ours, as above.
    """

    speech: float = 0.2
    face: float = 0.8
    face_size: float = 0.06
    people: float = 1
    sync_c: float = 3.0
    offset: float = 6.0
    lip_correlation: float = 0.5
    lip_lag: float = 3.0


@dataclass(frozen=True, kw_only=True)
class PoseCriterion:
    """When a clip may teach pose: an arm is seen, and the hands that are seen are not a blur.

    Attributes:
        visible: least share of frames with the shoulders and an arm seen. The paper names the criterion and
            gives no number; ours.
        hand_sharpness: least, where hands are seen; SpeakerVid-5M's 0.1.
    """

    visible: float = 0.8
    hand_sharpness: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """All thresholds, each with the number that was published where there is one.

    A field of kind Between bounds the score of its name; the field's name is the reason of rejection.

    Attributes:
        brightness: mean luma; SpeakerVid-5M.
        sharpness: variance of the Laplacian. Ours: well below any real clip we had (38 to 820).
        clarity: bits for every pixel of every frame. SpeakerVid-5M drops the lowest 5 % of its data;
            a number that needs no second pass must be absolute, and this one is ours.
        frozen: share of moments in which nothing moves. Ours.
        motion: pixels of flow in half a second at a width of 256. VideoX-Fun keeps 2 to 20 on another
            scale; ours lets a person who only speaks pass and drops a camera out of control.
        text_area: share under overlaid text; VideoX-Fun and LVD-2M, 0.02.
        face_sharpness: where a face is seen; SpeakerVid-5M drops below 0.1.
        aesthetic: of the SigLIP predictor, 1 to 10; VideoX-Fun, 4.
        hyperiqa: 0 to 100; LatentSync, 40.
        dover: fused, 0 to 1; SpeakerVid-5M, 0.25.
        iqa, ase: of q-align, 1 to 5. None is published as a filter; 2 is its word "poor".
        reference: least share of frames with a face or both shoulders, for the reference picture to
            show somebody. Ours.
    """

    brightness: Between = Between(least=10, most=210)
    sharpness: Between = Between(least=8)
    clarity: Between = Between(least=0.002)
    frozen: Between = Between(most=0.5)
    motion: Between = Between(least=0.05, most=40)
    text_area: Between = Between(most=0.02)
    face_sharpness: Between = Between(least=0.1)
    aesthetic: Between = Between(least=4)
    hyperiqa: Between = Between(least=40)
    dover: Between = Between(least=0.25)
    iqa: Between = Between(least=2)
    ase: Between = Between(least=2)
    reference: float = 0.5
    audio: AudioCriterion = AudioCriterion()
    pose: PoseCriterion = PoseCriterion()

    def bounds(self) -> dict[str, Between]:
        """The scores that can reject a clip, in the order in which they are asked."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if isinstance(value, Between)}

    def limits(self) -> dict[str, tuple[float | None, float | None]]:
        """Every threshold by score, least and most, for pictures of how scores are spread."""
        audio, pose = self.audio, self.pose
        shown: dict[str, tuple[float | None, float | None]] = {
            name: (bound.least, bound.most) for name, bound in self.bounds().items()
        }
        return shown | {
            "speech_ratio": (audio.speech, None),
            "face_visible": (audio.face, None),
            "face_size": (audio.face_size, None),
            "people": (None, audio.people),
            "sync_c": (audio.sync_c, None),
            "offset": (-audio.offset, audio.offset),
            "lip_correlation": (audio.lip_correlation, None),
            "lip_lag": (-audio.lip_lag, audio.lip_lag),
            "person_visible": (self.reference, None),
            "pose_visible": (pose.visible, None),
            "hand_sharpness": (pose.hand_sharpness, None),
        }


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a clip is good for.

    Attributes:
        reason: why it is rejected, one word; None for a clip that is kept.
        detail: the number and the threshold, for people.
        teaches: conditions that a kept clip may train.
        untaught: for each other condition why not.
    """

    reason: str | None = None
    detail: str = ""
    teaches: frozenset[str] = frozenset()
    untaught: Mapping[str, str] = field(default_factory=dict)


def rejection(scores: Mapping[str, float], thresholds: Thresholds) -> tuple[str, str] | None:
    """The first bound that a score breaks: its name, and a line with the number; None if none does."""
    for name, bound in thresholds.bounds().items():
        side = bound.broken(scores[name]) if name in scores else None
        if side:
            return name, f"{name} is {scores[name]:.4g}, at {side} {getattr(bound, side):g} is kept"
    return None


def judge(
    scores: Mapping[str, float],
    thresholds: Thresholds,
    *,
    has_text: bool,
    has_pose: bool,
    has_sound: bool,
) -> Verdict:
    """Keep or reject, and what a kept clip teaches; "nothing" is the reason where nothing is left.

    Scores by name, as quality.py and preprocess.py name them; the sidecar's win before this is asked.
    """
    broken = rejection(scores, thresholds)
    if broken:
        return Verdict(reason=broken[0], detail=broken[1])
    why_not = {
        "text": None if has_text else "no caption",
        "reference": _why_no_reference(scores, thresholds),
        "audio": _why_no_audio(scores, thresholds.audio) if has_sound else "no sound track",
        "pose": _why_no_pose(scores, thresholds.pose) if has_pose else "no keypoints",
    }
    untaught = {name: why for name, why in why_not.items() if why is not None}
    teaches = frozenset(STRENGTH).difference(untaught)
    if not teaches:
        said = "; ".join(f"{name}: {why}" for name, why in untaught.items())
        return Verdict(reason="nothing", detail=f"it teaches nothing ({said})", untaught=untaught)
    return Verdict(teaches=teaches, untaught=untaught)


def _why_no_reference(scores: Mapping[str, float], thresholds: Thresholds) -> str | None:
    return _below(scores, "person_visible", thresholds.reference)


def _why_no_audio(scores: Mapping[str, float], least: AudioCriterion) -> str | None:
    why = (
        _below(scores, "speech_ratio", least.speech)
        or _below(scores, "face_visible", least.face)
        or _below(scores, "face_size", least.face_size)
    )
    if why:
        return why
    if scores.get("people", 0) > least.people:
        return f"{scores['people']:g} people"
    if "sync_c" in scores:
        shift, most, score, enough = "offset", least.offset, "sync_c", least.sync_c
    else:
        shift, most, score, enough = (
            "lip_lag",
            least.lip_lag,
            "lip_correlation",
            least.lip_correlation,
        )
    if not abs(scores.get(shift, 0)) <= most:
        return f"{shift} is {scores[shift]:g} frames, at most {most:g}"
    return _below(scores, score, enough)


def _why_no_pose(scores: Mapping[str, float], least: PoseCriterion) -> str | None:
    why = _below(scores, "pose_visible", least.visible)
    if why or "hand_sharpness" not in scores:  # no hand is seen
        return why
    return _below(scores, "hand_sharpness", least.hand_sharpness)


def _below(scores: Mapping[str, float], name: str, least: float) -> str | None:
    if name not in scores:
        return f"{name} not scored"
    return None if scores[name] >= least else f"{name} is {scores[name]:.4g}, below {least:g}"
