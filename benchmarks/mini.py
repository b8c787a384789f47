"""What the built-in model learned, on voices and identities it never trained on.

    python -m benchmarks.mini [--model NAME_OR_DIR]

Puppets have numbers from 50,000 on (training ends below 20,000); the reference is a frame of another moment
than the clip. Nothing but pixels is scored, by `omnihuman_jax/puppets/scoring.py`. `--model drawn` scores
the drawn frames themselves: what the readers can reach. Prints one JSON line last:

- `lip_corr` (goal 0.8): correlation of the mouth in the pixels with the truth, given text, reference and
  audio, mean over portraits and half-bodies (in full-body shots mouths are too small to read);
  `lip_corr_median`; `lip_corr_shuffled` (goal at most 0.2): against all other clips' mouths;
  `lip_lag_frames`: by how much mouths are late, `lip_corr_at_lag`: correlation if that is put right.
- `lip_corr_real` (goal 0.6), `lip_corr_real_shuffled`: two pieces of `examples/speech.flac`, a recorded
  voice, by several puppets, against `puppets/lips.follow`; shuffled: against what the puppet says itself.
- `pose_error` (goal 0.04): mean distance of joints found by `puppets/pose_reading.py` from those given, as a
  share of the frame (half- and full-body, all conditions given); `_arms`: elbows and wrists alone, for
  heads and shoulders hardly move; `_shuffled`: from another clip's.
- `identity_top1` (goal 0.95): how often the nearest of 50 reference images by colours of head and clothes is
  the one given; `_shuffled`: a wrong one.
- `text`: without reference, captions that differ in one word (colour of clothes, of hair, of skin): how often
  the pixels agree, by chance, and with the text dropped. `text_only_ok`: share of these videos that show
  a puppet's face of the right skin (`scoring.shows_a_puppet`; `_dropped`: with no condition at all).
- `ablation`: lips, pose, identity and clothes' colour with everything given, and with each condition dropped.
"""

import argparse
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from omnihuman_jax import media
from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.diffusion.guidance import Constant, Guidance
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.inference.generator import Generator, Request
from omnihuman_jax.inference.request import scales
from omnihuman_jax.models.building import FLOAT32, Precision
from omnihuman_jax.models.mini import find
from omnihuman_jax.puppets import captions, colour_reading, lips, palette, plan, scoring
from omnihuman_jax.puppets.figure import Figure
from omnihuman_jax.puppets.identity import Identity, randomness
from omnihuman_jax.puppets.motion import ACTIONS
from omnihuman_jax.puppets.pose_reading import PoseReader
from omnihuman_jax.puppets.reading import mouth_opening
from omnihuman_jax.puppets.voice import RATE
from omnihuman_jax.puppets.world import Preview, Settings, preview

