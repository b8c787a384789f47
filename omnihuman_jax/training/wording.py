"""The only place that says how the built-in model's text encoder is trained: to tell from a caption who
is seen, how, doing what, where and speaking what.

Two heads read the features and are thrown away. One looks for each attribute with a query of its own,
as cross-attention does, and names it; so what a text says can be found in its tokens. The other names
the word that each byte belongs to; so the bytes of a word become the word.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Int32, PRNGKeyArray

from omnihuman_jax.errors import InputError
from omnihuman_jax.models import directory
from omnihuman_jax.models.building import FLOAT32, linear, param
from omnihuman_jax.models.umt5 import BYTES, Tokenizer, UMT5Config, UMT5Encoder
from omnihuman_jax.puppets import captions, palette
from omnihuman_jax.puppets.backdrop import PAINTERS
from omnihuman_jax.puppets.identity import (
    BEARDS,
    GARMENTS,
    HAIR_STYLES,
    HATS,
    PATTERNS,
    PIECES,
    Identity,
    make_identity,
)
from omnihuman_jax.puppets.languages import INVENTED, SPOKEN
from omnihuman_jax.puppets.motion import ACTIONS
from omnihuman_jax.puppets.plan import Plan, make_plan
from omnihuman_jax.training import networks
from omnihuman_jax.training.stages import Stage
from omnihuman_jax.training.streams import Numbered
from omnihuman_jax.training.task import Cost, Params, Tallies, Trainee, tally

HELD_OUT = 50_000  # identities from this number on are never trained on
UNSAID = -1  # the label of what a text leaves out
BIAS = "encoder/layers/position_bias"
NEAR = ((-1, -2, 1, 2), (-1, -3, 3, -5), (-4, 4, -7, 7))  # bytes that the first layers begin with
NEARNESS = 5.0  # added to their scores

DOES = {
    "desk": "sitting at a desk",
    "mask": "wearing a face mask",
    "mic": "holding a microphone",
}
VERBS = {"speaks": "speaking", "sings": "singing in", "talks": "talking"}
LANGUAGES = tuple(each.name for each in INVENTED) + tuple(each.name for each in SPOKEN)

# What a caption can say; "" is that there is none, or nothing special.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "noun": ("woman", "man", "person"),
    "age": ("", "young", "older"),
    "skin": tuple(palette.SKIN),
    "hair colour": tuple(palette.HAIR),
    "hair style": tuple(HAIR_STYLES),
    "beard": ("", *BEARDS),
    "glasses": ("", "round", "square"),
    "freckles": ("", "freckles"),
    "hat": ("", *HATS, *PIECES),
    "clothes colour": tuple(palette.CLOTH),
    "pattern": tuple(PATTERNS),
    "garment": tuple(GARMENTS),
    "framing": tuple(captions.FRAMINGS),
    "place": tuple(PAINTERS),
    "action": ("", *ACTIONS, *DOES),
    "verb": tuple(VERBS),
    "language": ("", *LANGUAGES),
}
CLASSES = max(map(len, ATTRIBUTES.values()))

Facts = Mapping[str, str]


class Reader(nnx.Module):
    """The encoder and its two heads."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        self.encoder = UMT5Encoder(config, FLOAT32, rngs=rngs)
        width, many = config.width, len(ATTRIBUTES)
        spread = nnx.initializers.normal(width**-0.5)
        self.query = param((many, width), "_ _", FLOAT32, rngs, spread)
        self.name = param((many, width, CLASSES), "_ _ _", FLOAT32, rngs, spread)
        self.bias = param((many, CLASSES), "_ _", FLOAT32, rngs)
        self.word = linear(width, len(words()) + 1, "_ _", FLOAT32, rngs)

    def __call__(
        self, tokens: Int[Array, "B S"], lengths: Int[Array, "B"]
    ) -> tuple[Float[Array, "B attributes classes"], Float[Array, "B S words"]]:
        """Scores of every value of every attribute, and of every word at every byte."""
        features = self.encoder(tokens, lengths)
        scores = jnp.einsum("BSD,aD->BaS", features, self.query[...])
        seen = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
        weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -1e9), axis=-1)
        found = jnp.einsum("BaS,BSD->BaD", weights, features)
        values = jnp.einsum("BaD,aDc->Bac", found, self.name[...]) + self.bias[...][None]
        return jnp.where(jnp.asarray(_real())[None], values, -1e9), self.word(features)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Texts:
    """A batch: token ids, true lengths, the value of each attribute or UNSAID, the word at each byte
    (the first number beyond the words where there is none)."""

    tokens: Int32[Array | np.ndarray, "B S"]
    lengths: Int32[Array | np.ndarray, "B"]
    values: Int32[Array | np.ndarray, "B attributes"]
    words: Int32[Array | np.ndarray, "B S"]


