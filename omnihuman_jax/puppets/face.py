"""The only place that draws a face, and that knows where its 68 points are.

Units: the height of the head, origin in its middle, x to the image's right, y down.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from omnihuman_jax.puppets import mouth as mouths
from omnihuman_jax.puppets import palette
from omnihuman_jax.puppets.canvas import Canvas
from omnihuman_jax.puppets.identity import Face, Identity
from omnihuman_jax.puppets.palette import INK, WHITE, darker, lighter, mix, skin_shadow
from omnihuman_jax.puppets.shapes import (
    Place,
    Points,
    arc,
    ellipse,
    mirrored,
    moved,
    smooth,
    stroke,
    turned,
)

EYE_X, EYE_Y = 0.185, 0.02
EYE_WIDE, EYE_UP, EYE_DOWN = 0.106, 0.1, 0.066
NOSE_Y = 0.155
CHIN = 0.5
SEEN_WHITE = 0.07  # below this opening an eye is a line
TEETH = (0.28, 0.12)  # share of the gap at most, opening from which they show
TONGUE = (0.4, 0.22)


@dataclass(frozen=True)
class Look:
    """What a face does in one frame."""

    opening: float = 0.0  # of the mouth, in [0, 1]
    rounding: float = 0.0
    smile: float = 0.4  # -1 to 1
    lids: float = 1.0  # 1: eyes open, 0: closed
    gaze: tuple[float, float] = (0.0, 0.0)  # in half widths of an eye
    brows: float = 0.0  # -1 (down) to 1 (up)
    yaw: float = 0.0  # radians, to the image's right
    pitch: float = 0.0  # radians, down


def turn(look: Look, nearer: float = 0.0) -> Place:
    """Turning the head: points on it move with its round front, the more the nearer they are."""
    sin_yaw, cos_yaw = np.sin(look.yaw), np.cos(look.yaw)
    sin_pitch = np.sin(look.pitch)

    def place(points: Points) -> Points:
        x, y = points[:, 0], points[:, 1]
        bulge = 1 - (x / 0.47) ** 2 - (y / 0.64) ** 2
        depth = 0.4 * np.sqrt(np.maximum(bulge, 0)) + nearer * (bulge > 0)
        return np.stack([x * cos_yaw + depth * sin_yaw, y + depth * sin_pitch], axis=1)

    return place


@lru_cache(maxsize=64)
def _outline(face: Face) -> Points:
    """The face at rest, from the crown round by the image's right."""
    jaw = face.jaw
    half = [(0, -0.5), (0.23, -0.46), (0.375, -0.29), (0.41, -0.05), (0.395, 0.14)]
    half += [(0.285 + 0.05 * jaw, 0.32), (0.09 + 0.09 * jaw, 0.465), (0, CHIN)]
    return smooth(np.array(mirrored(half)) * (face.width, 1), steps=5)


def dropped(points: Points, opening: float) -> Points:
    """The lower face goes down with the jaw."""
    share = np.clip((points[:, 1] - 0.2) / (CHIN - 0.2), 0, 1.2)
    return points + np.stack(
        [-0.05 * opening * share * points[:, 0], mouths.GAP * mouths.JAW * opening * share], axis=1
    )


def outline(who: Identity, look: Look) -> Points:
    """The face's edge; the jaw moves with the mouth and a little against the turn."""
    points = dropped(_outline(who.face), look.opening)
    low = np.clip(points[:, 1] + 0.1, 0, 1)[:, None]
    return points + low * (0.07 * np.sin(look.yaw), 0.1 * np.sin(look.pitch))


def draw_ears(canvas: Canvas, who: Identity, look: Look) -> None:
    """Both ears, to be drawn before the face."""
    shadow = skin_shadow(who.skin)
    for side in (-1, 1):
        x, y = ear(who, look, side)
        size = 0.075 * who.face.ears
        canvas.soft(ellipse(x, y, size, size * 1.45, side * 0.12), who.skin, shadow, steps=4)
        canvas.fill(
            ellipse(x + side * 0.008, y, size * 0.5, size * 0.95), skin_shadow(who.skin, 0.8)
        )
        if who.earrings and who.hair_style != "headscarf":
            canvas.fill(ellipse(x + side * 0.012, y + size * 1.65, 0.03), (236, 190, 92))
            canvas.fill(ellipse(x + side * 0.004, y + size * 1.58, 0.012), (255, 240, 190))


def ear(who: Identity, look: Look, side: int) -> tuple[float, float]:
    """The middle of an ear; -1: the image's left."""
    away = max(0.0, side * np.sin(look.yaw))  # the far ear goes behind the face
    return side * (0.415 - 0.1 * away) * who.face.width - 0.05 * np.sin(look.yaw), 0.05


