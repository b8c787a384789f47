"""The only place that finds a known puppet's 17 joints in pixels alone, drawn or generated.

Analysis by synthesis: the puppet is drawn again in many poses, and the pose whose picture is most like
the frame is taken. Who it is, its backdrop and how large it stands are known; its pose is not.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageFilter

from omnihuman_jax import skeleton
from omnihuman_jax.puppets import face, hair, limbs
from omnihuman_jax.puppets.canvas import Canvas
from omnihuman_jax.puppets.face import Look
from omnihuman_jax.puppets.figure import Figure, Pose, body_place, head_place
from omnihuman_jax.puppets.limbs import Arm
from omnihuman_jax.puppets.motion import ACTIONS, HANG, REST, make_motion
from omnihuman_jax.puppets.view import Shot

BLUR = 0.012  # of the frame's height: pictures are compared with their finest detail gone
CLIP = 70.0  # a pixel this far off is simply wrong; how wrong says nothing
SPREAD = {  # of what the trunk and the head do (motion.py): one standard deviation
    "zoom": 0.03, "x": 0.012, "y": 0.012, "roll": 0.055, "yaw": 0.17, "pitch": 0.05,
    "nod": 0.015, "sway": 0.045, "lean": 0.02,
}  # fmt: skip
NOISE = 24.0  # grey values: one standard deviation of what no pose explains
ROUNDS = 3
ARMS = 128  # poses of an arm tried in every frame
STEPS = (0.08, 0.04, 0.02)  # head heights, about the best of them
TURN = 4.0  # radians of the hand's direction tried for a head height of its place
FAR = 0.06  # grey values a squared head height: an arm nobody would make must look better by that


@dataclass(frozen=True)
class PoseReader:
    """Finds the joints of the puppet of one shot.

    On drawn frames of 96x96 it is off by 0.008 of the frame in half-body shots (0.015 for a nose, 0.006 for
    a wrist), by 0.004 in full-body ones. It looks for a puppet without a desk or anything in its hands.
    """

    shot: Shot
    arms: int = ARMS

    def __call__(self, frames: UInt8[np.ndarray, "F Y X 3"]) -> Float32[np.ndarray, "F 17 3"]:
        """x and y as shares of the frame, and 1 where the joint is in the frame; each frame by itself."""
        return np.stack([self._frame(_blurred(frame)) for frame in frames])

    def _frame(self, seen: Float32[np.ndarray, "Y X 3"]) -> Float32[np.ndarray, "17 3"]:
        body = self._body(seen)
        pose = replace(_pose(body, self.rest), arms=self._both(seen, body))
        points = self.shot.keypoints(pose, *(float(v) for v in _camera(body)))
        return points[skeleton.BODY]

    @cached_property
    def rest(self) -> Arm:
        return HANG if self.shot.framing == "full-body" else REST

    @cached_property
    def bare(self) -> Shot:
        """The same without arms."""
        return replace(self.shot, figure=_Bare(self.shot.figure.who, self.shot.scale))

    def _draw(self, body: np.ndarray) -> Float32[np.ndarray, "Y X 3"]:
        return _blurred(self.bare.draw(_pose(body, self.rest), *(float(v) for v in _camera(body))))

    @cached_property
    def slopes(self) -> Float32[np.ndarray, "K Y X 3"]:
        """How the picture changes with each of `SPREAD`, a standard deviation each."""
        zero = np.zeros(len(SPREAD))
        both = [[self._draw(zero + s * row) for s in (0.7, -0.7)] for row in np.eye(len(SPREAD))]
        return np.stack([(a - b) / 1.4 for a, b in both])

    @cached_property
    def trusted(self) -> Float32[np.ndarray, "Y X 1"]:
        """1 where only head and trunk are: on the puppet, above the hands at rest, not the mouth."""
        zero = np.zeros(len(SPREAD))
        who = self.bare.figure
        ink = [self._on_plain(shade, who, zero) for shade in (0, 255)]
        alpha = 1 - (ink[1] - ink[0]).mean(axis=-1, keepdims=True) / 255
        points = self.shot.keypoints(_pose(zero, self.rest))
        high, wide = alpha.shape[:2]
        y, x = (np.mgrid[:high, :wide] + 0.5) / np.array([[[high]], [[wide]]])
        unit = self.shot.scale / high
        chest = points[5:7, 1].mean() + (0.25 if self.shot.framing != "full-body" else 9) * unit
        mouth = points[skeleton.FACE][48:, :2].mean(axis=0)
        off = (y > chest) | (np.hypot(x - mouth[0], y - mouth[1] - 0.05 * unit) < 0.17 * unit)
        return (alpha * ~off[..., None]).astype(np.float32)

    def _on_plain(self, shade: int, figure: Figure, body: np.ndarray) -> np.ndarray:
        size = self.shot.size
        canvas = self._canvas(Image.new("RGB", size, (shade,) * 3), body)
        figure.draw(canvas, _pose(body, self.rest), size, legs=self.shot.legs)
        return _blurred(canvas.pixels())

    def _canvas(self, picture: Image.Image, body: np.ndarray) -> Canvas:
        zoom, x, y = _camera(body)
        half, high = np.array(self.shot.size) / 2, self.shot.size[1]
        middle, shift = np.array(self.shot.middle), np.array([x, y]) * high
        scale = self.shot.scale * zoom
        return Canvas(picture, lambda p: (p - middle) * scale + half + shift, self.shot.scale)

    def _body(self, seen: Float32[np.ndarray, "Y X 3"]) -> Float[np.ndarray, "K"]:
        """Camera, trunk and head in standard deviations: least squares with these as the prior, in which
        pixels far off (a hand, hair that swings, what a network made up) count little."""
        at = np.zeros(len(SPREAD))
        for _ in range(ROUNDS):
            rest = seen - self._draw(at)
            weight = self.trusted / np.maximum(1, np.abs(rest).mean(-1, keepdims=True) / NOISE)
            weighed = (self.slopes * weight).reshape(len(at), -1)
            # Blurred neighbours tell the same: so many pixels are worth about one.
            same = NOISE**2 * (1 + 4 * np.pi * (BLUR * seen.shape[0]) ** 2) * 3
            square = weighed @ self.slopes.reshape(len(at), -1).T / same + np.eye(len(at))
            step = np.linalg.solve(square, weighed @ rest.ravel() / same - at)
            at = np.clip(at + step, -3, 3)
        return at

    @cached_property
    def bank(self) -> list[Arm]:
        """Arms as puppets hold them, of all their gestures, said by nobody in particular."""
        rng = np.random.default_rng(0)
        found: list[Arm] = [self.rest]
        for action in ACTIONS:
            speech = 0.5 + 0.5 * np.sin(np.arange(400) * 0.55)
            motion = make_motion(
                rng, speech, 0 * speech, 25, framing=self.shot.framing, action=action
            )
            found += [arm for pose in motion.poses[10:] for arm in pose.arms]
        return _different(found, self.arms)

    @cached_property
    def sprites(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """For each side: the arms of the bank as colour times cover, and cover; every second pixel."""
        made = {}
        zero = np.zeros(len(SPREAD))
        for side in (-1, 1):
            colour, cover = [], []
            for arm in self.bank:
                dark, light = (
                    _blurred(self._with_arm(Image.new("RGB", self.shot.size, (s,) * 3), zero, arm, side))
                    for s in (0, 255)
                )  # fmt: skip
                colour.append(dark[::2, ::2])
                cover.append(1 - (light - dark)[::2, ::2].mean(axis=-1, keepdims=True) / 255)
            made[side] = (np.stack(colour), np.stack(cover).astype(np.float32))
        return made

    def _with_arm(
        self, picture: Image.Image, body: np.ndarray, arm: Arm, side: int
    ) -> UInt8[np.ndarray, "Y X 3"]:
        canvas = self._canvas(picture, body).placed(body_place(_pose(body, self.rest)))
        limbs.draw_arm(canvas, self.shot.figure.who, arm, side)
        return canvas.pixels()

    def _both(self, seen: np.ndarray, body: np.ndarray) -> tuple[Arm, Arm]:
        """The two arms: the best of the bank, in turn and once more, and what is best about these."""
        base = self.bare.draw(_pose(body, self.rest), *(float(v) for v in _camera(body)))
        dx, dy = self._shift(body)
        still = np.roll(seen, (-dy, -dx), (0, 1))[::2, ::2]
        behind = np.roll(_blurred(base), (-dy, -dx), (0, 1))[::2, ::2]
        best = dict.fromkeys((-1, 1), self.rest)
        with_one = behind
        for side in (-1, 1, -1, 1):
            colour, cover = self.sprites[side]
            cost = _cost(colour + (1 - cover) * with_one - still, axis=(1, 2, 3))
            k = int(np.argmin(cost))
            best[side] = self.bank[k]
            with_one = colour[k] + (1 - cover[k]) * behind
        for side in (-1, 1):
            other = self._with_arm(Image.fromarray(base), body, best[-side], -side)
            best[side] = self._refined(seen, Image.fromarray(other), body, best[side], side)
        return best[-1], best[1]

    def _refined(
        self, seen: np.ndarray, behind: Image.Image, body: np.ndarray, arm: Arm, side: int
    ) -> Arm:
        """The arm about `arm` that looks most like what is seen: by its wrist's place and its turn."""
        first = arm

        def cost(arm: Arm) -> float:
            drawn = _blurred(self._with_arm(behind, body, arm, side))
            moved = np.subtract(arm.wrist, first.wrist)
            return float(_cost(drawn - seen)) + FAR * float((moved**2).sum())

        least = cost(arm)
        for step in STEPS:
            for dx, dy, turn in ((1, 0, 0), (0, 1, 0), (0, 0, 1)) * 2:
                for sign in (1, -1):
                    wrist = (arm.wrist[0] + sign * dx * step, arm.wrist[1] + sign * dy * step)
                    near = replace(arm, wrist=wrist, angle=arm.angle + sign * turn * step * TURN)
                    if (new := cost(near)) < least:
                        arm, least = near, new
                        break
        return arm

    def _shift(self, body: np.ndarray) -> tuple[int, int]:
        """Pixels that the chest has moved from where the arms of the bank were drawn."""
        zero = np.zeros(len(SPREAD))
        chest = [
            self.shot.keypoints(_pose(b, self.rest), *(float(v) for v in _camera(b)))[5:7, :2].mean(0)
            for b in (body, zero)
        ]  # fmt: skip
        dx, dy = ((chest[0] - chest[1]) * self.shot.size).round().astype(int)
        return int(dx), int(dy)


