"""The only place that puts a puppet together, part over part, and that lists its 133 keypoints.

Units: the height of the head; origin in the pit of the neck when the puppet stands still.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from omnihuman_jax import skeleton
from omnihuman_jax.puppets import clothes, face, hair, limbs
from omnihuman_jax.puppets.canvas import Canvas
from omnihuman_jax.puppets.face import Look
from omnihuman_jax.puppets.identity import Identity
from omnihuman_jax.puppets.limbs import Arm
from omnihuman_jax.puppets.palette import darker, skin_shadow
from omnihuman_jax.puppets.shapes import Place, ellipse, mirrored, moved, smooth, stroke, turned

HEAD = (0.0, -0.61)  # its middle
NECK = (0.0, -0.12)  # what it turns about
TALL = 2.94  # from the pit of the neck to the soles
TOP = -1.36  # above hair and hats


@dataclass(frozen=True)
class Pose:
    """All that moves, in one frame."""

    look: Look
    roll: float  # of the head, radians, clockwise on the screen
    nod: float  # the head goes down by this
    sway: float  # the hips go to the image's right by this
    lean: float  # the trunk turns about the hips, radians, clockwise
    breath: float  # 0 to 1
    swing: float  # loose hair, -1 to 1
    arms: tuple[Arm, Arm]  # on the image's left, on its right


class Figure:
    """A puppet, ready to be drawn again and again at about `scale` pixels a unit."""

    def __init__(self, who: Identity, scale: float) -> None:
        self.who = who
        self.trunk = clothes.make_trunk(who, float(np.clip(scale * 1.3, 40, 420)))

    def draw(
        self, canvas: Canvas, pose: Pose, frame: tuple[int, int], *, legs: bool, covered: str = ""
    ) -> None:
        """Paint it. `frame` is (width, height) in pixels; `covered`: "mask" or "mic" hides the mouth."""
        who, look = self.who, pose.look
        body = canvas.placed(body_place(pose))
        head = body.placed(head_place(pose))
        hair.draw_behind(head, who, look, pose.swing)
        if legs:
            limbs.draw_legs(canvas, who, pose.sway)
        self._draw_neck(body, pose)
        self.trunk.draw(body.placed(_breathing(pose)), frame)
        self._draw_throat(body)
        face.draw_ears(head, who, look)
        face.draw(head, who, look)
        if covered == "mask":
            _draw_mask(head, look)
        hair.draw_over(head, who, look, pose.swing)
        hair.draw_locks(head, who, pose.swing)
        arms = body.placed(_shoulders(pose))
        if covered == "mic":
            _draw_mic(arms, who, pose)
        for side, arm in zip((-1, 1), pose.arms, strict=True):
            limbs.draw_arm(arms, who, arm, side)

    def _draw_neck(self, body: Canvas, pose: Pose) -> None:
        skin = darker(self.who.skin, 0.1)
        path = np.array([(0.02 * pose.roll, -0.3), (0.0, 0.06)])
        body.fill(stroke(path, 0.3), skin)

    def _draw_throat(self, body: Canvas) -> None:
        """The head's shadow on neck and collar."""
        wide = 0.155
        shade = [
            (-wide, -0.26),
            (wide, -0.26),
            (wide, -0.09),
            (0.07, -0.03),
            (-0.05, -0.04),
            (-wide, -0.1),
        ]
        if self.who.hair_style == "headscarf":
            cloth = self.who.hat_colour
            drape = [
                (-0.3, -0.3),
                (0.3, -0.3),
                (0.46, 0.02),
                (0.22, 0.22),
                (-0.1, 0.3),
                (-0.42, 0.12),
                (-0.46, 0.02),
            ]
            body.soft(smooth(drape), darker(cloth, 0.06), darker(cloth, 0.4), depth=0.15)
        elif self.who.clothes.garment != "turtleneck":
            body.fill(smooth(shade), skin_shadow(self.who.skin, 1.3), 0.55)

    def keypoints(self, pose: Pose, *, legs: bool) -> Float[np.ndarray, "133 3"]:
        """x, y in units and 1 for "drawn"; points of legs that are not drawn have 0."""
        points = np.zeros((skeleton.JOINTS, 3))
        at = lambda place, where: place(np.atleast_2d(where))
        to_body = body_place(pose)
        inner_head = head_place(pose)
        to_head: Place = lambda p: to_body(inner_head(p))
        front = face.turn(pose.look)
        near = face.turn(pose.look, 0.07)
        marks = face.landmarks(self.who, pose.look)
        points[skeleton.FACE, :2] = to_head(marks)
        points[0, :2] = at(to_head, near(np.array([(0.0, face.NOSE_Y - 0.015)])))[0]
        gap = face.EYE_X * self.who.face.eye_gap
        points[1, :2] = at(to_head, front(np.array([(gap, face.EYE_Y)])))[0]
        points[2, :2] = at(to_head, front(np.array([(-gap, face.EYE_Y)])))[0]
        points[3, :2] = at(to_head, face.ear(self.who, pose.look, 1))[0]
        points[4, :2] = at(to_head, face.ear(self.who, pose.look, -1))[0]
        lift = _shoulders(pose)
        for side, arm, k in ((1, pose.arms[1], 0), (-1, pose.arms[0], 1)):
            bones = limbs.joints(self.who, arm, side)
            place: Place = lambda p: to_body(lift(p))
            points[5 + k, :2] = at(place, bones.shoulder)[0]
            points[7 + k, :2] = at(place, bones.elbow)[0]
            points[9 + k, :2] = at(place, bones.wrist)[0]
            hand = skeleton.LEFT_HAND if side == 1 else skeleton.RIGHT_HAND
            points[hand, :2] = place(bones.hand)
        points[: skeleton.FEET.stop, 2] = 1
        points[skeleton.FACE.start :, 2] = 1
        down = limbs.legs(self.who, pose.sway)
        for k, leg in ((0, down[1]), (1, down[0])):  # the person's left is the image's right
            points[11 + k, :2] = leg[0]
            points[13 + k, :2], points[15 + k, :2] = leg[1], leg[2]
            points[17 + 3 * k : 20 + 3 * k, :2] = leg[3:]
        if not legs:
            points[13:23, 2] = 0
        return points


