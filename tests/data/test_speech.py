import numpy as np
import pytest

from omnihuman_jax.data import speech
from omnihuman_jax.media.examples import example
from omnihuman_jax.media.sound import read_audio

RATE, FPS = 16_000, 25


@pytest.fixture(scope="module")
def voice():
    return read_audio(example("speech.flac"))  # 3.29 s


def test_speech_is_told_from_what_is_not(voice):
    random = np.random.default_rng(0)
    noise = (0.1 * random.standard_normal(3 * RATE)).astype(np.float32)
    tone = (0.3 * np.sin(np.arange(3 * RATE) * 0.1)).astype(np.float32)
    assert speech.speech_ratio(voice) > 0.7
    for other in (noise, tone, np.zeros(3 * RATE, np.float32), np.zeros(0, np.float32)):
        assert speech.speech_ratio(other) == 0


def test_probabilities_stand_where_the_speech_is(voice):
    """A second of silence, the voice, a second of silence; each window is 512 samples."""
    silence = np.zeros(RATE, np.float32)
    sound = np.concatenate([silence, voice, silence])
    found = speech.speech_probability(sound)
    assert len(found) == -(-len(sound) // 512)
    assert found[:30].max() < 0.5
    assert found[-25:].max() < 0.5
    assert (found[40:120] > 0.5).mean() > 0.8


def test_sounds_do_not_know_of_each_other(voice):
    first = speech.speech_probability(voice)
    speech.speech_probability(voice[::-1].copy())
    np.testing.assert_array_equal(speech.speech_probability(voice), first)


def test_the_envelope_is_loud_when_the_sound_is(voice):
    """A tone of 1 kHz during frames 10 to 14 of 25; a hiss of 6 kHz does not open a mouth."""
    time = np.arange(RATE) / RATE
    during = (time >= 10 / FPS) & (time < 15 / FPS)
    tone = (during * np.sin(2 * np.pi * 1000 * time) * 0.2).astype(np.float32)
    hiss = (~during * np.sin(2 * np.pi * 6000 * time) * 0.2).astype(np.float32)
    found = speech.envelope(tone + hiss, FPS, 25)
    assert found[10:15] == pytest.approx(1, abs=0.1)
    assert found[:9].max() == found[16:].max() == 0
    quiet, loud = (speech.envelope(gain * voice, FPS, 80) for gain in (0.1, 1.0))
    assert quiet == pytest.approx(loud, abs=0.02)
    assert not speech.envelope(np.zeros(RATE, np.float32), FPS, 25).any()


def lips(voice, frames=82):
    """An opening that follows the voice: what is loud is open."""
    return 0.2 * speech.envelope(voice, FPS, frames)


@pytest.mark.parametrize("late", [-5, 0, 3])
def test_the_lag_says_how_late_the_sound_is(voice, late):
    shifted = np.roll(voice, late * RATE // FPS)
    found = speech.lip_correlation(lips(voice), shifted, FPS)
    assert found.lag == late
    assert found.value > 0.9


def test_more_than_the_most_lag_is_not_looked_for(voice):
    found = speech.lip_correlation(lips(voice), np.roll(voice, RATE // FPS * 5), FPS, most_lag=2)
    assert abs(found.lag) <= 2
    assert found.value < 0.7


def test_lips_that_say_something_else_correlate_less(voice):
    """Other lips are those of another moment of the sentence. Its silent ends are cut off: they alone
    make any two sentences of the same length alike."""
    voice = voice[4480:46080]
    opening = lips(voice, 65)
    assert speech.lip_correlation(opening, voice, FPS) == pytest.approx((1, 0))
    for moved in (10, 20, 30, 40, 50):
        dubbed = speech.lip_correlation(np.roll(opening, moved), voice, FPS)
        assert dubbed.value < 0.3


def test_unseen_lips_are_left_out(voice):
    opening = lips(voice)
    opening[20:50] = np.nan
    assert speech.lip_correlation(opening, voice, FPS) == pytest.approx((1, 0), abs=1e-6)


def test_nothing_is_said_where_nothing_can_be(voice):
    opening = lips(voice)
    mostly_hidden = np.where(np.arange(82) < 60, np.nan, opening).astype(np.float32)
    listening = (0.02 + 0.02 * opening).astype(np.float32)
    noise = np.random.default_rng(0).standard_normal(len(voice)).astype(np.float32) * 0.05
    for lips_, sound in [
        (mostly_hidden, voice),
        (listening, voice),
        (opening, np.zeros_like(voice)),
        (opening, noise),
        (opening, np.where(np.arange(len(voice)) < 16000, voice, 0).astype(np.float32)),
        (opening[:0], voice[:0]),
    ]:
        assert speech.lip_correlation(lips_, sound, FPS) is None