class _Bare(Figure):
    """A puppet without arms."""

    def draw(
        self, canvas: Canvas, pose: Pose, frame: tuple[int, int], *, legs: bool, covered: str = ""
    ) -> None:
        """As Figure.draw, up to the arms."""
        who, look = self.who, pose.look
        body = canvas.placed(body_place(pose))
        head = body.placed(head_place(pose))
        hair.draw_behind(head, who, look, pose.swing)
        if legs:
            limbs.draw_legs(canvas, who, pose.sway)
        self._draw_neck(body, pose)
        self.trunk.draw(body, frame)
        self._draw_throat(body)
        face.draw_ears(head, who, look)
        face.draw(head, who, look)
        hair.draw_over(head, who, look, pose.swing)
        hair.draw_locks(head, who, pose.swing)


def _camera(body: np.ndarray) -> np.ndarray:
    """Zoom and shift."""
    spread = np.array([*SPREAD.values()])
    return np.array([1.0, 0.0, 0.0]) + (body * spread)[:3]


def _pose(body: np.ndarray, arm: Arm) -> Pose:
    value = dict(zip(SPREAD, (body * np.array([*SPREAD.values()])).tolist(), strict=True))
    look = Look(opening=0.2, yaw=value["yaw"], pitch=value["pitch"])
    return Pose(
        look=look,
        roll=value["roll"],
        nod=0.01 + value["nod"],
        sway=value["sway"],
        lean=value["lean"] + 0.12 * value["sway"],
        breath=0.0,
        swing=0.0,
        arms=(arm, arm),
    )


def _different(arms: list[Arm], count: int) -> list[Arm]:
    """`count` of them, as unlike each other as can be: each is the farthest from those before."""
    table = np.array(
        [[*a.wrist, 0.25 * a.angle, 0.1 * a.palm, *np.multiply(a.curls, 0.04)] for a in arms]
    )
    chosen = [0]
    away = np.full(len(arms), np.inf)
    while len(chosen) < min(count, len(arms)):
        away = np.minimum(away, ((table - table[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(np.argmax(away)))
    return [arms[k] for k in chosen]


def _cost(difference: np.ndarray, axis: tuple[int, ...] | None = None) -> np.ndarray | np.floating:
    return np.minimum(np.abs(difference), CLIP).mean(axis=axis)


def _blurred(frame: UInt8[np.ndarray, "Y X 3"]) -> Float32[np.ndarray, "Y X 3"]:
    soft = Image.fromarray(frame).filter(ImageFilter.GaussianBlur(BLUR * frame.shape[0]))
    return np.asarray(soft, np.float32)
