"""The only place that makes a whole clip of the puppet world: who, where, what is said, seen and true.

A clip is a function of the settings and its number alone.
"""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from omnihuman_jax.errors import InputError
from omnihuman_jax.puppets import captions, espeak, sounds
from omnihuman_jax.puppets.identity import Identity, make_identity, randomness
from omnihuman_jax.puppets.motion import ACTIONS, Motion, frozen, make_motion
from omnihuman_jax.puppets.plan import Plan, make_plan
from omnihuman_jax.puppets.sounds import Speech, make_speech
from omnihuman_jax.puppets.view import Shot, make_shot
from omnihuman_jax.puppets.voice import RATE

VOICES = ("auto", "espeak", "formant")
GUEST = 1_000_000  # added to a clip's number: who comes after a cut, who is heard in a dubbed clip
DARK = 0.06  # of the light is left in a dark clip
SUBTITLES = (
    "AND THEN SHE SAID: NEVER!",
    "SUBSCRIBE FOR MORE",
    "PART TWO OF FIVE",
    "*laughs* OH, REALLY?",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the clips of a world have in common. Sizes in pixels.

    Raises:
        InputError: a size, length, rate or voice that cannot work.
    """

    seed: int = 0
    seconds: float = 4.0
    height: int = 256
    width: int = 256
    fps: int = 25
    voices: str = "auto"

    def __post_init__(self) -> None:
        for name, size in (("height", self.height), ("width", self.width)):
            if size % 2 or not 64 <= size <= 2048:
                raise InputError(f"A puppet clip's {name} is even, from 64 to 2048; got {size}.")
        if not 0.4 <= self.height / self.width <= 2.5:
            raise InputError(
                f"A puppet clip is at most 2.5 times as long one way as the other, got "
                f"{self.height}x{self.width}."
            )
        if not 1 <= self.seconds <= 600:
            raise InputError(f"A puppet clip lasts from 1 to 600 seconds, got {self.seconds:g}.")
        if not 5 <= self.fps <= 60:
            raise InputError(f"A puppet clip has from 5 to 60 frames a second, got {self.fps}.")
        if self.seed < 0:
            raise InputError(f"A seed is 0 or more, got {self.seed}.")
        if self.voices not in VOICES:
            raise InputError(f"Voices are one of {', '.join(VOICES)}; got {self.voices!r}.")
        if self.voices == "espeak" and not espeak.installed():
            raise InputError("espeak-ng is not installed; install it or use --voices formant.")

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return round(self.seconds * self.fps)

    @property
    def engine(self) -> str:
        """The voice that "auto" stands for on this machine: "espeak" or "formant"."""
        if self.voices == "auto":
            return "espeak" if espeak.installed() else "formant"
        return self.voices


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip and its truth. `sound` is None where there is no sound track."""

    name: str
    fps: int
    frames: UInt8[np.ndarray, "F Y X 3"]
    sound: Float32[np.ndarray, "samples"] | None
    rate: int = RATE
    pose: Float32[np.ndarray, "F 133 3"]
    caption: str
    speaker: str
    language: str
    transcript: str
    truth: dict[str, Any]

    def sidecar(self) -> dict[str, Any]:
        """What stands in the clip's json."""
        points = np.round(self.pose.astype(np.float64), 4)
        return {
            "caption": self.caption,
            "speaker": self.speaker,
            "language": self.language,
            "transcript": self.transcript,
            "pose": {"fps": self.fps, "keypoints": points.tolist()},
            "truth": self.truth,
        }


def clip_name(number: int) -> str:
    """The name of clip `number`, and of the puppet in it."""
    return f"puppet-{number:05d}"


def make_clip(settings: Settings, number: int) -> Clip:
    """Clip `number` of the world that `settings` describe.

    Truth: `mouth` and `rounding` a frame as drawn; `teaches` says which conditions the clip is good
    for, `fault` why not for others (the first of `faults`; None also for a portrait, which shows no
    arms and so teaches no pose). `voice` is the engine that spoke.
    """
    return _Maker(settings, number).clip()


@dataclass(frozen=True)
class Preview:
    """A clip that is not filmed yet: any of its frames can be drawn."""

    plan: Plan
    shot: Shot
    motion: Motion
    speech: Speech
    sound: Float32[np.ndarray, "samples"] | None
    caption: str

    def frame(self, index: int) -> UInt8[np.ndarray, "Y X 3"]:
        """One frame, as the camera sees it."""
        return self.shot.draw(self.motion.poses[index], *self.motion.camera.at(index))


def preview(settings: Settings, number: int) -> Preview:
    """Clip `number`, for whoever wants only some of its frames."""
    maker = _Maker(settings, number)
    return Preview(
        plan=maker.plan,
        shot=maker.shot,
        motion=maker.motion,
        speech=maker.speech,
        sound=maker.sound(),
        caption=maker.caption(),
    )


class _Maker:
    """The parts of one clip, each made when it is needed."""

    def __init__(self, settings: Settings, number: int) -> None:
        self.settings, self.number = settings, number
        self.plan = make_plan(settings.seed, number)
        self.words = randomness(settings.seed, number, "words")
        self.action = tuple(ACTIONS)[int(self.words.integers(len(ACTIONS)))]
        covers = ("mask", "mic") if self.plan.framing != "full-body" else ("mic",)
        hidden = "hidden_mouth" in self.plan.faults
        self.covered = covers[int(self.words.integers(len(covers)))] if hidden else ""

    @cached_property
    def who(self) -> Identity:
        return make_identity(self.settings.seed, self.number)

    @cached_property
    def speech(self) -> Speech:
        return self._speech(self.number)

    def _speech(self, number: int) -> Speech:
        s = self.settings
        who = make_identity(s.seed, number)
        return make_speech(s.seed, number, who, s.engine, s.seconds, s.fps, s.frames)

    @cached_property
    def motion(self) -> Motion:
        motion = self._motion(self.number, self.plan)
        return frozen(motion) if "frozen" in self.plan.faults else motion

    def _motion(self, number: int, plan: Plan) -> Motion:
        hands = "hidden" if plan.desk or plan.framing == "portrait" else "free"
        return make_motion(
            randomness(self.settings.seed, number, "motion"),
            self.speech.opening.astype(np.float64),
            self.speech.rounding.astype(np.float64),
            self.settings.fps,
            framing=plan.framing,
            action=self.action,
            hands="mic" if self.covered == "mic" else hands,
            lively=1.4 if self.speech.sings else 1.0,
        )

    @cached_property
    def shot(self) -> Shot:
        size = (self.settings.width, self.settings.height)
        rng = randomness(self.settings.seed, self.number, "world")
        return make_shot(rng, self.who, self.plan, size, self.covered)

    def clip(self) -> Clip:
        motion, shot = self.motion, self.shot
        frames, pose = shot.film(motion)
        mouth = np.array([p.look.opening for p in motion.poses])
        rounding = np.array([p.look.rounding for p in motion.poses])
        if "cut" in self.plan.faults:
            frames, pose = self._cut(frames, pose)
        if "dark" in self.plan.faults:
            frames = (frames.astype(np.float32) * DARK).round().astype(np.uint8)
        if "subtitles" in self.plan.faults:
            frames = _subtitled(frames, SUBTITLES[int(self.words.integers(len(SUBTITLES)))])
        return Clip(
            name=clip_name(self.number),
            fps=self.settings.fps,
            frames=frames,
            sound=self.sound(),
            pose=pose,
            caption=self.caption(),
            speaker=self.who.name,
            language=self.speech.language,
            transcript=self.speech.utterance.transcript,
            truth=self._truth(mouth, rounding, shot),
        )

    def _cut(self, frames: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Somebody else, somewhere else, from the middle on."""
        s = self.settings
        guest = make_identity(s.seed, GUEST + self.number)
        plan = replace(
            self.plan, framing="portrait" if self.plan.framing == "half-body" else "half-body"
        )
        rng = randomness(s.seed, GUEST + self.number, "world")
        shot = make_shot(rng, guest, plan, (s.width, s.height), "")
        motion = self._motion(GUEST + self.number, plan)
        half = len(frames) // 2
        rest, rest_pose = shot.film(
            replace(motion, poses=motion.poses[half:], camera=motion.camera.after(half))
        )
        return np.concatenate([frames[:half], rest]), np.concatenate([pose[:half], rest_pose])

    def sound(self) -> Float32[np.ndarray, "samples"] | None:
        s, faults = self.settings, self.plan.faults
        rng = randomness(s.seed, GUEST + self.number, "voice")
        if "no_track" in faults:
            return None
        if "silent" in faults:
            return np.zeros(round(s.seconds * RATE), np.float32)
        if "noise" in faults:
            return sounds.noise(rng, s.seconds)
        if "music" in faults:
            return sounds.music(rng, s.seconds)
        if "dubbed" in faults:
            other = self._speech(GUEST + self.number)
            return sounds.wrong_sound(other.utterance.sound, self.speech.opening, s.fps)
        return self.speech.utterance.sound

    def caption(self) -> str:
        free = self.plan.framing != "portrait" and not self.plan.desk and not self.covered
        action = ACTIONS[self.action][0] if free else "sitting at a desk" if self.plan.desk else ""
        if self.covered:
            action = {"mask": "wearing a face mask", "mic": "holding a microphone"}[self.covered]
        verb = "singing in" if self.speech.sings else "speaking"
        heard = not {"silent", "no_track", "noise", "music"} & set(self.plan.faults)
        return captions.caption(
            randomness(self.settings.seed, self.number, "caption"),
            self.who,
            framing=self.plan.framing,
            action=action,
            place=self.shot.scene.words,
            speech=f"{verb} {self.speech.language_name}" if heard else "talking",
        )

    def _truth(self, mouth: np.ndarray, rounding: np.ndarray, shot: Shot) -> dict[str, Any]:
        who = self.who
        return {
            "fps": self.settings.fps,
            "mouth": np.round(mouth, 4).tolist(),
            "rounding": np.round(rounding, 4).tolist(),
            "identity": who.name,
            "framing": self.plan.framing,
            "teaches": list(self.plan.teaches),
            "fault": self.plan.fault,
            "faults": list(self.plan.faults),
            "voice": self.speech.engine,
            "sings": self.speech.sings,
            "action": self.action,
            "background": shot.scene.name,
            "settings": asdict(self.settings),
            "pixels_per_head": round(shot.scale, 3),
            "skin": list(who.skin),
            "hair": list(who.hair),
            "clothes": list(who.clothes.colour),
        }


def _subtitled(frames: UInt8[np.ndarray, "F Y X 3"], words: str) -> UInt8[np.ndarray, "F Y X 3"]:
    """The frames with white words at the bottom, as burnt-in subtitles are."""
    high, wide = frames.shape[1:3]
    size = min(high * 0.085, wide * 1.7 / len(words))
    font = ImageFont.load_default(size)
    layer = Image.new("RGBA", (wide, high))
    draw = ImageDraw.Draw(layer)
    stroke = max(1, round(size * 0.12))
    draw.text(
        (wide / 2, high * 0.9),
        words,
        (255, 255, 255),
        font,
        "mm",
        stroke_width=stroke,
        stroke_fill=(0, 0, 0),
    )
    over = np.asarray(layer).astype(np.float32)
    alpha = over[..., 3:] / 255
    return (frames * (1 - alpha) + over[..., :3] * alpha).round().astype(np.uint8)
