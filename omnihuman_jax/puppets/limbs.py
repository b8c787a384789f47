"""The only place that draws arms, hands and legs, and that knows where their joints are.

Units: the height of the head; origin in the pit of the neck, x to the image's right, y down.
Sides: +1 is the image's right, the person's left.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from omnihuman_jax.puppets.canvas import Canvas
from omnihuman_jax.puppets.clothes import HIP, sleeve
from omnihuman_jax.puppets.identity import Identity
from omnihuman_jax.puppets.palette import DUSK, Colour, darker, lighter, mix, skin_shadow
from omnihuman_jax.puppets.shapes import Points, moved, smooth, stroke

SHOULDER = (0.455, 0.185)
UPPER, FORE = 0.66, 0.6
HAND = 1.08  # its size
ELBOW = np.array([0.33, 0.94])  # where elbows point, on side +1
THICK = ((0.235, 0.2), (0.195, 0.15))  # of a sleeve: at shoulder and elbow, at elbow and wrist
BARE = ((0.175, 0.15), (0.145, 0.1))
KNUCKLES = np.array([(0.055, 0.145), (0.02, 0.16), (-0.018, 0.155), (-0.052, 0.135)])
FINGERS = np.array([0.135, 0.15, 0.14, 0.108])  # index, middle, ring, little
PHALANGES = np.array([0.44, 0.31, 0.25])
THUMB = np.array([0.07, 0.06, 0.05])
FINGER_WIDE = 0.05
BEND = 1.65  # radians a joint bends when a finger is curled


@dataclass(frozen=True)
class Arm:
    """Where an arm is. Angles in radians on the screen, for side +1; side -1 is its mirror image."""

    wrist: tuple[float, float]  # as on side +1
    angle: float  # where the fingers point: 0 outwards, pi/2 down
    palm: float  # 1: palm to the viewer, -1: back of the hand; between: edge on
    curls: tuple[float, ...]  # five, thumb to little; 0 straight, 1 fist
    spread: float


@dataclass(frozen=True)
class Joints:
    """An arm's points in the body's units."""

    shoulder: np.ndarray
    elbow: np.ndarray
    wrist: np.ndarray
    hand: Float[np.ndarray, "21 2"]


def joints(who: Identity, arm: Arm, side: int) -> Joints:
    """The joints of an arm that reaches its wrist's place, or as far as it goes."""
    shoulder = np.array([SHOULDER[0] * (0.4 + 0.6 * who.girth), SHOULDER[1]])
    reach = np.array(arm.wrist) - shoulder
    length = float(np.hypot(*reach))
    most = 0.995 * (UPPER + FORE)
    if length > most:
        reach, length = reach * most / length, most
    length = max(length, 1e-6)
    wrist = shoulder + reach
    along = reach / length
    foot = (length**2 + UPPER**2 - FORE**2) / (2 * length)
    foot = float(np.clip(foot, -0.35, UPPER))
    height = np.sqrt(max(UPPER**2 - foot**2, 0))
    across = np.array([-along[1], along[0]])
    # Elbows point down and a little outwards. Where that has no side they go straight back, away from
    # the viewer, so that nothing jumps; a folded arm's elbow always goes back in part.
    turn = float(np.clip(across @ ELBOW * 3, -1, 1))
    elbow = shoulder + along * foot + across * turn * height * 0.75
    mirror = np.array([side, 1.0])
    hand = wrist + hand_points(arm)
    return Joints(shoulder * mirror, elbow * mirror, wrist * mirror, hand * mirror)


def hand_points(arm: Arm) -> Float[np.ndarray, "21 2"]:
    """Wrist, then four points a finger from thumb to little, around the wrist, for side +1."""
    points = [np.zeros((1, 2))]
    base = np.array([(0.042, 0.045)])
    away = 0.85 + 0.25 * arm.spread - 0.75 * arm.curls[0]
    headings = away - np.array([0.0, 0.28, 0.5]) * (0.4 + arm.curls[0])
    steps = THUMB[:, None] * np.stack([np.sin(headings), np.cos(headings)], axis=1)
    points.append(np.concatenate([base, base + steps.cumsum(axis=0)]))
    for finger in range(4):
        bend = np.cumsum(np.full(3, arm.curls[finger + 1] * BEND)) * (0.75, 0.95, 0.95)
        fan = (0.2, 0.06, -0.08, -0.23)[finger] * (0.25 + arm.spread)
        lengths = FINGERS[finger] * PHALANGES * np.cos(bend)
        line = np.array([np.sin(fan), np.cos(fan)]) * lengths[:, None]
        points.append(KNUCKLES[finger] + np.concatenate([np.zeros((1, 2)), line.cumsum(axis=0)]))
    flat = np.concatenate(points) * HAND
    # On side +1 with the palm to the viewer and the fingers up, the thumb is towards the body.
    across = -np.sign(arm.palm or 1) * max(abs(arm.palm), 0.3) * flat[:, 0]
    cos, sin = np.cos(arm.angle), np.sin(arm.angle)
    return np.stack([flat[:, 1] * cos - across * sin, flat[:, 1] * sin + across * cos], axis=1)