FIRST, KNOWN = 50_000, 60_000  # clips that are generated; drawn ones that show what faces look like
SECONDS, FPS = 4.0, 25
LONG, SHORT = 49, 25  # frames of a clip that speaks, and of the others
PEOPLE = 50
FACES = 32  # puppets whose looks say what a puppet is
READ = (3, 12, 21)  # frames of a short clip in which joints are looked for, 0.4 s each
ARMS = (7, 8, 9, 10)
PARTS = ("lips", "real", "conditions", "text")
WORDS = {
    "clothes": {n: palette.CLOTH[n] for n in ("white", "yellow", "coral", "purple", "green", "navy")},
    "hair": {n: palette.HAIR[n] for n in ("black", "chestnut", "ginger", "light blond")},
    "skin": {n: palette.SKIN[n] for n in ("fair", "tan", "dark")},
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A clip to make: frames `start` to `start + frames` of an unseen puppet's four seconds."""

    number: int
    clip: Preview
    start: int
    frames: int
    text: str
    sound: np.ndarray | None = None  # in place of the clip's own

    @property
    def reference(self) -> np.ndarray:
        """The frame of the four seconds that is farthest away."""
        return self.clip.frame(self.still)

    @property
    def still(self) -> int:
        last = len(self.clip.motion.poses) - 1
        return 0 if self.start > last - self.start - self.frames else last

    @property
    def audio(self) -> np.ndarray | None:
        if self.sound is not None:
            return self.sound
        first, stop = (round(k / FPS * RATE) for k in (self.start, self.start + self.frames))
        return None if self.clip.sound is None else self.clip.sound[first:stop]

    @property
    def pose(self) -> np.ndarray:
        return self.clip.shot.trace(self.clip.motion)[self.start : self.start + self.frames]

    @property
    def mouth(self) -> np.ndarray:
        """The truth, or what lips do to the sound put in its place."""
        if self.sound is not None:
            return lips.follow(self.sound, RATE, FPS, self.frames)[0]
        poses = self.clip.motion.poses[self.start : self.start + self.frames]
        return np.array([pose.look.opening for pose in poses], np.float32)

    @property
    def who(self) -> Identity:
        return self.clip.shot.figure.who

    def drawn(self) -> np.ndarray:
        """What a perfect model would make."""
        if self.sound is None:
            return np.stack(
                [self.clip.frame(k) for k in range(self.start, self.start + self.frames)]
            )
        poses = self.clip.motion.poses[self.start : self.start + self.frames]
        said = [
            dataclasses.replace(p, look=dataclasses.replace(p.look, opening=float(o)))
            for p, o in zip(poses, self.mouth, strict=True)
        ]
        return np.stack([self.clip.shot.draw(pose) for pose in said])


Film = Callable[[Case, Sequence[str], int], np.ndarray]  # conditions given, seed -> frames


def film(
    model: str,
    steps: int | None,
    wanted: tuple[float | None, float | None],
    ceiling: bool = False,
    precision: Precision = FLOAT32,
) -> tuple[Film, Any]:
    """What makes the videos, and where the model comes from."""
    if model == "drawn":
        return lambda case, given, seed: case.drawn(), {"drawn": True}
    directory = find(model)
    generator = Generator(directory, precision, kept={})
    if ceiling:
        return functools.partial(_through, generator), dict(directory.manifest.provenance)
    defaults = directory.manifest.sampling
    usual = scales(defaults) if wanted[0] is None else (wanted[0], wanted[0])
    audio = usual[1] if wanted[1] is None else wanted[1]
    guidance = Guidance(text=Constant(usual[0]), audio=Constant(audio))
    config = directory.config("dit")
    joints = None if config.pose is None else config.pose.joints

    def make(case: Case, given: Sequence[str], seed: int) -> np.ndarray:
        conditions = {name: getattr(case, name) for name in given}
        if "pose" in conditions:
            conditions["pose"] = conditions["pose"][:, :joints]
        height, width = case.clip.shot.size[::-1]
        request = Request(
            grid=Grid(case.frames, height, width),
            fps=float(FPS),
            negative_text=defaults.get("negative_text"),
            steps=defaults["steps"] if steps is None else steps,
            shift=defaults["shift"],
            guidance=guidance,
            seed=seed,
            **conditions,
        )
        return np.concatenate(list(generator(request)))

    return make, dict(directory.manifest.provenance)


def _through(generator: Generator, case: Case, given: Sequence[str], seed: int) -> np.ndarray:
    """The drawn frames after the model's VAE, there and back."""
    kept = generator.kept if generator.kept is not None else {}
    if "vae" not in kept:
        kept["vae"] = generator.model.load("vae", FLOAT32)
    graph, params = nnx.split(kept["vae"])
    video = jnp.asarray(case.drawn(), jnp.float32)[None] / 127.5 - 1
    latents = _encode(graph, params, video)
    pieces = generator.decode(latents, case.frames, lambda *_: None)
    return np.concatenate(list(pieces), axis=1)[0]


@functools.partial(jax.jit, static_argnums=0)
def _encode(graph: Any, params: Any, video: jax.Array) -> jax.Array:
    return nnx.merge(graph, params).encode(video)


@cache
def _preview(number: int, size: int) -> Preview:
    return preview(Settings(seconds=SECONDS, height=size, width=size, fps=FPS), number)


def case(number: int, size: int, frames: int, sound: np.ndarray | None = None) -> Case:
    """The stretch of a clip in which the lips move most."""
    clip = _preview(number, size)
    opening = np.array([pose.look.opening for pose in clip.motion.poses])
    spread = [opening[k : k + frames].std() for k in range(len(opening) - frames + 1)]
    return Case(number, clip, int(np.argmax(spread)), frames, clip.caption, sound)


def numbers(framing: str, first: int | None = None, *, free: bool = False) -> Iterator[int]:
    """Unseen clips of a framing without fault; `free`: in which the hands also do something."""
    number = FIRST if first is None else first
    while True:
        made = plan.make_plan(0, number)
        if made.framing == framing and not made.faults:
            rng = randomness(0, number, "words")
            action = tuple(ACTIONS)[int(rng.integers(len(ACTIONS)))]
            if not free or ACTIONS[action][1]:
                yield number
        number += 1


def some(framing: str, count: int, *, free: bool = False) -> list[int]:
    """The first `count` of them."""
    found = numbers(framing, free=free)
    return [next(found) for _ in range(count)]


def mixed(count: int) -> list[int]:
    """Portraits and half-bodies in turn."""
    pairs = zip(some("portrait", count), some("half-body", count), strict=True)
    return [number for pair in pairs for number in pair][:count]


def lips_part(make: Film, clips: int, size: int, seed: int) -> dict[str, Any]:
    """Speech of unseen voices."""
    cases = [case(number, size, LONG) for number in mixed(clips)]
    given = ("text", "reference", "audio")
    videos = [make(c, given, seed + k) for k, c in enumerate(cases)]
    found = scoring.lip_table([mouth_opening(v) for v in videos], [c.mouth for c in cases])
    framing = np.array([c.clip.plan.framing for c in cases])
    people = _people([c.number for c in cases], size)
    ranks = [_rank(v, c, people) for v, c in zip(videos, cases, strict=True)]
    wrong = [_rank(v, c, people, off=7) for v, c in zip(videos, cases, strict=True)]
    return {
        "lip_corr": _mean(found.scores),
        "lip_corr_median": round(float(np.median(found.scores)), 3),
        **{f"lip_corr_{f}": _mean(found.scores[framing == f]) for f in ("portrait", "half-body")},
        "lip_corr_shuffled": _mean(found.shuffled),
        "lip_lag_frames": found.lag,
        "lip_corr_at_lag": round(found.at_lag, 3),
        "lip_clips": len(cases),
        "identity_top1": _mean([r == 0 for r in ranks]),
        "identity_shuffled": _mean([r == 0 for r in wrong]),
    }


def real_part(make: Film, clips: int, size: int, seed: int) -> dict[str, Any]:
    """A recorded voice in the mouths of several puppets."""
    speech = media.read_audio(media.example("speech.flac"), RATE)
    length = round(LONG / FPS * RATE)
    pieces = [speech[:length], speech[-length:]]
    own, other = [], []
    for k, number in enumerate(mixed(clips)):
        for piece in pieces:
            spoken = case(number, size, LONG, piece)
            read = mouth_opening(make(spoken, ("text", "reference", "audio"), seed + k))
            own.append(scoring.correlation(read, spoken.mouth))
            other.append(scoring.correlation(read, case(number, size, LONG).mouth))
    return {
        "lip_corr_real": _mean(own),
        "lip_corr_real_median": round(float(np.median(own)), 3),
        "lip_corr_real_shuffled": _mean(other),
        "lip_clips_real": len(own),
    }


def conditions_part(make: Film, clips: int, size: int, seed: int) -> dict[str, Any]:
    """Everything given, and each condition dropped in turn."""
    whole = max(2, clips // 4)
    chosen = [
        *some("half-body", max(2, clips - whole), free=True),
        *some("full-body", whole, free=True),
    ]
    cases = [case(number, size, SHORT) for number in chosen]
    people = _people(chosen, size)
    readers = [PoseReader(c.clip.shot) for c in cases]
    table, pose = {}, {}
    for dropped in (None, *STRENGTH[::-1]):
        given = tuple(name for name in STRENGTH if name != dropped)
        videos = [make(c, given, seed + k) for k, c in enumerate(cases)]
        found = [
            read(video[list(READ)]).astype(np.float32)
            for read, video in zip(readers, videos, strict=True)
        ]
        row = _row(cases, videos, found, people)
        table["full" if dropped is None else f"without {dropped}"] = row
        if dropped is None:
            pose = {f"pose_{name}": row[f"pose_{name}"] for name in ("error", "error_arms")}
            pose |= _shuffled(cases, found) | {"pose_clips": len(cases)}
    return pose | {"ablation": table}


def _row(
    cases: list[Case],
    videos: list[np.ndarray],
    found: list[np.ndarray],
    people: tuple[list[int], np.ndarray],
) -> dict[str, float]:
    triples = list(zip(cases, videos, found, strict=True))
    near = [(c, v) for c, v, _ in triples if c.clip.plan.framing != "full-body"]
    plain = [(c, v) for c, v in near if _plain(c.who)]
    return {
        "lip_corr": _mean([scoring.lip_score(v, c.mouth) for c, v in near]),
        "pose_error": _mean([scoring.pose_error(f, _truth(c)) for c, _, f in triples], 4),
        "pose_error_arms": _mean([scoring.pose_error(f, _truth(c), ARMS) for c, _, f in triples], 4),
        "identity_top1": _mean([_rank(v, c, people) == 0 for c, v, _ in triples]),
        "clothes_colour": _mean([
            scoring.agrees("clothes", v, c.pose, palette.CLOTH, c.who.clothes.name) for c, v in plain
        ]),
    }  # fmt: skip


def _shuffled(cases: list[Case], found: list[np.ndarray]) -> dict[str, float]:
    """What was found against the poses of all other clips of the framing."""
    pairs = [
        (f, _truth(other))
        for c, f in zip(cases, found, strict=True)
        for other in cases
        if other is not c and other.clip.plan.framing == c.clip.plan.framing
    ]
    return {
        "pose_error_shuffled": _mean([scoring.pose_error(f, t) for f, t in pairs], 4),
        "pose_error_arms_shuffled": _mean([scoring.pose_error(f, t, ARMS) for f, t in pairs], 4),
    }


def _truth(c: Case) -> np.ndarray:
    return c.pose[list(READ), :17].astype(np.float32)


def text_part(make: Film, clips: int, size: int, seed: int) -> dict[str, Any]:
    """Captions that differ in one word, and no other condition."""
    bases = _bases(max(1, clips // 8), size)
    known = [case(n, size, SHORT) for n in _spread(KNOWN, FACES)]
    faces = scoring.Faces.of([(c.clip.frame(c.start)[None], c.pose[:1]) for c in known])
    text: dict[str, Any] = {}
    shown, shown_dropped = [], []
    for attribute, choices in WORDS.items():
        right, dropped = [], []
        for k, base in enumerate(bases):
            for j, word in enumerate(choices):
                asked = _reworded(base, attribute, word)
                number = seed + 100 * k + j
                video = make(asked, ("text",), number)
                right.append(scoring.agrees(attribute, video, asked.pose, choices, word))
                shown.append(scoring.shows_a_puppet(video, asked.pose, asked.who.skin, faces))
                if k == 0:
                    blind = make(asked, (), number)
                    dropped.append(scoring.agrees(attribute, blind, asked.pose, choices, word))
                    shown_dropped.append(
                        scoring.shows_a_puppet(blind, asked.pose, asked.who.skin, faces)
                    )
        text[attribute] = {
            "agrees": _mean(right),
            "chance": round(1 / len(choices), 3),
            "dropped": _mean(dropped),
        }
    return {
        "text": text,
        "text_only_ok": _mean(shown),
        "text_only_ok_dropped": _mean(shown_dropped),
        "text_clips": len(shown),
    }


def _bases(count: int, size: int) -> list[Case]:
    """Puppets whose words can be changed: plain clothes, hair to be seen, combinations that occur."""
    found: list[Case] = []
    for number in _spread(FIRST, 10**6):
        if len(found) == count:
            break
        c = case(number, size, SHORT)
        if c.who.age != "older" and c.who.skin[0] > 200 and _plain(c.who) and _haired(c.who):
            found.append(c)
    return found


def _spread(first: int, count: int) -> Iterator[int]:
    """Portraits and half-bodies in turn."""
    both = [numbers("portrait", first), numbers("half-body", first)]
    for k in range(count):
        yield next(both[k % 2])


def _plain(who: Identity) -> bool:
    return who.clothes.pattern == "plain" and who.clothes.garment not in ("dungarees", "jacket")


def _haired(who: Identity) -> bool:
    return who.hat is None and who.hair_style not in ("bald", "headscarf", "buzz")


def _reworded(base: Case, attribute: str, word: str) -> Case:
    """Another colour of clothes, hair or skin, in the caption and in what would be drawn."""
    who, colour = base.who, WORDS[attribute][word]
    if attribute == "clothes":
        wear = dataclasses.replace(who.clothes, name=word, colour=colour)
        who = dataclasses.replace(who, clothes=wear)
    elif attribute == "hair":
        who = dataclasses.replace(who, hair_name=word, hair=colour)
    else:  # with black hair, which any skin has
        black = dict(hair_name="black", hair=palette.HAIR["black"])
        who = dataclasses.replace(who, skin_name=word, skin=colour, **black)
    shot = dataclasses.replace(base.clip.shot, figure=Figure(who, base.clip.shot.scale))
    framing = base.clip.plan.framing
    said = captions.caption(
        randomness(0, base.number, "caption"),
        who,
        framing=framing,
        action="" if framing == "portrait" else ACTIONS[base.clip.motion.action][0],
        place=shot.scene.words,
        speech=f"speaking {base.clip.speech.language_name}",
    )
    return dataclasses.replace(base, clip=dataclasses.replace(base.clip, shot=shot), text=said)


def _people(first: Sequence[int], size: int) -> tuple[list[int], np.ndarray]:
    """The looks of 50 people in their reference pictures, these among them."""
    more = (n for n in _spread(FIRST, 10**6) if n not in first)
    everyone = [*first, *(next(more) for _ in range(PEOPLE - len(first)))][:PEOPLE]
    looks = []
    for number in everyone:
        c = case(number, size, SHORT)
        there = c.clip.shot.keypoints(
            c.clip.motion.poses[c.still], *c.clip.motion.camera.at(c.still)
        )
        looks.append(colour_reading.look(c.reference[None], there[None]))
    return everyone, np.stack(looks)


def _rank(video: np.ndarray, c: Case, people: tuple[list[int], np.ndarray], off: int = 0) -> int:
    everyone, looks = people
    own = (everyone.index(c.number) + off) % len(everyone)
    return scoring.rank(colour_reading.look(video, c.pose), looks, own)


def _mean(values: Any, digits: int = 3) -> float | None:
    return round(float(np.mean(values)), digits) if len(values) else None


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="mini", metavar="NAME_OR_DIR",
        help='a model, or "drawn" for the drawn frames (default: mini)')  # fmt: skip
    add("--clips", type=int, default=24, metavar="N",
        help="clips that speak; the other parts have half as many or fewer (default: 24)")  # fmt: skip
    add("--steps", type=int, metavar="N", help="steps of the sampler (default: the model's)")
    add("--text-guidance", type=float, metavar="X", help="its scale (default: the model's)")
    add(
        "--audio-guidance",
        type=float,
        metavar="X",
        help="its scale (default: the model's, or --text-guidance)",
    )
    add("--ceiling", action="store_true",
        help="score the drawn frames after the model's VAE: what it could reach (default: off)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of the noise (default: 0)")
    add("--first", type=int, default=FIRST, metavar="N",
        help="number of the first unseen clip, 50,000 to 59,000 (default: 50000)")  # fmt: skip
    add("--size", type=int, default=64, metavar="N", help="height and width (default: 64)")
    add("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART",
        help=f"of {', '.join(PARTS)} (default: all)")  # fmt: skip
    args = parser.parse_args(arguments)
    if not 50_000 <= args.first <= 59_000:
        parser.error(f"--first lies between 50000 and 59000, got {args.first}.")
    if not 2 <= args.clips <= 50:
        parser.error(f"--clips lies between 2 and 50, got {args.clips}.")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    global FIRST
    args = parse(arguments)
    FIRST = args.first
    began = time.monotonic()
    wanted = (args.text_guidance, args.audio_guidance)
    make, provenance = film(args.model, args.steps, wanted, args.ceiling)
    parts = {"lips": lips_part, "real": real_part, "conditions": conditions_part, "text": text_part}
    share = {"lips": 1, "real": 3, "conditions": 2, "text": 1}
    scores: dict[str, Any] = {}
    for name in args.only:
        started = time.monotonic()
        scores |= parts[name](make, max(2, args.clips // share[name]), args.size, args.seed)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(
        json.dumps(
            {
                "model": args.model,
                "ceiling": args.ceiling,
                "untrained": bool(provenance.get("untrained", False)),
                **scores,
                "first": args.first,
                "size": args.size,
                "steps": args.steps,
                "seconds": round(time.monotonic() - began, 1),
                "provenance": provenance,
            }
        )
    )


if __name__ == "__main__":
    try:
        main()
    except InputError as why:
        sys.exit(f"error: {why}")