def body_place(pose: Pose) -> Place:
    """Trunk units to where the puppet stands: it leans about its hips, which sway."""
    hips = np.array([0.0, clothes.HIP])
    return lambda points: turned(points - hips, pose.lean) + hips + (pose.sway, 0)


def head_place(pose: Pose) -> Place:
    """Head units to trunk units: it rolls about the neck."""
    pivot, middle = np.array(NECK), np.array(HEAD)
    shift = middle + np.array([0.05 * np.sin(pose.look.yaw), pose.nod - 0.012 * pose.breath])
    return lambda points: turned(points + shift - pivot, pose.roll) + pivot


def _breathing(pose: Pose) -> Place:
    """The chest widens and rises a little."""
    grow = np.array([1 + 0.012 * pose.breath, 1 + 0.01 * pose.breath])
    hips = np.array([0.0, clothes.HIP])
    return lambda points: (points - hips) * grow + hips


def _shoulders(pose: Pose) -> Place:
    return lambda points: moved(points, 0, -0.012 * pose.breath)


def _draw_mask(head: Canvas, look: Look) -> None:
    """A paper mask over mouth and nose."""
    cloth = (196, 224, 236)
    front = head.placed(face.turn(look, 0.05))
    for side in (-1, 1):
        for y in (0.14, 0.38):
            front.fill(
                stroke(np.array([(side * 0.3, y), (side * 0.42, 0.06)]), 0.014), (232, 240, 244)
            )
    shape = smooth(
        mirrored([(0, 0.09), (0.2, 0.1), (0.33, 0.14), (0.33, 0.3), (0.22, 0.47), (0, 0.54)])
    )
    front.soft(shape, cloth, darker(cloth, 0.25), depth=0.15)
    for y in (0.22, 0.31, 0.4):
        front.fill(
            stroke(np.array([(-0.27, y - 0.02), (0, y), (0.27, y - 0.02)]), 0.01),
            darker(cloth, 0.3),
            0.5,
        )


def _draw_mic(arms: Canvas, who: Identity, pose: Pose) -> None:
    """A microphone whose head is before the mouth, held by the arm on the image's right."""
    hand = limbs.joints(who, pose.arms[1], 1).hand[[5, 9, 13, 17]].mean(axis=0)
    mouth = head_place(pose)(face.turn(pose.look, 0.1)(np.array([(0.0, 0.33)])))[0]
    arms.fill(stroke(np.stack([hand + (hand - mouth) * 0.35, mouth]), (0.08, 0.12)), (62, 60, 72))
    arms.soft(moved(ellipse(0, 0, 0.19, 0.18), *mouth), (120, 120, 134), (66, 64, 80), depth=0.3)
    for k in (-0.08, 0.0, 0.08):
        arms.fill(stroke(np.array([(-0.14, k), (0.14, k)]) + mouth, 0.012), (80, 78, 94), 0.7)
        arms.fill(stroke(np.array([(k, -0.14), (k, 0.14)]) + mouth, 0.012), (80, 78, 94), 0.7)