@dataclass(frozen=True, kw_only=True)
class Wording:
    """Training of the text encoder.

    Attributes:
        config: sizes of the encoder, whose tokens are bytes.
        length: bytes that a text is padded or cut to; captions have up to 240.
        loose: share of texts that are not captions but looser words for a few of the same things, as
            people type them.
        spelling: weight of naming the words.
        world: seed of the puppets.
    """

    config: UMT5Config
    length: int = 240
    loose: float = 0.35
    spelling: float = 0.5
    world: int = 0

    def __post_init__(self) -> None:
        if self.length < 16:
            raise InputError(f"A text has room for 16 bytes at least, got length={self.length}.")
        if not 0 <= self.loose <= 1:
            raise InputError(f"loose is a share from 0 to 1, got {self.loose:g}.")

    def prepare(self, stages: Sequence[Stage], mesh: Mesh, seed: int) -> Trainee:
        """Ready to train; every stage trains the same."""
        make = functools.partial(_reader, self.config)
        loss = functools.partial(self.loss, make)
        return Trainee(
            shapes=networks.shapes(make, mesh),
            init=lambda: near_first(networks.initial(make, mesh, seed), self.config),
            losses={stage.name: loss for stage in stages},
            stream=functools.partial(self._stream, seed),
            cost=self._cost,
            export=functools.partial(self._export, make),
        )

    def loss(
        self, make: Any, params: Params, batch: Texts, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Tallies]:
        """Cross entropy of the attributes that are said, and of the word at each byte."""
        values, spelled = networks.rebuilt(make, params)(batch.tokens, batch.lengths)
        said = batch.values != UNSAID
        surprise = _surprise(values, jnp.where(said, batch.values, 0))
        right = jnp.argmax(values, axis=-1) == batch.values
        meaning = _mean(surprise, said)
        seen = jnp.arange(batch.tokens.shape[1])[None] < batch.lengths[:, None]
        word = _mean(_surprise(spelled, batch.words), seen)
        correct = _mean((jnp.argmax(spelled, axis=-1) == batch.words).astype(jnp.float32), seen)
        tallies = {
            "meaning": tally(meaning),
            "right/words": tally(correct),
            **{
                f"right/{name}": tally(right[:, i].astype(jnp.float32), said[:, i])
                for i, name in enumerate(ATTRIBUTES)
            },
        }
        return jnp.mean(meaning + self.spelling * word), tallies

    def _stream(self, seed: int, stage: Stage) -> Numbered:
        hosts = jax.process_count()
        if stage.batch % hosts:
            raise InputError(f"{hosts} hosts cannot share a batch of {stage.batch} evenly.")
        share = stage.batch // hosts
        rows = range(jax.process_index() * share, (jax.process_index() + 1) * share)
        tokenizer = Tokenizer(BYTES)

        def make(n: int) -> Texts:
            told = [self._text(seed, stage.name, n * stage.batch + row) for row in rows]
            return texts(tokenizer, told, self.length)

        identity = {"seed": seed, "batch": stage.batch, "stage": stage.name}
        return Numbered(make, {**identity, "loose": self.loose, "length": self.length})

    def _text(self, seed: int, stage: str, sample: int) -> tuple[str, Facts]:
        rng = np.random.default_rng([seed, *stage.encode(), sample])
        number = int(rng.integers(HELD_OUT))
        who, facts = draw(rng, self.world, number)
        return loose(rng, facts) if rng.random() < self.loose else (strict(rng, who, facts), facts)

    def _cost(self, batch: Texts) -> Cost:
        (clips, length), c = batch.tokens.shape, self.config
        inner = c.heads * c.head_width
        layer = 4 * c.width * inner + 3 * c.width * c.mlp + 2 * length * inner
        # A multiplication and an addition, forward and twice as much backward.
        return Cost(clips, clips * length, 6.0 * clips * length * c.layers * layer)

    def _export(self, make: Any, path: str, params: Params, provenance: Mapping[str, Any]) -> None:
        reader = networks.rebuilt(make, params)
        scores = accuracy(reader, self)
        directory.save(
            path,
            {"text_encoder": reader.encoder},
            weights="safetensors",
            tokenizer=BYTES,
            provenance={**provenance, "scores": scores},
            overwrite=True,
        )


