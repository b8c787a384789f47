"""The only place that names colours: skin, hair, eyes, cloth, paint, and the one colour inside a mouth."""

type Colour = tuple[int, int, int]

INNER_MOUTH: Colour = (128, 12, 34)
"""Nothing else in the world has so little green for its red: `reading.py` finds the mouth by that."""
TEETH: Colour = (250, 247, 240)
TONGUE: Colour = (214, 104, 112)
INK: Colour = (52, 40, 48)
WHITE: Colour = (255, 253, 250)
DUSK: Colour = (74, 56, 104)  # what shadows lean to

SKIN: dict[str, Colour] = {
    "fair": (253, 221, 200),
    "rosy": (248, 205, 184),
    "light": (241, 196, 160),
    "olive": (222, 174, 132),
    "tan": (204, 148, 106),
    "brown": (168, 112, 76),
    "deep brown": (128, 82, 56),
    "dark": (108, 70, 54),
}

HAIR: dict[str, Colour] = {
    "black": (46, 40, 48),
    "dark brown": (82, 56, 46),
    "brown": (124, 82, 56),
    "chestnut": (146, 88, 58),
    "auburn": (168, 90, 56),
    "ginger": (222, 126, 62),
    "blond": (238, 198, 112),
    "light blond": (248, 224, 164),
    "grey": (172, 172, 178),
    "white": (236, 234, 232),
    "pink": (240, 150, 176),
    "teal": (64, 158, 162),
    "violet": (146, 110, 190),
}
NATURAL_HAIR = tuple(HAIR)[:8]
OLD_HAIR = ("grey", "white")
BRIGHT_HAIR = ("pink", "teal", "violet")

EYES: dict[str, Colour] = {
    "brown": (112, 70, 44),
    "dark": (66, 48, 44),
    "hazel": (142, 108, 56),
    "green": (86, 142, 94),
    "blue": (80, 138, 190),
    "grey": (120, 134, 148),
}

CLOTH: dict[str, Colour] = {
    "white": (248, 245, 238),
    "cream": (247, 229, 196),
    "yellow": (250, 200, 82),
    "mustard": (222, 164, 60),
    "orange": (245, 150, 82),
    "coral": (244, 126, 108),
    "rose": (242, 160, 170),
    "lilac": (184, 160, 218),
    "purple": (130, 100, 172),
    "sky blue": (130, 190, 230),
    "blue": (74, 124, 192),
    "navy": (54, 70, 112),
    "teal": (52, 148, 150),
    "mint": (150, 214, 188),
    "green": (94, 160, 100),
    "forest green": (56, 108, 82),
    "brown": (148, 106, 78),
    "grey": (150, 154, 164),
    "charcoal": (72, 74, 86),
}

TROUSERS: dict[str, Colour] = {
    "jeans": (84, 116, 164),
    "navy": (58, 68, 104),
    "beige": (220, 198, 162),
    "charcoal": (76, 78, 90),
    "olive": (120, 124, 82),
    "brown": (136, 100, 78),
}

SHOES: tuple[Colour, ...] = ((250, 248, 244), (70, 66, 78), (244, 126, 108), (148, 106, 78))

WALLS: dict[str, Colour] = {
    "peach": (255, 222, 196),
    "pale blue": (206, 228, 242),
    "mint": (208, 236, 220),
    "lavender": (226, 216, 242),
    "sand": (244, 230, 204),
    "rose": (250, 218, 220),
    "sage": (204, 218, 196),
    "dusk blue": (150, 172, 206),
    "warm grey": (222, 216, 212),
    "lemon": (254, 240, 190),
}


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """From `a` at t = 0 to `b` at t = 1."""
    return (
        round(a[0] + (b[0] - a[0]) * t),
        round(a[1] + (b[1] - a[1]) * t),
        round(a[2] + (b[2] - a[2]) * t),
    )


def darker(colour: Colour, amount: float) -> Colour:
    """In shadow: darker, and a little towards dusk."""
    deep = mix(
        colour, (round(colour[0] * 0.5), round(colour[1] * 0.5), round(colour[2] * 0.5)), amount
    )
    return mix(deep, DUSK, amount * 0.25)


def lighter(colour: Colour, amount: float) -> Colour:
    """In the light: towards a warm white."""
    return mix(colour, (255, 250, 236), amount)


def skin_shadow(skin: Colour, amount: float = 1.0) -> Colour:
    """Skin that turns from the light grows redder, not grey."""
    deep = (round(skin[0] * 0.84), round(skin[1] * 0.72), round(skin[2] * 0.70))
    return mix(skin, deep, amount)


def far(a: Colour, b: Colour) -> float:
    """How unlike two colours look, roughly; 100 is a clear difference."""
    red = (a[0] + b[0]) / 2
    d = [x - y for x, y in zip(a, b, strict=True)]
    return ((2 + red / 256) * d[0] ** 2 + 4 * d[1] ** 2 + (3 - red / 256) * d[2] ** 2) ** 0.5