def draw_arm(canvas: Canvas, who: Identity, arm: Arm, side: int) -> None:
    """A sleeve, an arm, a hand."""
    at = joints(who, arm, side)
    cloth, stripe = sleeve(who)
    bones = [(at.shoulder, at.elbow), (at.elbow, at.wrist)]
    inner = max(0.0, 1 - abs(at.wrist[0]) / 0.75)  # over the trunk it casts a shadow there
    if inner > 0:
        for (a, b), (wide, narrow) in zip(bones, BARE, strict=True):
            shade = stroke(moved(np.stack([a, b]), 0.03, 0.06), (wide, narrow))
            canvas.fill(shade, DUSK, 0.22 * min(1.0, inner * 2))
    if who.clothes.sleeves == "short":
        _draw_tube(canvas, bones, BARE, who.skin, skin_shadow(who.skin))
        draw_hand(canvas, who, at.hand, arm.palm)
        cut = [(at.shoulder, at.shoulder + (at.elbow - at.shoulder) * 0.48)]
        _draw_tube(canvas, cut, ((0.245, 0.25),), cloth, darker(cloth, 0.3))
        bands = [(*cut[0], 0.245, 0.25, t) for t in (0.2, 0.7)]
    else:
        draw_hand(canvas, who, at.hand, arm.palm)
        end = at.elbow + (at.wrist - at.elbow) * 0.96
        _draw_tube(canvas, [bones[0], (at.elbow, end)], THICK, cloth, darker(cloth, 0.3))
        cuff = np.stack([at.elbow + (at.wrist - at.elbow) * 0.9, end])
        canvas.fill(_band(cuff[0], cuff[1], 0.17), darker(cloth, 0.22))
        bands = [(*bones[0], *THICK[0], t) for t in (0.3, 0.62, 0.94)]
        bands += [(*bones[1], *THICK[1], t) for t in (0.25, 0.55)]
    if stripe:
        for a, b, wide, narrow, t in bands:
            width = (wide + (narrow - wide) * t) * 0.95
            canvas.fill(_band(a + (b - a) * t, a + (b - a) * (t + 0.13), width), stripe, 0.9)


def _band(a: np.ndarray, b: np.ndarray, wide: float) -> Points:
    """A piece of a tube from a to b with flat ends."""
    along = (b - a) / max(float(np.hypot(*(b - a))), 1e-9)
    across = np.array([-along[1], along[0]]) * wide / 2
    return np.stack([a + across, b + across, b - across, a - across])


def _draw_tube(
    canvas: Canvas,
    bones: list[tuple[np.ndarray, np.ndarray]],
    widths: tuple[tuple[float, float], ...],
    colour: Colour,
    shadow: Colour,
) -> None:
    """Round limbs: the same path again and again, thinner, lighter and nearer to the light."""
    for step in range(5):
        t = step / 4
        for (a, b), (wide, narrow) in zip(bones, widths, strict=True):
            size = np.array([wide, narrow]) * (1 - 0.55 * t)
            shade = mix(shadow, colour, t * (2 - t))
            path = np.stack([a, b]) + np.array([-0.16, -0.16]) * t * wide
            canvas.fill(stroke(path, size), shade)


