"""The only place that decides who a puppet is: body, face, hair, clothes and what to call them."""

from dataclasses import dataclass

import numpy as np

from omnihuman_jax.puppets import palette
from omnihuman_jax.puppets.palette import Colour, far

STREAMS = ("identity", "clothes", "world", "motion", "voice", "plan", "words", "caption")


def randomness(seed: int, number: int, stream: str) -> np.random.Generator:
    """The random numbers of one aspect of one clip: a change to one aspect leaves the others alone."""
    return np.random.default_rng([seed, number, STREAMS.index(stream)])


HAIR_STYLES: dict[str, str] = {
    "crop": "short hair",
    "side part": "short parted hair",
    "quiff": "a quiff of hair",
    "spiky": "spiky hair",
    "buzz": "very short hair",
    "bald": "a bald head",
    "bob": "bobbed hair",
    "fringe": "straight hair with a fringe",
    "long": "long straight hair",
    "wavy": "long wavy hair",
    "bun": "hair in a bun",
    "ponytail": "a ponytail",
    "pigtails": "pigtails",
    "afro": "an afro",
    "curly": "curly hair",
    "headscarf": "a headscarf",
}
"""Each style and its words."""

SHORT = ("crop", "side part", "quiff", "spiky", "buzz", "bald", "curly", "afro")
LONG = (
    "bob",
    "fringe",
    "long",
    "wavy",
    "bun",
    "ponytail",
    "pigtails",
    "afro",
    "curly",
    "headscarf",
)
UNDER_HATS = ("crop", "side part", "buzz", "bob", "long", "wavy", "bald")
HATS: dict[str, str] = {
    "beanie": "a woolly hat",
    "cap": "a baseball cap",
    "sunhat": "a sun hat",
    "headphones": "headphones",
}
PIECES: dict[str, str] = {"flower": "a flower in the hair", "bow": "a bow in the hair"}
BEARDS = ("beard", "moustache", "goatee", "stubble")
GARMENTS: dict[str, str] = {
    "t-shirt": "t-shirt",
    "shirt": "shirt",
    "sweater": "sweater",
    "turtleneck": "turtleneck",
    "hoodie": "hoodie",
    "jacket": "jacket",
    "dress": "dress",
    "dungarees": "dungarees",
}
PATTERNS: dict[str, str] = {
    "plain": "",
    "stripes": "striped",
    "dots": "dotted",
    "checks": "checked",
    "zigzag": "zigzag",
    "stars": "starry",
}
PATTERNED = ("t-shirt", "shirt", "sweater", "dress")


@dataclass(frozen=True, kw_only=True)
class Face:
    """Proportions, each 1 for the average, unless said otherwise."""

    width: float
    jaw: float
    eye_size: float
    eye_gap: float
    eye_tilt: float  # radians, outer corner up
    nose_size: float
    nose: str  # "button", "long", "round"
    mouth: float
    lips: float
    brows: float
    brow_tilt: float
    ears: float