def near_first(params: Params, config: UMT5Config) -> Params:
    """New parameters whose heads start by looking at a byte nearby, each at another distance.

    From T5's own start the encoder must find out that a word is made of neighbours: after 280 updates
    of 16 texts it named the word of 43 % of the bytes, so begun 82 % after 80.
    """
    bias = np.zeros((config.layers, config.buckets, config.heads), np.float32)
    exact = config.buckets // 4  # smaller distances have a bucket of their own
    for layer, offsets in zip(bias, NEAR, strict=False):
        for head in range(config.heads):
            offset = offsets[head % len(offsets)]
            if abs(offset) < exact:
                layer[abs(offset) + (config.buckets // 2 if offset > 0 else 0), head] = NEARNESS
    old = params[BIAS]
    add = jax.jit(lambda x: x + bias, out_shardings=old.sharding)
    return {**params, BIAS: add(old)}


def draw(rng: np.random.Generator, world: int, number: int) -> tuple[Identity, dict[str, str]]:
    """The puppet `number`, and by attribute what a caption of it can say; the scene is by chance."""
    who, plan = make_identity(world, number), make_plan(world, number)
    verb = ("speaks", "sings", "talks")[int(rng.choice(3, p=(0.6, 0.2, 0.2)))]
    wear = who.clothes
    facts = {
        "noun": who.noun,
        "age": who.age,
        "skin": who.skin_name,
        "hair style": who.hair_style,
        "beard": who.beard or "",
        "glasses": who.glasses or "",
        "freckles": "freckles" if who.freckles else "",
        "hat": who.hat or "",
        "clothes colour": wear.name,
        "pattern": wear.pattern,
        "garment": wear.garment,
        "framing": plan.framing,
        "place": _any(rng, tuple(PAINTERS)),
        "action": _action(rng, plan),
        "verb": verb,
        "language": "" if verb == "talks" else _any(rng, LANGUAGES),
    }
    if who.hair_style not in captions.UNCOLOURED:
        facts["hair colour"] = who.hair_name
    return who, facts


def _action(rng: np.random.Generator, plan: Plan) -> str:
    """As the puppet world has it: hands that are seen do something."""
    if "hidden_mouth" in plan.faults:
        return _any(rng, ("mask", "mic"))
    if plan.desk:
        return "desk"
    return "" if plan.framing == "portrait" else _any(rng, tuple(ACTIONS))


def strict(rng: np.random.Generator, who: Identity, facts: Facts) -> str:
    """The caption that a clip with these facts has."""
    return captions.caption(
        rng,
        who,
        framing=facts["framing"],
        action=_doing(facts["action"]),
        place=PAINTERS[facts["place"]][0],
        speech=_speech(facts),
    )


def loose(rng: np.random.Generator, facts: Facts) -> tuple[str, dict[str, str]]:
    """A prompt that says some of the facts in some order, and which it says."""
    said: dict[str, str] = {"noun": facts["noun"]}

    def say(name: str, chance: float = 0.5) -> bool:
        if rng.random() >= chance or not facts.get(name):
            return False
        said[name] = facts[name]
        return True

    seen = [words for words in _looks(facts, say) if words]
    rng.shuffle(seen)
    person = " ".join(filter(None, ["a", facts["age"] if say("age") else "", facts["noun"]]))
    if seen:
        person += f" with {' and '.join(seen) if len(seen) < 3 else ', '.join(seen)}"
    worn = [facts["clothes colour"]] if say("clothes colour", 0.7) else []
    worn += [PATTERNS[facts["pattern"]]] if facts["pattern"] != "plain" and say("pattern") else []
    if say("garment", 0.7):
        worn.append(GARMENTS[facts["garment"]])
    elif worn:
        worn.append("clothes")
    if worn:
        person += f" {_any(rng, ('in a', 'wearing a', 'in'))} {' '.join(worn)}"
    if say("framing", 0.4):
        person = f"{captions.FRAMINGS[facts['framing']]} of {person}"
    rest = [PAINTERS[facts["place"]][0]] if say("place", 0.6) else []
    rest += [_doing(facts["action"])] if facts["action"] and say("action") else []
    if say("verb", 0.6):
        say("language", 1.0)
        rest.append(_speech(facts))
    rng.shuffle(rest)
    joint = _any(rng, (" ", ", "))
    return _cased(rng, joint.join([person, *rest])), said


def _looks(facts: Facts, say: Any) -> list[str]:
    """Some of what a face shows, a phrase each."""
    looks = [f"{facts['skin']} skin"] if say("skin", 0.4) else []
    if "hair colour" in facts and say("hair colour"):
        looks.append(f"{facts['hair colour']} hair")
    elif say("hair style"):
        looks.append(HAIR_STYLES[facts["hair style"]])
    if say("beard"):
        looks.append(captions.BEARDS.get(facts["beard"], f"a {facts['beard']}"))
    if say("glasses"):
        looks.append(f"{facts['glasses']} glasses")
    if say("freckles"):
        looks.append("freckles")
    if say("hat"):
        looks.append({**HATS, **PIECES}[facts["hat"]])
    return looks


def texts(tokenizer: Tokenizer, told: Sequence[tuple[str, Facts]], length: int) -> Texts:
    """Texts with what they say, as a batch."""
    tokens, lengths = tokenizer.encode([text for text, _ in told], length)
    values = np.full((len(told), len(ATTRIBUTES)), UNSAID, np.int32)
    spelled = np.full(tokens.shape, len(words()), np.int32)
    for row, (text, said) in enumerate(told):
        for column, (name, known) in enumerate(ATTRIBUTES.items()):
            if name in said:
                values[row, column] = known.index(said[name])
        for found in _WORD.finditer(text.lower().encode()):
            number = words().get(found[0].decode())
            if number is not None:
                spelled[row, found.start() : found.end()] = number
    return Texts(tokens, lengths, values, spelled)


_WORD = re.compile(rb"[a-z]+(?:-[a-z]+)*")


@functools.cache
def words() -> dict[str, int]:
    """A number for every word that captions are made of."""
    looks = (HAIR_STYLES, HATS, PIECES, captions.BEARDS, PATTERNS, GARMENTS, captions.FRAMINGS)
    said = [text for table in (*looks, DOES, VERBS) for text in table.values()]
    said += [words for words, _ in (*PAINTERS.values(), *ACTIONS.values())]
    said += [text for values in ATTRIBUTES.values() for text in values]
    said += ["glasses skin freckles with in a an and of she he they is are wearing clothes hair"]
    found = {word.decode() for text in said for word in _WORD.findall(text.lower().encode())}
    return {word: number for number, word in enumerate(sorted(found))}


def accuracy(reader: Reader, task: Wording, captions_: int = 400) -> dict[str, float]:
    """By attribute, the share of captions of people never trained on from which it is told right; and
    "all", the share from which everything is."""
    tokenizer, everything = Tokenizer(BYTES), []
    right: dict[str, list[np.ndarray]] = {name: [] for name in ATTRIBUTES}
    read = jax.jit(lambda graph, state, *x: nnx.merge(graph, state)(*x)[0], static_argnums=0)
    graph, state = nnx.split(reader)
    for start in range(0, captions_, 50):
        told = []
        for number in range(HELD_OUT + start, HELD_OUT + start + 50):
            rng = np.random.default_rng([task.world, number])
            who, facts = draw(rng, task.world, number)
            told.append((strict(rng, who, facts), facts))
        batch = texts(tokenizer, told, task.length)
        told_values = np.asarray(read(graph, state, batch.tokens, batch.lengths)).argmax(axis=-1)
        hit, said = told_values == batch.values, batch.values != UNSAID
        everything.append((hit | ~said).all(axis=1))
        for column, name in enumerate(ATTRIBUTES):
            right[name].append(hit[said[:, column], column])
    scores = {name: float(np.concatenate(hits).mean()) for name, hits in right.items()}
    return {name: round(s, 4) for name, s in scores.items()} | {
        "all": round(float(np.concatenate(everything).mean()), 4)
    }


def _surprise(
    scores: Float[Array, "*n c"], labels: Int[Array | np.ndarray, "*n"]
) -> Float[Array, "*n"]:
    """Cross entropy, in nats."""
    likely = jax.nn.log_softmax(scores, axis=-1)
    return -jnp.take_along_axis(likely, labels[..., None], axis=-1)[..., 0]


def _mean(values: Float[Array, "B n"], chosen: Bool[Array, "B n"]) -> Float[Array, "B"]:
    """Of each row, over what is chosen."""
    count = jnp.maximum(jnp.sum(chosen, axis=1), 1)
    return jnp.sum(jnp.where(chosen, values, 0.0), axis=1) / count


def _real() -> Bool[np.ndarray, "attributes classes"]:
    """Which of the padded classes an attribute has."""
    return np.arange(CLASSES)[None] < np.array([[len(values)] for values in ATTRIBUTES.values()])


def _doing(action: str) -> str:
    return DOES.get(action) or (ACTIONS[action][0] if action else "")


def _speech(facts: Facts) -> str:
    return f"{VERBS[facts['verb']]} {facts['language']}".strip()


def _cased(rng: np.random.Generator, text: str) -> str:
    """As people type: all small, or like a sentence."""
    return text if rng.random() < 0.4 else f"{text[0].upper()}{text[1:]}."


def _any[T](rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _reader(config: UMT5Config, rngs: nnx.Rngs) -> Reader:
    return Reader(config, rngs=rngs)
