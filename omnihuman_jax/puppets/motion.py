"""The only place that makes puppets move: head, eyes, breath, arms and camera, in time with the speech."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from omnihuman_jax.puppets.face import Look
from omnihuman_jax.puppets.figure import Pose
from omnihuman_jax.puppets.limbs import Arm

type Track = Float[np.ndarray, "F"]

_UP = -np.pi / 2
REST = Arm((0.2, 0.98), 2.9, -1, (0.3, 0.25, 0.3, 0.3, 0.35), 0.3)
HANG = Arm((0.6, 1.4), 1.66, -0.6, (0.3, 0.3, 0.3, 0.35, 0.4), 0.2)
BEHIND_DESK = Arm((0.34, 1.4), 2.4, -1, (0.3, 0.3, 0.3, 0.3, 0.3), 0.2)
GESTURES: dict[str, Arm] = {
    "open": Arm((0.84, 0.7), -0.4, 1, (0.1, 0.1, 0.1, 0.15, 0.2), 0.9),
    "offer": Arm((0.62, 0.78), 0.15, 0.9, (0.1, 0.05, 0.1, 0.15, 0.2), 0.6),
    "pinch": Arm((0.52, 0.66), -1.2, 0.8, (0.55, 0.55, 0.25, 0.15, 0.1), 0.5),
    "point": Arm((0.74, 0.28), _UP, 1, (0.85, 0, 1, 1, 1), 0.2),
    "two": Arm((0.76, 0.26), -1.5, 1, (1, 0, 0, 1, 1), 0.9),
    "three": Arm((0.76, 0.26), -1.5, 1, (1, 0, 0, 0, 1), 0.8),
    "heart": Arm((0.1, 0.55), 3.0, -1, (0.1, 0.05, 0.05, 0.1, 0.15), 0.4),
    "thumb": Arm((0.52, 0.62), 3.14, -1, (-0.3, 1, 1, 1, 1), 0),
    "fist": Arm((0.62, 0.5), -1.4, -1, (1, 1, 1, 1, 1), 0.2),
    "wave": Arm((0.92, 0.08), -1.4, 1, (0, 0, 0, 0, 0), 1),
    "hip": Arm((0.5, 1.1), 2.6, -0.8, (0.2, 0.3, 0.3, 0.3, 0.3), 0.3),
}
"""Places and shapes of a hand, as on the image's right."""

ACTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "explains": ("explaining something with both hands", ("open", "offer", "pinch", "open")),
    "points": ("pointing a finger up", ("point", "pinch", "point")),
    "counts": ("counting on the fingers", ("point", "two", "three")),
    "waves": ("waving a hand", ("wave", "open", "wave")),
    "feels": ("laying a hand on the heart", ("heart", "offer", "heart")),
    "cheers": ("giving a thumbs up", ("thumb", "fist", "thumb")),
    "listens": ("hardly moving the hands", ()),
}
BOTH = ("explains", "cheers")  # with both hands

MOVE = 0.42  # seconds a hand takes from one place to another
BLINK = 0.14  # seconds
BEAT_GAP = 0.3  # seconds between beats, at least


@dataclass(frozen=True)
class Camera:
    """Zoom (1: none) and shift in frame heights."""

    zoom: Track
    x: Track
    y: Track

    def at(self, frame: int) -> tuple[float, float, float]:
        """Zoom and shift in one frame."""
        return float(self.zoom[frame]), float(self.x[frame]), float(self.y[frame])

    def after(self, frame: int) -> "Camera":
        """From `frame` on."""
        return Camera(self.zoom[frame:], self.x[frame:], self.y[frame:])


@dataclass(frozen=True)
class Motion:
    """A pose a frame, the camera, and what the hands do."""

    poses: tuple[Pose, ...]
    camera: Camera
    action: str


def ease(t: np.ndarray) -> np.ndarray:
    """From 0 to 1 with the least jerk (Flash & Hogan 1985)."""
    t = np.clip(t, 0, 1)
    return t**3 * (10 - 15 * t + 6 * t**2)


def wander(rng: np.random.Generator, times: Track, slow: float = 0.12, fast: float = 0.55) -> Track:
    """A smooth, aimless signal of about -1 to 1: a few sines between two frequencies in Hz."""
    rates = rng.uniform(slow, fast, 4)
    phases = rng.uniform(0, 2 * np.pi, 4)
    weights = slow / rates + 0.3
    waves = np.sin(2 * np.pi * rates[:, None] * times + phases[:, None])
    return (weights @ waves) / np.sqrt((weights**2).sum())


