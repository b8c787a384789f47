"""Wording: what a text says, and only that, is what the encoder learns to tell."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.mesh import make_mesh
from omnihuman_jax.models import umt5
from omnihuman_jax.models.building import FLOAT32, arbitrary, flat
from omnihuman_jax.models.directory import open_directory
from omnihuman_jax.models.umt5 import BYTES, Tokenizer, UMT5Config
from omnihuman_jax.puppets import captions
from omnihuman_jax.puppets.identity import GARMENTS, HATS, PIECES
from omnihuman_jax.puppets.world import Settings, preview
from omnihuman_jax.training import wording
from omnihuman_jax.training.stages import Stage
from omnihuman_jax.training.wording import ATTRIBUTES, HELD_OUT, UNSAID, Reader, Wording, words

TINY = UMT5Config.tiny()
STAGE = Stage(name="all", steps=10, batch=4)
COLUMN = {name: column for column, name in enumerate(ATTRIBUTES)}


def task(**changes):
    return Wording(**{"config": TINY, **changes})


def prepared(it, seed=0):
    return it.prepare((STAGE,), make_mesh(devices=jax.devices()[:1]), seed)


def batches_of(trainee, count, place=None):
    """The next batches, and the place behind them."""
    with contextlib.closing(trainee.stream(STAGE)) as stream:
        if place is not None:
            stream.set_state(place)
        return [next(stream) for _ in range(count)], stream.get_state()


def reader():
    return arbitrary(lambda rngs: Reader(TINY, rngs=rngs))


def leaves_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def told(number, share):
    return task(loose=share)._text(0, "all", number)


def phrases(facts):
    """What must stand in a text that says the facts, as the puppet world spells them."""
    found = {
        "noun": facts.get("noun"),
        "skin": facts.get("skin"),
        "clothes colour": facts.get("clothes colour"),
        "garment": GARMENTS.get(facts.get("garment")),
        "framing": captions.FRAMINGS.get(facts.get("framing")),
        "glasses": facts.get("glasses"),
        "hat": {**HATS, **PIECES}.get(facts.get("hat")),
        "language": facts.get("language"),
    }
    return {name: phrase for name, phrase in found.items() if phrase}


def test_a_batch_depends_on_its_number_alone_and_hosts_share_it(monkeypatch):
    batches, place = batches_of(prepared(task()), 3)
    again, _ = batches_of(prepared(task()), 2, {**place, "batches": 1})
    leaves_equal(again, batches[1:])
    assert not np.array_equal(batches[0].tokens, batches[1].tokens)
    with pytest.raises(InputError, match="seed"):
        batches_of(prepared(task(), seed=1), 1, place)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    parts = []
    for host in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        parts.append(jax.tree.leaves(batches_of(prepared(task()), 1)[0]))
    leaves_equal([np.concatenate(x) for x in zip(*parts, strict=True)], batches[0])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_text_says_what_it_is_said_to_say(share):
    for number in range(200):
        text, facts = told(number, share)
        for name, phrase in phrases(facts).items():
            assert phrase.lower() in text.lower(), (name, text)


def test_a_loose_text_is_not_asked_what_it_leaves_out():
    unsaid = 0
    for number in range(200):
        text, facts = told(number, 1.0)
        for name, values in ATTRIBUTES.items():
            if name not in facts:
                unsaid += 1
                if name in ("garment", "glasses", "place", "hat"):
                    assert not any(v and f" {v} " in text for v in values), (name, text)
        batch = wording.texts(Tokenizer(BYTES), [(text, facts)], 240)
        for name, column in COLUMN.items():
            assert (batch.values[0, column] == UNSAID) == (name not in facts)
    assert unsaid > 500


def test_every_word_of_the_worlds_captions_is_known_and_fits():
    tokenizer = Tokenizer(BYTES)
    for number in range(12):
        caption = preview(Settings(height=64, width=64, seconds=1), HELD_OUT + number).caption
        for word in wording._WORD.findall(caption.lower().encode()):
            assert word.decode() in words(), caption
        _, lengths = tokenizer.encode([caption], 1000)
        assert lengths[0] <= task().length


def test_bytes_are_labelled_with_their_word():
    batch = wording.texts(Tokenizer(BYTES), [("A young woman.", {})], 20)
    none, number = len(words()), words()
    want = [number["a"], none, *[number["young"]] * 5, none, *[number["woman"]] * 5, none]
    np.testing.assert_array_equal(batch.words[0], want + [none] * 6)
    assert batch.lengths[0] == 15
    assert (batch.values == UNSAID).all()


def test_heads_begin_at_nearby_bytes():
    params = wording.near_first(flat(reader()), TINY)
    bias = np.asarray(params["encoder/layers/position_bias"])
    buckets = umt5._buckets(20, TINY)
    for layer, offsets in zip(bias, wording.NEAR, strict=False):
        for head, offset in enumerate(offsets):
            assert layer[buckets[10], head].argmax() == 10 + offset


def test_padding_and_what_is_unsaid_do_not_matter():
    trainee, key = prepared(task()), jax.random.key(0)
    params = flat(reader())
    batch = wording.texts(Tokenizer(BYTES), [told(n, 0.5) for n in range(4)], 240)
    behind = np.arange(240)[None] >= batch.lengths[:, None]
    other = wording.Texts(
        np.where(behind, 77, batch.tokens),
        batch.lengths,
        batch.values,
        np.where(behind, 3, batch.words),
    )
    loss = jax.jit(trainee.losses["all"])
    np.testing.assert_allclose(loss(params, batch, key)[0], loss(params, other, key)[0], rtol=1e-5)

    values = batch.values.copy()
    values[:, COLUMN["hat"]] = UNSAID
    silent = wording.Texts(batch.tokens, batch.lengths, values, batch.words)
    slope, tallies = jax.jit(jax.grad(trainee.losses["all"], has_aux=True))(params, silent, key)
    slopes = np.abs(slope["name"]).max(axis=(1, 2))
    assert slopes[COLUMN["hat"]] == 0
    assert slopes[COLUMN["noun"]] > 0
    assert tallies["right/hat"][1] == 0


def test_what_is_exported_is_the_encoder_and_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(wording, "accuracy", lambda *_: {"all": 0.5})
    trainee, net = prepared(task()), reader()
    assert {p: leaf.shape for p, leaf in flat(net).items()} == {
        p: leaf.shape for p, leaf in trainee.shapes.items()
    }
    trainee.export(str(tmp_path / "model"), flat(net), {"trained": {"steps": 7}})
    model = open_directory(str(tmp_path / "model"))
    leaves_equal(flat(model.load("text_encoder", FLOAT32)), flat(net.encoder))
    assert model.manifest.provenance == {"trained": {"steps": 7}, "scores": {"all": 0.5}}
    features = umt5.text_features(
        model.load("text_encoder", FLOAT32), model.tokenizer(), ["a man on a beach"], 32
    )
    assert features.shape == (1, 32, TINY.width)


def test_people_held_out_are_never_trained_on(monkeypatch):
    seen, draw = [], wording.draw
    monkeypatch.setattr(wording, "draw", lambda r, w, n: seen.append((w, n)) or draw(r, w, n))
    for number in range(300):
        told(number, 0.5)
    assert all(number < HELD_OUT for _, number in seen)
    scores = wording.accuracy(reader(), task(world=7), 50)
    assert {number for world, number in seen if world == 7} == set(range(HELD_OUT, HELD_OUT + 50))
    assert scores.keys() == {*ATTRIBUTES, "all"}
    assert scores["language"] < 0.5  # it has not learnt anything


@pytest.mark.slow
def test_it_learns():
    trainee = prepared(task())
    (batch,), _ = batches_of(trainee, 1)
    params = trainee.init()
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state, batch):
        slope, tallies = jax.grad(trainee.losses["all"], has_aux=True)(
            params, batch, jax.random.key(0)
        )
        change, state = optimizer.update(slope, state)
        return optax.apply_updates(params, change), state, tallies["meaning"]

    state, meanings = optimizer.init(params), []
    for _ in range(40):
        params, state, meaning = step(params, state, batch)
        meanings.append(float(meaning[0] / meaning[1]))
    assert np.isfinite(meanings).all()
    assert meanings[-1] < 0.25 * meanings[0]
    assert jnp.isfinite(params["query"]).all()
