"""The only place that puts a clip into words: who is seen, how, doing what, where, speaking what."""

import numpy as np

from omnihuman_jax.puppets.identity import GARMENTS, HAIR_STYLES, HATS, PATTERNS, PIECES, Identity

FRAMINGS = {"portrait": "portrait", "half-body": "half-body shot", "full-body": "full-body shot"}
UNCOLOURED = ("bald", "headscarf")
BEARDS = {"beard": "a full beard", "stubble": "stubble"}


def caption(
    rng: np.random.Generator, who: Identity, *, framing: str, action: str, place: str, speech: str
) -> str:
    """One or two sentences, in one of three orders. `action` may be empty.

    speech "speaking Lumi", action "waving a hand", place "on a beach": "A portrait of a woman with … in
    a blue shirt, on a beach. She is speaking Lumi, waving a hand."
    """
    person, shot = f"{_person(who)} in {_clothes(who)}", FRAMINGS[framing]
    does = f"{speech}, {action}" if action else speech
    order = int(rng.integers(3))
    if order == 0:
        they = {"woman": "She is", "man": "He is"}.get(who.noun, "They are")
        return f"A {shot} of {person}, {place}. {they} {does}."
    if order == 1:
        return f"A {shot} of {person}, {does}, {place}."
    return f"{place[0].upper()}{place[1:]}, {person} is {does}; {_with_article(shot)}."


def _person(who: Identity) -> str:
    noun = f"{who.age} {who.noun}".strip()
    style = HAIR_STYLES[who.hair_style]
    if who.hair_style not in UNCOLOURED:
        style = _coloured(style, who.hair_name)
    seen = [f"{who.skin_name} skin", style]
    if who.beard:
        seen.append(BEARDS.get(who.beard, f"a {who.beard}"))
    if who.glasses:
        seen.append(f"{who.glasses} glasses")
    if who.freckles:
        seen.append("freckles")
    if who.hat:
        seen.append({**HATS, **PIECES}[who.hat])
    return f"{_with_article(noun)} with {', '.join(seen[:-1])} and {seen[-1]}"


def _coloured(style: str, colour: str) -> str:
    """A ponytail, brown: "a brown ponytail"; long straight hair: "long straight brown hair"."""
    if "hair" in style:
        return style.replace("hair", f"{colour} hair", 1)
    if style.startswith(("a ", "an ")):
        return _with_article(f"{colour} {style.split(' ', 1)[1]}")
    return f"{colour} {style}"


def _clothes(who: Identity) -> str:
    wear = who.clothes
    words = (wear.name, PATTERNS[wear.pattern], GARMENTS[wear.garment])
    worn = " ".join(filter(None, words))
    return worn if wear.garment == "dungarees" else _with_article(worn)


def _with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"