def draw(canvas: Canvas, who: Identity, look: Look) -> None:
    """The face without hair, on a canvas in head units."""
    shadow = skin_shadow(who.skin)
    canvas.soft(outline(who, look), who.skin, shadow, depth=0.17, steps=8)
    skin = canvas.placed(turn(look))
    low = canvas.placed(lambda points: turn(look)(dropped(points, look.opening)))
    cheek = mix(who.skin, (240, 112, 112), 0.5)
    for side in (-1, 1):
        skin.glow(ellipse(side * 0.245, 0.185, 0.115, 0.085), cheek, 0.5)
    if who.freckles:
        for x, y in ((0.16, 0.15), (0.22, 0.17), (0.28, 0.145), (0.2, 0.2), (0.25, 0.205)):
            for side in (-1, 1):
                skin.fill(ellipse(side * x, y, 0.009, points=8), skin_shadow(who.skin, 1.3), 0.75)
    if who.beard:
        _draw_beard(low, who)
    for side in (-1, 1):
        _draw_eye(skin, who, look, side)
        skin.fill(stroke(brow(who, look, side), _brow_width(who)), who.lid)
    _draw_nose(canvas.placed(turn(look, 0.07)), who)
    draw_mouth(canvas.placed(turn(look, 0.03)), who, look)
    if who.glasses:
        _draw_glasses(canvas.placed(turn(look, 0.05)), who)


def _draw_eye(canvas: Canvas, who: Identity, look: Look, side: int) -> None:
    upper, lower = eye(who, look.lids, side)
    ink = mix(INK, who.lid, 0.25)
    size = who.face.eye_size
    crease = moved(upper, 0, -0.026 - 0.01 * look.lids)
    canvas.fill(stroke(crease[2:-2], 0.011), skin_shadow(who.skin, 1.1), 0.8)
    if look.lids > SEEN_WHITE:
        white = np.concatenate([upper, lower[::-1]])
        canvas.fill(white, WHITE)
        canvas.fill(
            np.concatenate([upper, (upper * 0.72 + lower * 0.28)[::-1]]), (176, 184, 206), 0.55
        )
        cx = side * EYE_X * who.face.eye_gap + look.gaze[0] * 0.045
        cy = EYE_Y + 0.004 + look.gaze[1] * 0.03
        for radius, colour in (
            (0.071, darker(who.eyes, 0.55)),
            (0.062, who.eyes),
            (0.034, (32, 26, 34)),
        ):
            canvas.fill(_within(ellipse(cx, cy, radius * size, points=28), upper, lower), colour)
        low = ellipse(cx, cy + 0.034 * size, 0.036 * size, 0.018 * size, points=16)
        canvas.fill(_within(low, upper, lower), lighter(who.eyes, 0.5), 0.6)
        canvas.fill(ellipse(cx - 0.024 * size, cy - 0.026 * size, 0.019 * size, points=14), WHITE)
        canvas.fill(
            ellipse(cx + 0.022 * size, cy + 0.024 * size, 0.01 * size, points=10), WHITE, 0.85
        )
    lash = np.linspace(0.7, 1.35, len(upper)) if side > 0 else np.linspace(1.35, 0.7, len(upper))
    canvas.fill(stroke(upper, 0.024 * lash * (1.15 if who.lashes else 0.85)), ink)
    if who.lashes:
        outer = upper[-1] if side > 0 else upper[0]
        for rise in (0.5, 1.0):
            tip = outer + np.array([side * 0.034, -0.012 - 0.026 * rise * look.lids])
            canvas.fill(
                stroke(np.stack([outer - (side * 0.012 * rise, 0), tip]), (0.017, 0.005)), ink
            )
    canvas.fill(stroke(lower[3:-3], 0.007), skin_shadow(who.skin, 1.2), 0.7)


def eye(who: Identity, lids: float, side: int) -> tuple[Points, Points]:
    """The upper and the lower lid's edge, 13 points each, from the image's left to its right."""
    x = np.linspace(-1, 1, 13)
    size = who.face.eye_size
    bow = (1 - np.abs(x) ** 2.2) ** 0.8
    low = EYE_DOWN * size * bow
    high = -EYE_UP * size * bow * lids + (1 - lids) * low * 0.8
    high = np.minimum(high, low)
    middle = (side * EYE_X * who.face.eye_gap, EYE_Y)
    lines = []
    for y in (high, low):
        line = np.stack([x * EYE_WIDE * size, y], axis=1)
        lines.append(turned(line, -side * who.face.eye_tilt) + middle)
    return lines[0], lines[1]