def beats(opening: Track, fps: float) -> list[int]:
    """Frames of the stressed syllables: peaks of the mouth's opening, at least `BEAT_GAP` apart."""
    width = max(1, round(0.12 * fps))
    smooth = np.convolve(
        opening, np.hanning(2 * width + 1) / np.hanning(2 * width + 1).sum(), "same"
    )
    inner = smooth[1:-1]
    peaks = 1 + np.flatnonzero((inner > smooth[:-2]) & (inner >= smooth[2:]) & (inner > 0.16))
    kept: list[int] = []
    for peak in sorted(peaks, key=lambda k: -smooth[k]):
        if all(abs(peak - other) >= BEAT_GAP * fps for other in kept):
            kept.append(int(peak))
    return sorted(kept)


def pulses(times: Track, at: np.ndarray, rise: float, fall: float) -> Track:
    """A bump for each time in `at`: up in `rise` seconds before it, down in `fall` after it."""
    since = times[:, None] - np.asarray(at, float)[None]
    bump = ease(1 + since / rise) * (since < 0) + (1 - ease(since / fall)) * (since >= 0)
    return bump.max(axis=1, initial=0.0)


def make_motion(
    rng: np.random.Generator,
    opening: Track,
    rounding: Track,
    fps: float,
    *,
    framing: str,
    action: str,
    hands: str = "free",
    lively: float = 1.0,
) -> Motion:
    """The motion to a mouth's opening and rounding.

    `hands`: "free", "hidden" (kept behind a desk), "mic" (one holds a microphone before the mouth).
    """
    times = (np.arange(len(opening)) + 0.5) / fps
    stress = beats(opening, fps)
    at = times[stress]
    strong = at[rng.random(len(at)) < 0.45]
    yaw = 0.17 * lively * wander(rng, times)
    looks = _looks(rng, times, opening, rounding, yaw, at, strong)
    nod = 0.022 * pulses(times, at, 0.14, 0.3) + 0.012 * wander(rng, times)
    roll = 0.05 * lively * wander(rng, times) + 0.02 * pulses(times, strong, 0.2, 0.5)
    sway = 0.045 * lively * wander(rng, times, 0.15, 0.4)
    lean = 0.02 * lively * wander(rng, times, 0.15, 0.4) + 0.12 * sway
    breath = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.22, 0.32) * times + rng.uniform(0, 6.28))
    swing = np.convolve(
        np.pad(-np.gradient(roll + sway) * fps, 6, "edge"), np.hanning(13) / 6, "valid"
    )
    arms = _arms(rng, times, at, action, framing, hands)
    poses = tuple(
        Pose(
            look=looks[k],
            roll=float(roll[k]),
            nod=float(nod[k]),
            sway=float(sway[k]),
            lean=float(lean[k]),
            breath=float(breath[k]),
            swing=float(np.clip(swing[k] * 1.6, -1, 1)),
            arms=(arms[0][k], arms[1][k]),
        )
        for k in range(len(times))
    )
    return Motion(poses, make_camera(rng, times), action)


def make_camera(rng: np.random.Generator, times: Track) -> Camera:
    """A slow drift and zoom, as of a hand-held camera that is held well."""
    grow = rng.uniform(-0.05, 0.05) * np.linspace(-1, 1, len(times))
    zoom = 1 + grow + 0.008 * wander(rng, times, 0.1, 0.3)
    x, y = (0.012 * wander(rng, times, 0.08, 0.3) for _ in "xy")
    return Camera(zoom, x, y)


def _looks(
    rng: np.random.Generator,
    times: Track,
    opening: Track,
    rounding: Track,
    yaw: Track,
    at: np.ndarray,
    strong: np.ndarray,
) -> list[Look]:
    pitch = 0.06 * wander(rng, times) + 0.07 * pulses(times, at, 0.14, 0.3)
    shut = np.cumsum(rng.exponential(2.4, 12) + 0.5) - rng.uniform(0.3, 2)
    lids = 1 - pulses(times, shut, BLINK / 2, BLINK)
    brows = 0.9 * pulses(times, strong, 0.16, 0.45) + 0.15 * wander(rng, times)
    smile = 0.45 + 0.3 * wander(rng, times, 0.1, 0.3)
    glances = np.concatenate([[0], np.cumsum(rng.exponential(1.1, 14) + 0.25)])
    targets = (
        rng.normal(0, 1, (len(glances), 2)) * (0.55, 0.3) * (rng.random((len(glances), 1)) < 0.55)
    )
    gaze = np.stack([_keys(times, glances, targets[:, k], 0.08) for k in (0, 1)], axis=1)
    gaze[:, 0] -= 1.2 * yaw  # eyes stay on the viewer while the head turns
    return [
        Look(
            opening=float(opening[k]),
            rounding=float(rounding[k]),
            smile=float(np.clip(smile[k], 0, 1)),
            lids=float(lids[k]),
            gaze=(float(gaze[k, 0]), float(gaze[k, 1])),
            brows=float(np.clip(brows[k], -0.5, 1)),
            yaw=float(yaw[k]),
            pitch=float(pitch[k]),
        )
        for k in range(len(times))
    ]


