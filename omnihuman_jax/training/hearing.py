"""The only place that says how the built-in model's audio encoder is trained: to tell from the sound
what a puppet's mouth does to it.

Voices are synthesised, a wide choice of them, and treated as recordings are: in rooms, through
microphones, over noise and music. The encoder's hidden states are put on the video's clock and read as
the transformer reads them (layers mixed, neighbouring frames side by side, normalised), but by one
linear layer, which is thrown away: what it can tell, the features say plainly.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int16, PRNGKeyArray, UInt8

from omnihuman_jax import media
from omnihuman_jax.errors import InputError
from omnihuman_jax.models import directory, wav2vec2
from omnihuman_jax.models.building import FLOAT32, Precision, linear, param
from omnihuman_jax.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2Encoder
from omnihuman_jax.puppets import lips, sounds, voice
from omnihuman_jax.puppets.identity import make_identity
from omnihuman_jax.puppets.languages import Babble
from omnihuman_jax.puppets.voice import RATE, Speaker
from omnihuman_jax.training import networks
from omnihuman_jax.training.stages import Stage
from omnihuman_jax.training.streams import Numbered
from omnihuman_jax.training.task import Cost, Params, Sample, Tallies, Trainee, tally

HELD_OUT = 50_000  # clips from this number on are never trained on
MOUTH = 2  # opening, rounding
EDGES = np.geomspace(80.0, 7600.0, 19)  # Hz; borders of the bands whose loudness is told as well
BANDS = len(EDGES) - 1
DEEP = 5.0  # bands are told down to e^-5 of the loudest: 43 dB
SPAN = 512  # samples that a band's loudness is taken over
STORED = 6.0  # seconds of every voice that are kept to cut pieces from


class Listener(nnx.Module):
    """The encoder, and the linear layer that reads mouth and bands from its features."""

    def __init__(
        self, config: Wav2Vec2Config, window: int, precision: Precision, *, rngs: nnx.Rngs
    ):
        self.window = window
        self.encoder = Wav2Vec2Encoder(config, precision, rngs=rngs)
        self.mix = param((config.layers + 1,), "_", precision, rngs)
        wide = dataclasses.replace(precision, compute=jnp.float32)
        self.head = linear(config.width * window, MOUTH + BANDS, "_ _", wide, rngs)

    def __call__(
        self, sound: Float[Array, "B samples"], frames: int, fps: float
    ) -> Float[Array, "B F told"]:
        """Opening, rounding, then bands, in the middle of each frame. Sound at any loudness."""
        states = self.encoder(wav2vec2.normalise(sound))
        return self.read(wav2vec2.resample(states, frames, fps))

    def read(self, features: Float[Array, "B F layers A"]) -> Float[Array, "B F told"]:
        """The same from features at the frame rate, taken in as by the DiT's audio projector."""
        mix = jax.nn.softmax(self.mix[...].astype(jnp.float32))
        mixed = jnp.einsum("BFlA,l->BFA", features.astype(jnp.float32), mix)
        reach, frames = self.window // 2, features.shape[1]
        padded = jnp.pad(mixed, [(0, 0), (reach, reach), (0, 0)], mode="edge")
        near = jnp.concatenate([padded[:, i : i + frames] for i in range(self.window)], axis=-1)
        near = near - jnp.mean(near, axis=-1, keepdims=True)
        near = near * jax.lax.rsqrt(jnp.mean(near**2, axis=-1, keepdims=True) + 1e-5)
        return self.head(near)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Heard:
    """A batch: 16 kHz sound; opening and rounding of the mouth in the middle of each frame; bands."""

    sound: Float32[Array | np.ndarray, "B samples"]
    mouth: Float32[Array | np.ndarray, "B F 2"]
    bands: Float32[Array | np.ndarray, "B F bands"]


