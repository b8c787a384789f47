"""Hearing: what the encoder learns is the mouth to a sound, in training as in use."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from omnihuman_jax import media
from omnihuman_jax.errors import InputError
from omnihuman_jax.mesh import make_mesh
from omnihuman_jax.models import conditioner, wav2vec2
from omnihuman_jax.models.building import FLOAT32, arbitrary, flat, with_params
from omnihuman_jax.models.conditioner import AudioConfig, AudioProjector
from omnihuman_jax.models.directory import open_directory
from omnihuman_jax.models.wav2vec2 import Wav2Vec2Config
from omnihuman_jax.puppets import lips
from omnihuman_jax.training import hearing
from omnihuman_jax.training.hearing import HELD_OUT, RATE, Hearing, Listener, Sounds
from omnihuman_jax.training.stages import Stage

TINY = Wav2Vec2Config.tiny()
STAGE = Stage(name="all", steps=10, batch=4)


def task(**changes):
    return Hearing(seconds=0.6, config=TINY, sounds=Sounds(voices=4, **changes))


def prepared(it, seed=0):
    return it.prepare((STAGE,), make_mesh(devices=jax.devices()[:1]), seed)


def batches_of(trainee, count, place=None):
    """The next batches, and the place behind them."""
    with contextlib.closing(trainee.stream(STAGE)) as stream:
        if place is not None:
            stream.set_state(place)
        return [next(stream) for _ in range(count)], stream.get_state()


def listener():
    return arbitrary(lambda rngs: Listener(TINY, 5, FLOAT32, rngs=rngs))


def leaves_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_batch_depends_on_its_number_alone():
    batches, place = batches_of(prepared(task()), 3)
    again, same_place = batches_of(prepared(task()), 2, {**place, "batches": 1})
    leaves_equal(again, batches[1:])
    assert same_place == place
    assert not np.array_equal(batches[0].sound, batches[1].sound)
    with pytest.raises(InputError, match="seed"):
        batches_of(prepared(task(), seed=1), 1, place)


def test_two_hosts_make_the_rows_of_one(monkeypatch):
    (whole,), _ = batches_of(prepared(task()), 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    parts = []
    for host in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        parts += batches_of(prepared(task()), 1)[0]
    leaves_equal(jax.tree.map(lambda *x: np.concatenate(x), *parts), whole)


def test_nothing_held_out_and_no_recorded_speech_is_trained_on(monkeypatch):
    seen = []
    make = hearing.make_identity
    monkeypatch.setattr(hearing, "make_identity", lambda w, n: seen.append(n) or make(w, n))
    monkeypatch.setattr(media, "read_audio", lambda *_: pytest.fail("training reads a recording"))
    for number in range(20):
        hearing.stored_voice(Sounds(), number)
    assert set(range(10)) <= set(seen)
    assert max(seen) <= Sounds().voices // 2 < HELD_OUT
    with pytest.raises(InputError, match="voices"):
        Sounds(voices=HELD_OUT + 1)


def test_the_mouth_follows_the_voice_and_not_what_is_under_it():
    def clip(**chances):
        kind = dict(closed=0.0, noisy=0.0) | chances
        it = task(**kind)
        return it._clip(lambda n: hearing.stored_voice(it.sounds, n), [3])

    heard, mouth, bands = clip()
    np.testing.assert_array_equal(
        mouth, np.stack(lips.follow(heard, RATE, 25, len(mouth)), axis=-1)
    )
    over, same_mouth, same_bands = clip(noisy=1.0)
    assert np.abs(over - heard).max() > 0.001
    np.testing.assert_array_equal(same_mouth, mouth)
    np.testing.assert_array_equal(same_bands, bands)
    assert mouth[:, 0].max() > 0.3
    assert clip(closed=1.0)[1].max() == 0


def test_bands_tell_a_tone_at_any_loudness():
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    told = hearing.loudness(tone, 25, 25.0)
    band = np.searchsorted(hearing.EDGES, 1000.0) - 1
    np.testing.assert_allclose(told[:, band], 1.0, atol=0.05)
    assert told[3:-3, np.abs(np.arange(told.shape[1]) - band) > 2].max() < 0.3
    np.testing.assert_allclose(hearing.loudness(tone / 1000, 25, 25.0), told, atol=5e-3)


def test_training_and_use_hear_the_same():
    it, net = task(), listener()
    (batch,), _ = batches_of(prepared(it), 1)
    trained = nnx.jit(lambda net, x: net(x, it.frames, it.fps))(net, jnp.asarray(batch.sound[:1]))
    used = hearing.hear(net, batch.sound[0], it.fps, it.frames)
    np.testing.assert_allclose(trained[0, :, :2], used, atol=2e-4)


def test_the_head_is_given_what_the_transformers_projector_is_given():
    net = listener()
    features = jax.random.normal(jax.random.key(0), (2, 7, TINY.layers + 1, TINY.width))
    config = AudioConfig(width=TINY.width, layers=TINY.layers + 1, window=5, hidden=8)
    projector = AudioProjector(config, 8, FLOAT32, rngs=nnx.Rngs(0))
    mixed = jnp.einsum("BFlA,l->BFA", features, jax.nn.softmax(net.mix[...]))
    net.head = lambda x: x
    np.testing.assert_allclose(
        net.read(features), projector.norm(conditioner._neighbours(mixed, 5)), atol=1e-5
    )


def test_what_is_exported_is_the_encoder_and_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(hearing, "held_out", lambda *_: 0.5)
    monkeypatch.setattr(hearing, "recorded", lambda *_: 0.25)
    trainee, net = prepared(task()), listener()
    assert {path: leaf.shape for path, leaf in flat(net).items()} == {
        path: leaf.shape for path, leaf in trainee.shapes.items()
    }
    trainee.export(str(tmp_path / "model"), flat(net), {"trained": {"steps": 7}})
    model = open_directory(str(tmp_path / "model"))
    leaves_equal(flat(model.load("audio_encoder", FLOAT32)), flat(net.encoder))
    assert model.manifest.provenance == {
        "trained": {"steps": 7},
        "scores": {"corr/voices": 0.5, "corr/speech": 0.25},
    }


@pytest.mark.slow
def test_it_learns_and_the_sample_shows_it(monkeypatch):
    it = task(closed=0.0)
    trainee = prepared(it)
    (batch,), _ = batches_of(trainee, 1)
    params, loss = trainee.init(), trainee.losses["all"]
    optimizer = optax.adam(5e-3)

    @jax.jit
    def step(params, state, batch):
        (value, tallies), slope = jax.value_and_grad(loss, has_aux=True)(
            params, batch, jax.random.key(0)
        )
        change, state = optimizer.update(slope, state)
        return optax.apply_updates(params, change), state, value, tallies

    state, values = optimizer.init(params), []
    for _ in range(40):
        params, state, value, tallies = step(params, state, batch)
        values.append(float(value))
    fit, rows = np.asarray(tallies["corr/opening"])
    assert values[-1] < values[0] / 4
    assert fit / rows > 0.6
    net = with_params(listener(), params)
    assert net.encoder.config == TINY
    monkeypatch.setattr(hearing, "recorded", lambda *_: 0.0)
    monkeypatch.setattr(hearing, "held_out", lambda *_: 0.0)
    sample = trainee.sample(params, 40)
    assert sample.frames.shape == (100, 64, 128, 3)
    assert len(sample.sound) == 4 * wav2vec2.SAMPLE_RATE
    assert set(sample.scores) == {"corr/voices", "corr/speech"}