def _keys(times: Track, at: np.ndarray, values: np.ndarray, move: float) -> Track:
    """Goes to each of `values` at its time, within `move` seconds."""
    steps = np.diff(values, prepend=0.0)
    return (steps * ease((times[:, None] - at) / move)).sum(axis=1)


def _arms(
    rng: np.random.Generator, times: Track, at: np.ndarray, action: str, framing: str, hands: str
) -> tuple[list[Arm], list[Arm]]:
    """The arm on the image's left and the one on its right, frame by frame."""
    shapes = tuple(GESTURES[name] for name in ACTIONS[action][1] if hands != "hidden")
    rest = HANG if framing == "full-body" else REST
    rest = BEHIND_DESK if hands == "hidden" else rest
    first = int(rng.integers(2))  # which hand leads
    tracks = []
    for hand in (0, 1):
        leads = hand == first
        moving = shapes if leads or action in BOTH else ()
        still = rest
        if not leads and shapes and not moving and framing == "full-body" and rng.random() < 0.35:
            still = GESTURES["hip"]
        keys = _gesture_keys(rng, times, at, moving, still, leads)
        tracks.append(_arm_track(rng, times, at, keys, action == "waves" and leads, bool(shapes)))
    if hands == "mic":
        tracks[1] = [HOLDING] * len(times)
    return tracks[0], tracks[1]


HOLDING = Arm((0.2, 0.12), -1.9, -1, (0.7, 1, 1, 1, 1), 0)  # a microphone


def _gesture_keys(
    rng: np.random.Generator,
    times: Track,
    at: np.ndarray,
    shapes: tuple[Arm, ...],
    rest: Arm,
    leads: bool,
) -> list[tuple[float, Arm]]:
    """When the hand starts for which place: a gesture on a beat, rest in the pauses."""
    keys = [(-1.0, rest)]
    if not shapes:
        return keys
    place, free = 0, -0.3 if leads else 0.4
    for k, beat in enumerate(at):
        if beat > free:
            keys.append((beat - MOVE * 0.8, shapes[place % len(shapes)]))
            place += 1
            free = beat + float(rng.uniform(0.8, 1.5))
        last = k == len(at) - 1 or at[k + 1] - beat > 0.95
        if last and beat < times[-1] - 0.6:
            keys.append((max(beat + 0.45, keys[-1][0] + MOVE), rest))
            free = beat + 0.3
    return keys


def _arm_track(
    rng: np.random.Generator,
    times: Track,
    at: np.ndarray,
    keys: list[tuple[float, Arm]],
    waves: bool,
    gestures: bool,
) -> list[Arm]:
    when = np.array([key[0] for key in keys])
    table = np.array([[*arm.wrist, arm.angle, arm.palm, *arm.curls, arm.spread] for _, arm in keys])
    values = np.stack(
        [_keys(times, when, table[:, k], MOVE) for k in range(table.shape[1])], axis=1
    )
    busy = _keys(
        times,
        when,
        np.array([0.0] + [0.0 if arm in (REST, HANG) else 1.0 for _, arm in keys[1:]]),
        MOVE,
    )
    beat = pulses(times, at, 0.16, 0.28)
    amount = 0.02 + (0.065 * busy if gestures else 0)
    values[:, 1] += amount * (beat - 0.3) + 0.012 * wander(rng, times)
    values[:, 0] += 0.018 * wander(rng, times) + 0.03 * busy * beat
    values[:, 2] += 0.05 * wander(rng, times) + 0.12 * busy * beat
    values[:, 4:9] += 0.05 * busy[:, None] * wander(rng, times)[:, None]
    if waves:
        high = np.clip((0.5 - values[:, 1]) / 0.35, 0, 1)
        values[:, 2] += 0.38 * high * np.sin(2 * np.pi * 2.1 * times)
        values[:, 0] += 0.05 * high * np.sin(2 * np.pi * 2.1 * times)
    return [
        Arm((float(v[0]), float(v[1])), float(v[2]), float(np.clip(v[3], -1, 1)),
            tuple(float(c) for c in np.clip(v[4:9], -0.3, 1)), float(np.clip(v[9], 0, 1)))
        for v in values
    ]  # fmt: skip


def frozen(motion: Motion) -> Motion:
    """The first frame for ever."""
    count = len(motion.poses)
    still = [
        np.full(count, track[0]) for track in (motion.camera.zoom, motion.camera.x, motion.camera.y)
    ]
    return replace(motion, poses=motion.poses[:1] * count, camera=Camera(*still))
