"""The only place that makes videos with a transformer while it is trained, and scores their lips."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from omnihuman_jax import media, mesh
from omnihuman_jax.diffusion import samplers
from omnihuman_jax.diffusion.guidance import Constant, Guidance
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.inference.generator import Generator, Request
from omnihuman_jax.inference.request import scales
from omnihuman_jax.models.directory import ModelDirectory
from omnihuman_jax.models.dit import DiTConfig
from omnihuman_jax.models.wav2vec2 import SAMPLE_RATE
from omnihuman_jax.puppets import scoring
from omnihuman_jax.puppets.world import Settings, preview
from omnihuman_jax.training.task import Params, Sample

SECONDS = 4.0  # of a puppet's clip, whose middle is taken


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a sample video shows: a puppet whose true lips are known, or a picture and a voice.

    Attributes:
        puppet: its number; training ends below 20,000. Its reference is a frame of another moment.
        image, audio, text: two files and a caption, instead of a puppet; their lips are not scored.
        frames, height, width: of the video; frames are 4n+1.
    """

    puppet: int | None = None
    image: str | None = None
    audio: str | None = None
    text: str | None = None
    frames: int = 49
    height: int = 64
    width: int = 64

    def __post_init__(self) -> None:
        Grid(self.frames, self.height, self.width)
        given = [name for name in ("image", "audio", "text") if getattr(self, name) is not None]
        if (self.puppet is None) != bool(given):
            raise InputError(
                "A scene has a puppet, or an image, audio or text; got "
                f"puppet={self.puppet} and {', '.join(given) or 'none of these'}."
            )


def show(
    scene: Scene,
    model: ModelDirectory,
    config: DiTConfig,
    rebuild: Callable[[Params], Any],
    params: Params,
) -> Sample:
    """The video that a transformer with these parameters makes of the scene, by the model's defaults.

    The transformer runs where its parameters lie; encoders and VAE on the first device.
    """
    generator = generator_of(model, config, rebuild, params)
    request, truth = _request(scene, model.manifest.sampling)
    frames = film(generator, request)
    scores = {} if truth is None else {"lip_corr": scoring.lip_score(frames, truth)}
    return Sample(frames, request.fps, sound=request.audio, scores=scores)


def generator_of(
    model: ModelDirectory, config: DiTConfig, rebuild: Callable[[Params], Any], params: Params
) -> Generator:
    """The model with a transformer of these parameters in place of its own."""
    manifest = model.manifest
    configs = {**manifest.configs, "dit": config}
    whole = dataclasses.replace(model, manifest=dataclasses.replace(manifest, configs=configs))
    return Generator(whole, kept={"dit": rebuild(params)})


def film(generator: Generator, request: Request) -> UInt8[np.ndarray, "F Y X 3"]:
    """The video of a request of one clip, while a mesh of training is set."""
    sampler = samplers.make(request.sampler)
    calls = sampler.calls(sampler.schedule(request.steps, request.shift))
    with mesh.here():
        conditions, negative = jax.tree.map(np.asarray, generator.encode([request], _silent))
    latents = generator.denoise([request], conditions, negative, calls, _silent)
    gathered = np.asarray(latents)
    with mesh.here():
        pixels = generator.decode(jnp.asarray(gathered), request.grid.frames, _silent)
        return np.concatenate(list(pixels), axis=1)[0]


def _request(scene: Scene, defaults: Any) -> tuple[Request, np.ndarray | None]:
    """The request, and the true opening of the mouth in each frame if it is known."""
    of_text, of_audio = map(Constant, scales(defaults))
    fps = float(defaults.get("fps", 25))
    how: dict[str, Any] = dict(
        grid=Grid(scene.frames, scene.height, scene.width),
        fps=fps,
        guidance=Guidance(text=of_text, audio=of_audio),
        negative_text=defaults.get("negative_text"),
        steps=int(defaults.get("steps", 50)),
        shift=float(defaults.get("shift", 5.0)),
    )
    if scene.puppet is None:
        reference = None if scene.image is None else media.read_image(scene.image)
        audio = None if scene.audio is None else media.read_audio(scene.audio, SAMPLE_RATE)
        return Request(reference=reference, audio=audio, text=scene.text, **how), None
    clip = preview(
        Settings(height=scene.height, width=scene.width, fps=round(fps), seconds=SECONDS),
        scene.puppet,
    )
    count = len(clip.motion.poses)
    if scene.frames > count:
        raise InputError(f"A puppet's clip has {count} frames, and the scene {scene.frames}.")
    start = (count - scene.frames) // 2
    first, stop = (round(k / fps * SAMPLE_RATE) for k in (start, start + scene.frames))
    sound = None if clip.sound is None else clip.sound[first:stop]
    poses = clip.motion.poses[start : start + scene.frames]
    truth = np.array([pose.look.opening for pose in poses], np.float32)
    return Request(reference=clip.frame(0), audio=sound, text=clip.caption, **how), truth


def _silent(phase: str, done: int, total: int) -> None:
    pass