def draw_hand(canvas: Canvas, who: Identity, hand: Float[np.ndarray, "21 2"], palm: float) -> None:
    """A hand of five fingers, given its 21 points."""
    edge = skin_shadow(who.skin, 1.35)
    index, little, wrist, base = hand[5], hand[17], hand[0], hand[1]
    outward = (little - index) * 0.16
    heel = (wrist - (index + little) / 2) * 0.05
    side = (little - index) * 0.42
    corners = [index - outward * 0.9, (hand[9] + hand[13]) / 2 - heel, little + outward * 0.9]
    plate = smooth(np.stack([*corners, wrist + side + heel, wrist - side + heel, base]), steps=4)
    fingers = [(hand[k : k + 4], FINGER_WIDE * (0.92 if k == 17 else 1)) for k in (17, 13, 9, 5)]
    thumb = (hand[1:5], FINGER_WIDE * 1.12)

    def draw_fingers(lines: list[tuple[np.ndarray, float]]) -> None:
        for line, wide in lines:
            canvas.fill(_finger(line, wide + 0.02), edge)
            canvas.fill(_finger(line, wide), who.skin)

    def draw_palm() -> None:
        canvas.fill(plate, skin_shadow(who.skin, 0.35) if palm > 0 else who.skin)
        middle = plate.mean(axis=0)
        canvas.fill(middle + (plate - middle) * 0.72, who.skin)

    canvas.fill(stroke(np.stack([wrist - (hand[9] - wrist) * 0.15, wrist]), 0.1), who.skin)
    edge_line = plate.mean(axis=0) + (plate - plate.mean(axis=0)) * 1.1
    canvas.fill(edge_line, edge)
    if palm > 0:
        draw_palm()
        draw_fingers([*fingers, thumb])
    else:
        draw_fingers([thumb, *fingers])
        draw_palm()


def _finger(line: np.ndarray, wide: float) -> Points:
    """A finger as one brush stroke, unless it folds back on itself: then as its longest part."""
    steps = np.diff(line, axis=0)
    if (steps[:-1] * steps[1:]).sum() < 0:
        farthest = int(np.argmax(np.hypot(*(line - line[0]).T)))
        line = np.stack([line[0], line[max(farthest, 1)]])
        return stroke(line, wide * 1.08)
    return stroke(line, wide * np.array([1.04, 1, 0.96, 0.84]))


def legs(who: Identity, sway: float) -> Float[np.ndarray, "2 6 2"]:
    """Hip, knee, ankle, big toe, small toe, heel of the legs on side -1 and +1; feet stay, hips `sway`."""
    both = []
    for side in (-1, 1):
        hip = np.array([side * 0.24 * who.girth + sway, HIP - 0.02])
        ankle = np.array([side * 0.27, 2.78])
        knee = (hip + ankle) / 2 + (side * 0.02 + 0.15 * sway, -0.02)
        toes = ankle + np.array([(side * 0.15, 0.13), (side * 0.2, 0.11), (-side * 0.04, 0.11)])
        both.append(np.stack([hip, knee, ankle, *toes]))
    return np.stack(both)


def draw_legs(canvas: Canvas, who: Identity, sway: float) -> None:
    """Trousers, or bare legs below a dress, and shoes."""
    dress = who.clothes.garment == "dress"
    jeans = who.clothes.colour if who.clothes.garment == "dungarees" else who.clothes.trousers
    colour = who.skin if dress else jeans
    shadow = skin_shadow(who.skin) if dress else darker(jeans, 0.32)
    widths = ((0.22, 0.17), (0.165, 0.12)) if dress else ((0.47, 0.34), (0.33, 0.27))
    for side, (hip, knee, ankle, *_) in zip((-1, 1), legs(who, sway), strict=True):
        shoe = smooth(
            [(-0.1, -0.06), (0.08, -0.07), (0.19, 0.05), (0.21, 0.13), (0, 0.14), (-0.12, 0.13)]
        )
        shoe = shoe * (side, 1) + ankle
        canvas.soft(shoe, lighter(who.clothes.shoes, 0.05), darker(who.clothes.shoes, 0.4), steps=4)
        canvas.fill(
            stroke(np.array([(-0.1, 0.135), (0.19, 0.135)]) * (side, 1) + ankle, 0.035),
            darker(who.clothes.shoes, 0.55),
        )
        end = ankle if dress else ankle + np.array([0, 0.01])
        _draw_tube(canvas, [(hip, knee), (knee, end)], widths, colour, shadow)
        if not dress:
            canvas.fill(
                _band(end + np.array([0, 0.02]), end + np.array([0, 0.1]), widths[1][1] * 0.98),
                darker(jeans, 0.25),
            )
    if not dress:
        hips = np.array(
            [
                (-0.45, HIP - 0.15),
                (0.45, HIP - 0.15),
                (0.4, HIP + 0.25),
                (0, HIP + 0.2),
                (-0.4, HIP + 0.25),
            ]
        )
        canvas.fill(smooth(hips * (who.girth, 1) + (sway, 0)), darker(colour, 0.1))