def _within(points: Points, upper: Points, lower: Points) -> Points:
    """The part of a shape that the lids leave free."""
    x = np.clip(points[:, 0], upper[0, 0], upper[-1, 0])
    top = np.interp(x, upper[:, 0], upper[:, 1])
    bottom = np.interp(x, lower[:, 0], lower[:, 1])
    return np.stack([x, np.clip(points[:, 1], top, np.maximum(top, bottom))], axis=1)


def brow(who: Identity, look: Look, side: int) -> Points:
    """The line of a brow, 9 points, from the image's left to its right."""
    gap = EYE_X * who.face.eye_gap
    rise = -0.155 - 0.05 * look.brows - 0.012 * who.face.eye_size
    inner, outer = rise + 0.01, rise + 0.012 - 0.09 * who.face.brow_tilt
    line = arc(gap - 0.1, inner, gap + 0.115, outer, -0.032, 9)
    return line if side > 0 else (line * (-1, 1))[::-1]


def _brow_width(who: Identity) -> np.ndarray:
    return 0.036 * who.face.brows * np.array([0.7, 0.95, 1, 1, 1, 1, 1, 0.95, 0.7])


def _draw_nose(canvas: Canvas, who: Identity) -> None:
    size = who.face.nose_size
    shadow = skin_shadow(who.skin, 1.25)
    wide = 0.05 * size
    if who.face.nose == "long":
        line = smooth(
            [(0.012, -0.02), (0.026, 0.07), (0.05 * size, 0.15), (-0.01, 0.168)], closed=False
        )
        canvas.fill(
            stroke(line, np.interp(np.arange(len(line)), [0, len(line) - 1], [0.006, 0.022])),
            shadow,
        )
    elif who.face.nose == "round":
        canvas.soft(
            ellipse(0, NOSE_Y - 0.015, wide * 1.25, wide * 0.95),
            lighter(who.skin, 0.1),
            shadow,
            steps=4,
        )
    else:
        canvas.glow(ellipse(0, NOSE_Y - 0.03, wide * 1.2, wide), lighter(who.skin, 0.5), 0.5, 4)
        canvas.fill(stroke(arc(-wide, NOSE_Y, wide, NOSE_Y, 0.026 * size), 0.02), shadow)
    for side in (-1, 1):
        nostril = ellipse(side * wide * 0.55, NOSE_Y + 0.018, 0.013 * size, 0.008 * size, points=10)
        canvas.fill(nostril, skin_shadow(who.skin, 1.9), 0.8)


def draw_mouth(canvas: Canvas, who: Identity, look: Look) -> None:
    """Lips, and between them, when they part, the dark inside, teeth and tongue."""
    mouth = mouths.shape(who, look.opening, look.rounding, look.smile)
    canvas.glow(
        ellipse(0, mouth.below[5, 1] + 0.035, 0.07, 0.022), skin_shadow(who.skin, 1.2), 0.5, 3
    )
    canvas.fill(mouth.lips, who.lips)
    middle = mouth.below[3:-3] * 0.55 + mouth.lower[3:-3] * 0.45
    canvas.fill(stroke(middle, 0.012), lighter(who.lips, 0.4), 0.55)
    if look.opening * mouths.GAP > 0.004:
        canvas.fill(mouth.hole, palette.INNER_MOUTH)
        # Both begin at nothing and grow more slowly than the gap, so that what is dark always grows.
        teeth, tongue = (
            max(0.0, most * (1 - least / look.opening)) for most, least in (TEETH, TONGUE)
        )
        if teeth:
            canvas.fill(mouths.between(mouth.upper, mouth.lower, 0, teeth)[1:-1], palette.TEETH)
        if tongue:
            bottom = mouth.lower[3:-3] + (mouth.upper[3:-3] - mouth.lower[3:-3]) * 0.03
            bow = np.sin(np.linspace(0, np.pi, len(bottom)))[:, None]
            crest = bottom + (mouth.upper[3:-3] - bottom) * bow * tongue
            canvas.fill(np.concatenate([crest, bottom[::-1]]), palette.TONGUE)
    else:
        canvas.fill(stroke(mouth.lower, 0.013), darker(who.lips, 0.42))
    for side in (0, -1):
        corner = moved(ellipse(0, 0, 0.011, points=10), *mouth.upper[side])
        canvas.fill(corner, darker(who.lips, 0.42), 0.8)
    if who.beard in ("beard", "moustache", "goatee"):
        top = mouth.above[5, 1]
        hair = [
            (0, top - 0.045),
            (0.09, top - 0.035),
            (0.17, top + 0.035),
            (0.08, top + 0.004),
            (0, top),
        ]
        outline = smooth(mirrored(hair), steps=4)
        canvas.soft(outline, lighter(who.lid, 0.08), darker(who.lid, 0.2), steps=3)


