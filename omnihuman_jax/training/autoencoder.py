"""The only place that trains a VAE: clips in, the same clips out, through few and calm latents."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, PRNGKeyArray, UInt8, UInt32

from omnihuman_jax import storage
from omnihuman_jax.data import raw
from omnihuman_jax.data.job import sources
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import TEMPORAL, Grid
from omnihuman_jax.models import directory
from omnihuman_jax.models.building import FLOAT32
from omnihuman_jax.models.vae import CausalVAE, VAEConfig
from omnihuman_jax.training import networks, speaking
from omnihuman_jax.training.stages import Stage
from omnihuman_jax.training.streams import Numbered
from omnihuman_jax.training.task import Cost, Params, Sample, Tallies, Trainee, tally


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clips:
    """A batch of raw pixels."""

    frames: UInt8[Array | np.ndarray, "B F Y X 3"]
    mouths: Float32[Array | np.ndarray, "B F 3"]  # x, y and width in pixels; width 0: none
    sample: UInt32[Array | np.ndarray, "B"]


@dataclass(frozen=True, kw_only=True)
class PieceStage(Stage):
    """A stage on pieces of videos.

    Attributes:
        frames: of a piece, 4n+1. Pictures (1) teach shapes and colours for a ninth of the price of 9.
        size: height and width of a piece in pixels, a multiple of 16.
        focus: how much more than elsewhere an error counts in the middle of a mouth, where the json
            beside a video gives the lips (133 joints); it falls off as a normal distribution as wide
            as the mouth. A mouth is 1 % of the frame: without it, lips that do not move cost nothing.
        about_mouths: pieces smaller than the video are cut where the mouth is, not anywhere.
    """

    frames: int = 9
    size: int = 64
    focus: float = 0.0
    about_mouths: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        Grid(self.frames, self.size, self.size)


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """Train a VAE on a folder of videos, on pieces of them.

    The loss is the mean absolute error of pixels, and of their differences from one pixel or frame to
    the next (edges and motion, where the eye looks), and a little KL divergence to a normal
    distribution (Kingma and Welling, arXiv 1312.6114; the weights are ours). No adversary and no
    perceptual network: drawn figures do without.

    Attributes:
        videos: folder of videos, all at least as large as a piece.
        config: sizes of the network; the statistics of its latents are measured at the end.
        edges: weight of the differences.
        kl: weight of the divergence, a mean over latents.
        fps: at which the videos are read.
    """

    videos: str
    config: VAEConfig = field(default_factory=VAEConfig)
    edges: float = 1.0
    kl: float = 3e-4
    fps: float = 25.0

    def prepare(self, stages: Sequence[PieceStage], mesh: Mesh, seed: int) -> Trainee:
        """Ready to train."""
        config = _plain(self.config)
        make = functools.partial(_network, config)
        return Trainee(
            shapes=networks.shapes(make, mesh),
            init=functools.partial(_initial, make, config.channels, mesh, seed),
            losses={s.name: functools.partial(self.loss, make, s.focus) for s in stages},
            stream=functools.partial(self._stream, seed),
            cost=_cost,
            export=functools.partial(self._export, make),
            sample=functools.partial(self._sample, make),
        )

    def loss(
        self, make: Any, focus: float, params: Params, batch: Clips, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Tallies]:
        """Absolute error of pixels and of differences, and divergence."""
        vae = networks.rebuilt(make, params)
        video = batch.frames.astype(jnp.float32) / 127.5 - 1
        (mu, log_variance), _ = vae.posterior_step(video)
        log_variance = jnp.clip(log_variance, -20.0, 10.0)
        noise = jax.vmap(
            lambda s: jax.random.normal(jax.random.fold_in(key, s), mu.shape[1:], jnp.float32)
        )(batch.sample)
        latents = mu + jnp.exp(0.5 * log_variance) * noise
        shown, _ = vae.likeness_step(latents)
        error = shown - video
        rest = (1, 2, 3, 4)
        height, width = video.shape[2:4]
        weights = 1 + focus * _nearness(jnp.asarray(batch.mouths), (height, width))
        pixels = jnp.mean(weights * jnp.abs(error), axis=rest)
        axes = (1, 2, 3) if video.shape[1] > 1 else (2, 3)  # a picture has no next frame
        edges: Any = sum(
            jnp.mean(_all_but_first(weights, axis) * jnp.abs(jnp.diff(error, axis=axis)), axis=rest)
            for axis in axes
        )
        kl = 0.5 * jnp.mean(mu**2 + jnp.exp(log_variance) - 1 - log_variance, axis=rest)
        squared = jnp.mean(jnp.clip(error, -2, 2) ** 2, axis=rest)
        tallies = {
            "pixels": tally(pixels),
            "edges": tally(edges),
            "kl": tally(kl),
            "psnr": tally(-10 * jnp.log10(squared / 4 + 1e-10)),
        }
        return jnp.mean(pixels + self.edges * edges + self.kl * kl), tallies

    def _stream(self, seed: int, stage: PieceStage) -> Numbered:
        names = sorted(sources(self.videos))
        hosts = jax.process_count()
        if stage.batch % hosts:
            raise InputError(f"{hosts} hosts cannot share a batch of {stage.batch} evenly.")
        share = stage.batch // hosts
        rows = range(jax.process_index() * share, (jax.process_index() + 1) * share)

        def make(n: int) -> Clips:
            pieces = [self._piece(names, stage, seed, n * stage.batch + row) for row in rows]
            frames, mouths = (np.stack(column) for column in zip(*pieces, strict=True))
            numbers = [(n * stage.batch + row) % 2**32 for row in rows]
            return Clips(frames, mouths, np.array(numbers, np.uint32))

        about = {"about_mouths": True} if stage.about_mouths else {}
        identity = {"videos": len(names), "seed": seed, "batch": stage.batch}
        return Numbered(make, {**identity, "frames": stage.frames, "size": stage.size, **about})

    def _piece(
        self, names: list[str], stage: PieceStage, seed: int, number: int
    ) -> tuple[UInt8[np.ndarray, "F Y X 3"], Float32[np.ndarray, "F 3"]]:
        """Some frames of some video, cut to size somewhere, mirrored or not; and the mouths in them."""
        random = np.random.Generator(np.random.Philox(key=[seed, number]))
        name = names[int(random.integers(len(names)))]
        path = storage.join(self.videos, name)
        frames = video(path, self.fps)
        count, size = stage.frames, stage.size
        if len(frames) < count or min(frames.shape[1:3]) < size:
            raise InputError(
                f"{name} has {len(frames)} frames of {frames.shape[1]}x{frames.shape[2]}; pieces of "
                f"{count} frames of {size}x{size} do not fit into it."
            )
        start = int(random.integers(len(frames) - count + 1))
        places = speaking.mouths(path) if stage.focus or stage.about_mouths else None
        if places is None or len(places) < start + count:
            places = np.zeros((start + count, 3), np.float32)
        places = places[start : start + count]
        top, left = (int(random.integers(n - size + 1)) for n in frames.shape[1:3])
        if stage.about_mouths and places[:, 2].any():
            top, left = speaking.around(places, frames.shape[1:3], size, random)
        piece = frames[start : start + count, top : top + size, left : left + size]
        mouths = speaking.cut(places, frames.shape[1:3], top, left)
        if random.integers(2):
            return piece[:, :, ::-1], speaking.mirrored(mouths, size)
        return piece, mouths

    def _export(self, make: Any, path: str, params: Params, provenance: Mapping[str, Any]) -> None:
        """Measure the statistics of the latents, and write a model directory with the VAE alone."""
        mean, std = self._statistics(make, params)
        config = dataclasses.replace(self.config, mean=mean, std=std)
        vae = networks.rebuilt(functools.partial(_network, config), params)
        directory.save(
            path, {"vae": vae}, weights="safetensors", provenance=provenance, overwrite=True
        )

    def _statistics(
        self, make: Any, params: Params, clips: int = 64
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each latent channel over whole pictures of some videos."""
        encode = jax.jit(lambda p, x: networks.rebuilt(make, p).encode(x))
        names = sorted(sources(self.videos))
        found = []
        for name in names[:: max(1, len(names) // clips)][:clips]:
            frames = video(storage.join(self.videos, name), self.fps)
            long = (len(frames) - 1) // TEMPORAL * TEMPORAL + 1
            height, width = (n - n % 16 for n in frames.shape[1:3])
            pixels = frames[None, : min(long, 25), :height, :width].astype(np.float32) / 127.5 - 1
            latents = np.asarray(encode(params, pixels), np.float64)
            found.append(latents.reshape(-1, latents.shape[-1]))
        values = np.concatenate(found)
        return (
            tuple(round(float(x), 4) for x in values.mean(axis=0)),
            tuple(round(float(x), 4) for x in np.maximum(values.std(axis=0), 1e-3)),
        )

    def _sample(self, make: Any, params: Params, step: int) -> Sample:
        """A video above what comes out for it."""
        name = sorted(sources(self.videos))[0]
        frames = video(storage.join(self.videos, name), self.fps)[:25]
        height, width = (n - n % 16 for n in frames.shape[1:3])
        frames = frames[:, :height, :width]
        through = jax.jit(lambda p, x: _through(networks.rebuilt(make, p), x))
        shown = np.asarray(through(params, frames[None].astype(np.float32) / 127.5 - 1)[0])
        made = np.round((shown + 1) * 127.5).clip(0, 255).astype(np.uint8)
        error = np.mean((made.astype(np.float64) - frames) ** 2)
        both = np.concatenate([frames, made], axis=1)
        return Sample(both, self.fps, scores={"psnr": float(10 * np.log10(255**2 / error))})


QUIET = -4.0  # logarithm of the variance of new latents
KEPT = 2**32  # bytes of frames that stay in memory; pieces are drawn at random, so any are as good
_kept: dict[tuple[str, float], UInt8[np.ndarray, "F Y X 3"]] = {}


def video(path: str, fps: float) -> UInt8[np.ndarray, "F Y X 3"]:
    """All frames of a video; the first few GB of videos are kept."""
    found = _kept.get((path, fps))
    if found is None:
        with raw.local(path) as file:
            found = np.stack(list(raw.frames(file, raw.probe(file), fps)))
        if sum(frames.nbytes for frames in _kept.values()) + found.nbytes <= KEPT:
            _kept[path, fps] = found
    return found


def _through(vae: CausalVAE, video: Float[Array, "B F Y X 3"]) -> Float[Array, "B F Y X 3"]:
    return vae.decode(vae.encode(video))


def _initial(make: Any, channels: int, mesh: Mesh, seed: int) -> Params:
    """New parameters, with latents that begin nearly without noise: 120 steps then gain 2 dB (ours)."""
    params = networks.initial(make, mesh, seed)
    bias = params["to_moments/bias"]
    return {**params, "to_moments/bias": bias.at[channels:].set(QUIET)}


def _network(config: VAEConfig, rngs: nnx.Rngs) -> CausalVAE:
    return CausalVAE(config, FLOAT32, rngs=rngs)


def _nearness(mouths: Float[Array, "B F 3"], size: tuple[int, int]) -> Float[Array, "B F Y X 1"]:
    """1 in the middle of the mouth, less around it, 0 where there is none."""
    x, y, wide = (mouths[:, :, k, None, None] for k in range(3))
    down, right = (jnp.arange(n, dtype=jnp.float32) + 0.5 for n in size)
    away = (right[None, None, None] - x) ** 2 + (down[None, None, :, None] - y) ** 2
    near = jnp.exp(-away / (2 * jnp.maximum(0.6 * wide, 1e-3) ** 2))
    return jnp.where(wide > 0, near, 0.0)[..., None]


def _all_but_first(values: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """What belongs to differences along an axis; unchanged where all along it are one."""
    return jax.lax.slice_in_dim(values, 1, None, axis=axis)


def _plain(config: VAEConfig) -> VAEConfig:
    """The config with latents as they come, since their statistics are not known yet."""
    zeros, ones = (0.0,) * config.channels, (1.0,) * config.channels
    return dataclasses.replace(config, mean=zeros, std=ones)


def _cost(batch: Clips) -> Cost:
    clips, frames, height, width, _ = batch.frames.shape
    return Cost(clips, clips * Grid(frames, height, width).tokens)