@dataclass(frozen=True, kw_only=True)
class Clothes:
    """What is worn. `sleeves` is "short" or "long"."""

    garment: str
    pattern: str
    name: str  # of the main colour
    colour: Colour
    accent: Colour
    sleeves: str
    trousers: Colour
    shoes: Colour


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a puppet is. `noun` is "woman", "man" or "person"; `pitch` is in Hz."""

    name: str
    noun: str
    age: str  # "", "young" or "older"
    skin_name: str
    skin: Colour
    hair_name: str
    hair: Colour
    hair_style: str
    eyes: Colour
    face: Face
    beard: str | None
    glasses: str | None
    glasses_colour: Colour
    earrings: bool
    hat: str | None
    hat_colour: Colour
    freckles: bool
    lashes: bool
    lips: Colour
    girth: float  # of the body; 1 is the average
    pitch: float
    tract: float  # formants, 1 for the average
    clothes: Clothes

    @property
    def lid(self) -> Colour:
        """The colour of brows and beard: hair, but never lost on the skin."""
        colour = palette.darker(self.hair, 0.28)
        return colour if far(colour, self.skin) > 90 else palette.darker(self.skin, 0.6)


def make_identity(seed: int, number: int) -> Identity:
    """The puppet of clip `number`, always the same for the same seed."""
    rng = randomness(seed, number, "identity")
    noun = _pick(rng, ("woman", "man", "person"), (0.44, 0.44, 0.12))
    feminine = noun == "woman" or (noun == "person" and rng.random() < 0.5)
    age = _pick(rng, ("", "young", "older"), (0.6, 0.25, 0.15))
    skin_name = _pick(rng, tuple(palette.SKIN))
    skin = palette.SKIN[skin_name]
    style = _pick(rng, LONG if feminine else SHORT)
    hair_name = _hair_name(rng, age, skin_name)
    hat = _hat(rng, style, feminine)
    if hat in HATS and hat != "headphones" and style not in UNDER_HATS:
        style = "long" if feminine else "crop"
    masculine = noun == "man"
    clothes = make_clothes(seed, number, feminine, skin)
    pitch = {"woman": 205.0, "man": 118.0, "person": 160.0}[noun] * float(rng.uniform(0.84, 1.2))
    return Identity(
        name=f"puppet-{number:05d}",
        noun=noun,
        age=age,
        skin_name=skin_name,
        skin=skin,
        hair_name=hair_name,
        hair=palette.HAIR[hair_name],
        hair_style=style,
        eyes=_eyes(rng, skin_name),
        face=_face(rng, feminine),
        beard=_pick(rng, BEARDS) if masculine and rng.random() < 0.45 else None,
        glasses=_pick(rng, ("round", "square")) if rng.random() < 0.3 else None,
        glasses_colour=_pick(rng, ((58, 52, 62), (150, 96, 62), (206, 150, 70), (86, 110, 160))),
        earrings=bool(rng.random() < (0.5 if feminine else 0.08)),
        hat=hat,
        hat_colour=palette.CLOTH[_pick(rng, ("mustard", "coral", "teal", "navy", "cream", "rose"))],
        freckles=bool(skin_name in ("fair", "rosy", "light") and rng.random() < 0.3),
        lashes=feminine,
        lips=_lips(rng, skin, feminine),
        girth=float(rng.uniform(0.9, 1.14)),
        pitch=pitch,
        tract=float(np.clip((pitch / 160) ** 0.25, 0.9, 1.12)),
        clothes=clothes,
    )


def make_clothes(seed: int, number: int, feminine: bool, skin: Colour) -> Clothes:
    """What the puppet of clip `number` wears; its colours differ from the skin and from each other."""
    rng = randomness(seed, number, "clothes")
    garments = tuple(g for g in GARMENTS if feminine or g != "dress")
    garment = _pick(rng, garments)
    names = [n for n, c in palette.CLOTH.items() if far(c, skin) > 110]
    name = names[rng.integers(len(names))]
    colour = palette.CLOTH[name]
    others = [c for c in palette.CLOTH.values() if far(c, colour) > 130 and far(c, skin) > 80]
    if garment == "dungarees":  # the accent is drawn on a white shirt
        others = [c for c in others if far(c, palette.WHITE) > 160]
    pattern = "plain"
    if garment in PATTERNED and rng.random() < 0.62:
        pattern = _pick(rng, tuple(PATTERNS)[1:])
    trousers = [c for c in palette.TROUSERS.values() if far(c, colour) > 90]
    return Clothes(
        garment=garment,
        pattern=pattern,
        name=name,
        colour=colour,
        accent=others[rng.integers(len(others))],
        sleeves="short" if garment in ("t-shirt", "dress", "dungarees") else "long",
        trousers=trousers[rng.integers(len(trousers))],
        shoes=palette.SHOES[rng.integers(len(palette.SHOES))],
    )


def _pick[T](rng: np.random.Generator, choices: tuple[T, ...], shares: tuple = ()) -> T:
    return choices[int(rng.choice(len(choices), p=shares or None))]


def _hair_name(rng: np.random.Generator, age: str, skin: str) -> str:
    if age == "older":
        return _pick(rng, palette.OLD_HAIR)
    if rng.random() < 0.1:
        return _pick(rng, palette.BRIGHT_HAIR)
    natural = palette.NATURAL_HAIR
    return _pick(rng, natural[:4] if skin in ("brown", "deep brown", "dark") else natural)


def _hat(rng: np.random.Generator, style: str, feminine: bool) -> str | None:
    if style == "headscarf" or rng.random() > 0.3:
        return None
    if feminine and style != "bald" and rng.random() < 0.4:
        return _pick(rng, tuple(PIECES))
    return _pick(rng, ("beanie", "cap", "headphones", *(["sunhat"] if feminine else [])))


def _eyes(rng: np.random.Generator, skin: str) -> Colour:
    dark = skin in ("tan", "brown", "deep brown", "dark")
    return palette.EYES[_pick(rng, tuple(palette.EYES)[: 3 if dark else 6])]


def _lips(rng: np.random.Generator, skin: Colour, feminine: bool) -> Colour:
    natural = palette.mix(skin, (200, 98, 98), 0.5 if skin[0] > 140 else 0.38)
    painted = _pick(rng, ((214, 106, 116), (226, 116, 122), (194, 98, 116)))
    return painted if feminine and rng.random() < 0.45 else natural


def _face(rng: np.random.Generator, feminine: bool) -> Face:
    near = lambda low, high: float(rng.uniform(low, high))
    return Face(
        width=near(0.93, 1.08),
        jaw=near(0.78, 0.98) if feminine else near(0.9, 1.14),
        eye_size=near(0.95, 1.16) if feminine else near(0.86, 1.04),
        eye_gap=near(0.93, 1.07),
        eye_tilt=near(-0.06, 0.12),
        nose_size=near(0.85, 1.2),
        nose=_pick(rng, ("button", "long", "round")),
        mouth=near(0.9, 1.14),
        lips=near(0.95, 1.35) if feminine else near(0.75, 1.05),
        brows=near(0.7, 0.95) if feminine else near(0.95, 1.35),
        brow_tilt=near(-0.12, 0.12),
        ears=near(0.9, 1.15),
    )