def _draw_beard(canvas: Canvas, who: Identity) -> None:
    wide = who.face.width
    if who.beard == "stubble":
        half = [(0.37, 0.12), (0.32, 0.33), (0.16, 0.47), (0, 0.5)]
        inner = [(0, 0.2), (0.17, 0.215), (0.3, 0.12)]
        line = np.array(mirrored([*reversed(inner)][::-1] + half)) * (wide, 1)
        canvas.fill(smooth(line, steps=4), mix(who.skin, who.lid, 0.5), 0.42)
    elif who.beard == "beard":
        half = [(0.4, 0.03), (0.39, 0.2), (0.335, 0.38), (0.19, 0.525), (0, 0.56)]
        inner = [(0, 0.225), (0.13, 0.222), (0.25, 0.24), (0.335, 0.1), (0.36, 0.03)]
        line = np.array(mirrored(inner + half)) * (wide, 1)
        canvas.soft(
            smooth(line, steps=4), lighter(who.lid, 0.06), darker(who.lid, 0.25), steps=5, depth=0.1
        )
    elif who.beard == "goatee":
        half = [(0, 0.33), (0.1, 0.335), (0.125, 0.43), (0.085, 0.52), (0, 0.55)]
        canvas.soft(
            smooth(mirrored(half), steps=4), lighter(who.lid, 0.06), darker(who.lid, 0.25), steps=4
        )


def _draw_glasses(canvas: Canvas, who: Identity) -> None:
    colour, gap = who.glasses_colour, EYE_X * who.face.eye_gap
    for side in (-1, 1):
        rim = ellipse(side * gap, EYE_Y + 0.005, 0.142, 0.132, points=40)
        if who.glasses == "square":
            cos, sin = np.cos(np.linspace(0, 2 * np.pi, 40)), np.sin(np.linspace(0, 2 * np.pi, 40))
            soft = np.stack(
                [np.sign(cos) * np.abs(cos) ** 0.5, np.sign(sin) * np.abs(sin) ** 0.5], 1
            )
            rim = soft * (0.14, 0.112) + (side * gap, EYE_Y + 0.005)
        canvas.fill(rim, (225, 238, 250), 0.13)
        shine = np.array([(-0.07, -0.05), (-0.035, -0.08), (-0.075, 0.03), (-0.095, 0.01)])
        canvas.fill(moved(shine, side * gap, EYE_Y), WHITE, 0.32)
        closed = np.concatenate([rim, rim[:2]])
        canvas.fill(np.concatenate([closed, _inset(closed)[::-1]]), colour)
        canvas.fill(
            stroke(np.array([(side * (gap + 0.14), EYE_Y), (side * 0.415, EYE_Y - 0.01)]), 0.02),
            colour,
        )
    canvas.fill(
        stroke(arc(-gap + 0.135, EYE_Y - 0.01, gap - 0.135, EYE_Y - 0.01, -0.02), 0.02), colour
    )


def _inset(rim: Points) -> Points:
    middle = (rim.min(axis=0) + rim.max(axis=0)) / 2
    away = rim - middle
    return middle + away * (1 - 0.02 / np.maximum(np.hypot(*away.T), 1e-6))[:, None]


def landmarks(who: Identity, look: Look) -> Float[np.ndarray, "68 2"]:
    """iBUG's 68 points in head units; "right" there is the image's left."""
    front, near = turn(look), turn(look, 0.07)
    edge = outline(who, look)
    centre = np.array([0.0, 0.0])
    angle = np.arctan2(edge[:, 1] - centre[1], edge[:, 0] - centre[0])
    order = np.argsort(angle)
    wanted = np.linspace(np.pi - 0.02, 0.02, 17)
    jaw = np.stack(
        [np.interp(wanted, angle[order], edge[order, k], period=2 * np.pi) for k in (0, 1)], axis=1
    )
    brows = [front(brow(who, look, side)[[0, 2, 4, 6, 8]]) for side in (-1, 1)]
    bridge = near(np.array([(0, EYE_Y - 0.02), (0, 0.05), (0, 0.1), (0, NOSE_Y - 0.015)]))
    wide = 0.05 * who.face.nose_size
    base = near(
        np.array([(-wide, 0.16), (-wide / 2, 0.172), (0, 0.178), (wide / 2, 0.172), (wide, 0.16)])
    )
    eyes = []
    for side in (-1, 1):
        upper, lower = (front(line) for line in eye(who, look.lids, side))
        eyes.append(np.stack([upper[0], upper[4], upper[8], upper[12], lower[8], lower[4]]))
    mouth = mouths.shape(who, look.opening, look.rounding, look.smile)
    lips = turn(look, 0.03)(mouths.landmarks(mouth))
    return np.concatenate([jaw, *brows, bridge, base, *eyes, lips])