@dataclass(frozen=True, kw_only=True)
class Sounds:
    """What is heard in training. Shares are chances, a row of a batch each.

    Attributes:
        voices: how many are synthesised; half are those of puppets, half any that can be.
        world: seed of the puppets.
        closed: clips without a voice (noise, music, silence), to which the mouth stays closed.
        paused, coloured, roomy, noisy: clips with a long pause, through some microphone, in some room,
            over noise or music.
    """

    voices: int = 640
    world: int = 0
    closed: float = 0.06
    paused: float = 0.3
    coloured: float = 0.7
    roomy: float = 0.35
    noisy: float = 0.5

    def __post_init__(self) -> None:
        if not 2 <= self.voices <= HELD_OUT:
            raise InputError(f"From 2 to {HELD_OUT} voices can be trained on, got {self.voices}.")
        for name in ("closed", "paused", "coloured", "roomy", "noisy"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a share from 0 to 1, got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """Training of the audio encoder.

    Attributes:
        config: sizes of the encoder.
        seconds: length of a clip.
        fps: of the video whose frames are told.
        window: frames side by side that the head sees; as the transformer's projector.
        bands: weight of telling the bands' loudness, beside 1 for the mouth.
    """

    config: Wav2Vec2Config
    seconds: float = 3.0
    fps: int = 25
    window: int = 5
    bands: float = 0.3
    sounds: Sounds = Sounds()

    def __post_init__(self) -> None:
        if not 0.5 <= self.seconds <= STORED / 1.5:
            raise InputError(
                f"A clip to hear has from 0.5 to {STORED / 1.5:g} seconds, got {self.seconds:g}."
            )

    @property
    def frames(self) -> int:
        """Video frames of a clip."""
        return round(self.seconds * self.fps)

    def prepare(self, stages: Sequence[Stage], mesh: Mesh, seed: int) -> Trainee:
        """Ready to train; every stage trains the same."""
        make = functools.partial(_listener, self.config, self.window)
        loss = functools.partial(self.loss, make)
        return Trainee(
            shapes=networks.shapes(make, mesh),
            init=functools.partial(networks.initial, make, mesh, seed),
            losses={stage.name: loss for stage in stages},
            stream=functools.partial(self._stream, seed),
            cost=self._cost,
            export=functools.partial(self._export, make),
            sample=functools.partial(self._sample, make),
        )

    def loss(
        self, make: Any, params: Params, batch: Heard, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Tallies]:
        """Squared error of the mouth, and by `self.bands` of the bands."""
        told = networks.rebuilt(make, params)(batch.sound, self.frames, self.fps)
        mouth = jnp.mean((told[..., :MOUTH] - batch.mouth) ** 2, axis=1)
        bands = jnp.mean((told[..., MOUTH:] - batch.bands) ** 2, axis=(1, 2))
        speaks = jnp.std(batch.mouth[..., 0], axis=1) > 0.05
        fit = correlation(told[..., 0], batch.mouth[..., 0])
        return jnp.mean(jnp.sum(mouth, axis=1) + self.bands * bands), {
            "error/opening": tally(mouth[:, 0]),
            "error/rounding": tally(mouth[:, 1]),
            "error/bands": tally(bands),
            "corr/opening": tally(fit, speaks),
        }

    def _stream(self, seed: int, stage: Stage) -> Numbered:
        hosts = jax.process_count()
        if stage.batch % hosts:
            raise InputError(f"{hosts} hosts cannot share a batch of {stage.batch} evenly.")
        share = stage.batch // hosts
        rows = range(jax.process_index() * share, (jax.process_index() + 1) * share)
        stored = functools.cache(functools.partial(stored_voice, self.sounds))

        def make(n: int) -> Heard:
            clips = [self._clip(stored, [seed, *stage.name.encode(), n, row]) for row in rows]
            sound, mouth, bands = (np.stack(part) for part in zip(*clips, strict=True))
            return Heard(sound, mouth, bands)

        of = {"seed": seed, "stage": stage.name, "batch": stage.batch}
        sounds_ = dataclasses.asdict(self.sounds)
        return Numbered(make, {**of, "seconds": self.seconds, "fps": self.fps, **sounds_})

    def _clip(
        self, stored: Callable[[int], Int16[np.ndarray, "stored"]], seed: list[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is heard, the mouth to it, and its bands: a function of the seed."""
        rng, kind = np.random.default_rng(seed), self.sounds
        if rng.random() < kind.closed:
            clean = heard = _voiceless(rng, self.seconds)
            mouth = np.zeros((self.frames, MOUTH), np.float32)
        else:
            spoken = stored(int(rng.integers(kind.voices))).astype(np.float32) / 32768
            clean = recording(rng, spoken, round(self.seconds * RATE), kind)
            # What is under the voice is heard, and the mouth has nothing to do with it.
            mouth = np.stack(lips.follow(clean, RATE, self.fps, self.frames), axis=-1)
            heard = over_noise(rng, clean) if rng.random() < kind.noisy else clean
        return heard, mouth, loudness(clean, self.frames, self.fps)

    def _cost(self, batch: Heard) -> Cost:
        c, (clips, samples) = self.config, batch.sound.shape
        steps = samples // wav2vec2.STRIDE
        products, length, inputs = 0.0, float(samples), 1
        for kernel, stride in zip(wav2vec2.KERNELS, wav2vec2.STRIDES, strict=True):
            length /= stride
            products, inputs = products + length * kernel * inputs * c.channels, c.channels
        position = c.position_kernel * c.width**2 / c.position_groups
        products += steps * (c.channels * c.width + position)
        products += steps * c.layers * (4 * c.width**2 + 2 * c.width * (c.mlp + steps))
        # A multiplication and an addition, forward and twice as much backward.
        return Cost(clips, clips * steps, 6.0 * clips * products)

    def _export(self, make: Any, path: str, params: Params, provenance: Mapping[str, Any]) -> None:
        """A model directory with the encoder alone, and what was measured on it."""
        listener = networks.rebuilt(make, params)
        directory.save(
            path,
            {"audio_encoder": listener.encoder},
            weights="safetensors",
            provenance={**provenance, "scores": self._scores(listener)},
            overwrite=True,
        )

    def _sample(self, make: Any, params: Params, step: int) -> Sample:
        """Two mouths: the true one, and beside it the one that is told."""
        listener, frames = networks.rebuilt(make, params), 4 * self.fps
        sound = _spoken(self.sounds.world, HELD_OUT, 4.0)
        true = np.stack(lips.follow(sound, RATE, self.fps, frames), axis=-1)
        told = hear(listener, sound, self.fps, frames)
        return Sample(_drawn(true, told), self.fps, sound, self._scores(listener))

    def _scores(self, listener: Listener) -> dict[str, float]:
        """Correlation of the opening with what lips.follow says, on sounds never trained on."""
        scores = {"voices": held_out(listener, self), "speech": recorded(listener, self)}
        return {f"corr/{name}": round(score, 4) for name, score in scores.items()}


def correlation(
    a: Float[Array | np.ndarray, "B F"], b: Float[Array | np.ndarray, "B F"]
) -> Float[Array, "B"]:
    """Pearson's, of each row; 0 where one of them does not change."""
    x, y = (z - jnp.mean(z, axis=1, keepdims=True) for z in (a, b))
    size = jnp.sqrt(jnp.sum(x**2, axis=1) * jnp.sum(y**2, axis=1))
    return jnp.sum(x * y, axis=1) / jnp.maximum(size, 1e-9)


def stored_voice(kind: Sounds, number: int) -> Int16[np.ndarray, "stored"]:
    """What voice `number` of the training set says, as a 16-bit file holds it."""
    if number % 2:
        sound = _spoken(kind.world, number // 2, STORED)
    else:
        sound = _anyone(np.random.default_rng([kind.world, number, HELD_OUT]), STORED)
    return np.round(sound * 32768).clip(-32768, 32767).astype(np.int16)


def _spoken(world: int, number: int, seconds: float) -> Float32[np.ndarray, "samples"]:
    """What a puppet says."""
    who = make_identity(world, number)
    made = sounds.make_speech(world, number, who, "formant", seconds, 25, round(25 * seconds))
    return made.utterance.sound


def _anyone(rng: np.random.Generator, seconds: float) -> Float32[np.ndarray, "samples"]:
    """A voice and a language as wide apart as people's are, wider than puppets'."""
    pick = lambda names, low, high: tuple(
        rng.choice(sorted(names), int(rng.integers(low, high)), replace=False).tolist()
    )
    language = Babble(
        code="x-any",
        name="Any",
        onsets=pick(voice.CONSONANTS, 4, 12),
        vowels=pick(voice.VOWELS, 4, 7),
        codas=pick(voice.CONSONANTS, 2, 7),
        closed=float(rng.uniform(0, 0.6)),
        rate=float(rng.uniform(3.0, 7.0)),
        melody=float(rng.uniform(0.15, 0.6)),
    )
    speaker = Speaker(
        pitch=80 * 4 ** float(rng.random()),
        tract=float(rng.uniform(0.84, 1.2)),
        breath=float(rng.uniform(0.01, 0.12)),
        rough=float(rng.uniform(0.004, 0.03)),
        pace=float(rng.uniform(0.85, 1.3)),
    )
    return voice.babble(rng, speaker, language, seconds, sings=bool(rng.random() < 0.1)).sound


def recording(
    rng: np.random.Generator, sound: Float32[np.ndarray, "stored"], count: int, kind: Sounds
) -> Float32[np.ndarray, "samples"]:
    """`count` samples of a voice as some recording has it: faster or slower, louder and softer, with a
    pause, through a microphone, in a room."""
    speed = float(np.exp(rng.uniform(-0.2, 0.2)))  # pitch, formants and pace together
    start = rng.uniform(0, max(len(sound) - 1 - speed * count, 0))
    at = start + speed * np.arange(count)
    out = np.interp(at, np.arange(len(sound)), sound, right=0.0)
    swell = np.interp(np.linspace(0, 1, count), np.linspace(0, 1, 7), rng.uniform(-0.5, 0.5, 7))
    out = out * np.exp(swell)
    if rng.random() < kind.paused:
        middle, half = rng.uniform(0, count), rng.uniform(0.15, 0.7) * RATE
        out = out * ((np.abs(np.arange(count) - middle) - half) / (0.02 * RATE)).clip(0, 1)
    if rng.random() < kind.coloured:
        out = _coloured(rng, out)
    if rng.random() < kind.roomy:
        out = _in_room(rng, out)
    return voice.finished(out, rng)


def _coloured(rng: np.random.Generator, sound: np.ndarray) -> np.ndarray:
    """Through a microphone: up to 7 dB more or less here and there, and often a narrower band."""
    spectrum = np.fft.rfft(sound)
    at = np.log(np.maximum(np.fft.rfftfreq(len(sound), 1 / RATE), 30.0))
    gain = np.interp(at, np.log(np.geomspace(60, 8000, 8)), rng.uniform(-0.8, 0.8, 8))
    if rng.random() < 0.3:
        gain -= 2 * (np.log(rng.uniform(80, 320)) - at).clip(0)
    if rng.random() < 0.3:
        gain -= 6 * (at - np.log(rng.uniform(3000, 7000))).clip(0)
    return np.fft.irfft(spectrum * np.exp(gain), len(sound))


def _in_room(rng: np.random.Generator, sound: np.ndarray) -> np.ndarray:
    """With the decaying echo of a room of 0.1 to 0.5 s."""
    size = RATE // 2
    time = np.arange(size) / RATE
    echo = rng.standard_normal(size) * np.exp(-6.9 * time / rng.uniform(0.1, 0.5))
    echo *= rng.uniform(0.1, 0.6) / np.linalg.norm(echo)
    echo[0] = 1.0
    whole = len(sound) + size
    both = np.fft.rfft(sound, whole) * np.fft.rfft(echo, whole)
    return np.fft.irfft(both, whole)[: len(sound)]


def over_noise(
    rng: np.random.Generator, sound: Float32[np.ndarray, "samples"]
) -> Float32[np.ndarray, "samples"]:
    """Noise, hum or music under a voice, 8 to 40 dB softer."""
    under = _voiceless(rng, len(sound) / RATE)[: len(sound)]
    level = np.sqrt(np.mean(sound**2) / (np.mean(under**2) + 1e-12))
    return (sound + under * level * 10 ** rng.uniform(-2.0, -0.4)).astype(np.float32)


def _voiceless(rng: np.random.Generator, seconds: float) -> Float32[np.ndarray, "samples"]:
    """Nobody speaks: wind and traffic, hiss, music, next to nothing."""
    kind = rng.random()
    if kind < 0.4:
        return sounds.noise(rng, seconds)
    if kind < 0.7:
        return sounds.music(rng, seconds)
    hiss = rng.standard_normal(round(seconds * RATE))
    return (10 ** rng.uniform(-4, -1.2) * hiss).astype(np.float32)


def loudness(
    sound: Float32[np.ndarray, "samples"], frames: int, fps: float
) -> Float32[np.ndarray, "F bands"]:
    """Of each band in the middle of each frame: 1 as loud as the loudest, 0 for 43 dB below or less."""
    middle = np.round((np.arange(frames) + 0.5) / fps * RATE).astype(int)
    padded = np.pad(sound, SPAN // 2)
    pieces = padded[middle[:, None] + np.arange(SPAN)[None]] * np.hanning(SPAN)[None]
    power = np.abs(np.fft.rfft(pieces)) ** 2
    bins = np.fft.rfftfreq(SPAN, 1 / RATE)
    inside = (bins[:, None] >= EDGES[None, :-1]) & (bins[:, None] < EDGES[None, 1:])
    bands = 0.5 * np.log(power @ inside + 1e-9)
    return (1 + (bands - bands.max()) / DEEP).clip(0, 1).astype(np.float32)


def hear(
    listener: Listener, sound: Float32[np.ndarray, "samples"], fps: float, frames: int
) -> Float32[np.ndarray, "F 2"]:
    """The mouth that the features tell, heard as generation hears: sound of any length."""
    features = wav2vec2.encode_long(listener.encoder, sound[None])
    told = listener.read(wav2vec2.resample(features, frames, fps))
    return np.asarray(told[0, :, :MOUTH])


def held_out(listener: Listener, task: Hearing, clips: int = 16) -> float:
    """Mean correlation of told and true opening, on puppets' voices that are never trained on."""
    spoken = [_spoken(task.sounds.world, HELD_OUT + n, 4.0) for n in range(clips)]
    return float(np.mean([_fit(listener, sound, task.fps) for sound in spoken]))


def recorded(listener: Listener, task: Hearing) -> float:
    """The same on the recorded speech of the examples, which nothing is trained on."""
    return _fit(listener, media.read_audio(media.example("speech.flac"), RATE), task.fps)


def _fit(listener: Listener, sound: Float32[np.ndarray, "samples"], fps: float) -> float:
    frames = int(len(sound) / RATE * fps)
    told = hear(listener, sound, fps, frames)[None, :, 0]
    true = lips.follow(sound, RATE, fps, frames)[0][None]
    return float(correlation(told, true)[0])


def _drawn(
    true: Float32[np.ndarray, "F 2"], told: Float32[np.ndarray, "F 2"], size: int = 64
) -> UInt8[np.ndarray, "F Y X 3"]:
    """Two mouths, the true one and the one told: ellipses as open and as narrow as they say."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    both = np.stack([true, told], axis=1).clip(0, 1)[..., None, None]
    high, wide = 0.04 + 0.7 * both[:, :, 0], 0.8 - 0.4 * both[:, :, 1]
    inside = (x / wide) ** 2 + (y / high) ** 2 < 1
    frames = np.where(inside[..., None], (128, 12, 34), (248, 205, 184)).astype(np.uint8)
    return np.concatenate([frames[:, 0], frames[:, 1]], axis=2)


def _listener(config: Wav2Vec2Config, window: int, rngs: nnx.Rngs) -> Listener:
    return Listener(config, window, FLOAT32, rngs=rngs)
