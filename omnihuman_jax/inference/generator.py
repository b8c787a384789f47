"""Conditions in, frames out: encode what was given, follow the flow from noise, decode as it streams."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, UInt8

from omnihuman_jax import media
from omnihuman_jax import mesh as meshes
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.diffusion import samplers
from omnihuman_jax.diffusion.guidance import Constant, Guidance
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import MOTION_FRAMES, Grid
from omnihuman_jax.inference import decoding, denoising, segments
from omnihuman_jax.inference.denoising import Group, Pass
from omnihuman_jax.inference.remembered import remembered
from omnihuman_jax.inference.segments import Kept
from omnihuman_jax.models import umt5, wav2vec2
from omnihuman_jax.models.building import FLOAT32, Precision
from omnihuman_jax.models.conditioner import Tokens
from omnihuman_jax.models.directory import ModelDirectory
from omnihuman_jax.models.vae import usual_precision

Progress = Callable[[str, int, int], None]  # phase, done, of how many


@dataclass(frozen=True, kw_only=True)
class Request:
    """One video to make. Conditions left out (None) are dropped, as in training.

    Attributes:
        grid: frames, height and width of the clip that is denoised at a time.
        frames: how many to return; None for those of the grid, more for several segments.
        reference: the person, any size; scaled to cover the grid and cropped.
        audio: 16 kHz mono; cut, or continued in silence, to the clip's length.
        pose: keypoints at `fps`, x, y in [0, 1] and confidence; the last frame is held to the end.
        negative_text: what the passes without text read; None for no text.
        sampler, steps, shift: see diffusion/samplers.py.
        anchor: how far the last frames of a segment are drawn back to the colours of the first segment before
            the next one follows them, from 0 (not at all) to 1.
        notes: what the user should know of how his wishes were understood.
    """

    grid: Grid
    fps: float
    frames: int | None = None
    reference: UInt8[np.ndarray, "y x 3"] | None = None
    audio: Float32[np.ndarray, "samples"] | None = None
    pose: Float32[np.ndarray, "f J 3"] | None = None
    text: str | None = None
    negative_text: str | None = None
    sampler: str = "unipc"
    steps: int = 50
    shift: float = 5.0
    guidance: Guidance = field(default_factory=lambda: Guidance(text=Constant(5.0)))
    seed: int = 0
    anchor: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """Frames of the whole video."""
        return self.frames or self.grid.frames

    @property
    def alike(self) -> Hashable:
        """Equal for requests whose videos can be made together: the same in all but what is said and seen."""
        given = self.reference, self.audio, self.pose, self.text, self.negative_text
        how = self.sampler, self.steps, self.shift, self.guidance, self.anchor
        return self.grid, self.fps, self.length, how, tuple(value is None for value in given)


@dataclass(frozen=True)
class Generator:
    """A model directory, ready to make videos. Networks are restored when needed and freed after.

    Attributes:
        precision: of the transformer and the encoders.
        vae: precision of the VAE; None for float32 on CPUs and bfloat16 compute on accelerators.
        chunk: latent frames decoded at a time; None for what fits in a small part of the memory.
        kept: where networks stay for the next request; None frees each after its work.
        mesh: devices that make a video together: clips lie over data, tokens over context (mesh.py); None
            for the first device, or the mesh that is set.
        joint: whether all guidance passes are one network call; None where memory allows.
        offload: the transformer's blocks wait in the host's memory, for a device they do not fit.
    """

    model: ModelDirectory
    precision: Precision = FLOAT32
    vae: Precision | None = None
    chunk: int | None = None
    kept: dict[str, Any] | None = None
    mesh: Mesh | None = None
    joint: bool | None = None
    offload: bool = False

    def __call__(
        self, request: Request, progress: Progress | None = None, saved: Kept | None = None
    ) -> Iterator[UInt8[np.ndarray, "F Y X 3"]]:
        """The frames, a few at a time in order.

        Args:
            saved: where finished segments of a long video are kept, and taken from.

        Raises:
            InputError: the model has no input for a condition, or a setting cannot work.
        """
        together = self.together([request], progress, None if saved is None else [saved])
        return (pieces[0] for pieces in together)

    def together(
        self,
        requests: Sequence[Request],
        progress: Progress | None = None,
        saved: Sequence[Kept] | None = None,
    ) -> Iterator[UInt8[np.ndarray, "B F Y X 3"]]:
        """Videos that are alike (`Request.alike`) at once, a clip each of one batch: their frames.

        Every video is the one that it would be alone.

        Raises:
            InputError: as alone, or requests that are not alike.
        """
        if len({request.alike for request in requests}) != 1:
            raise InputError(
                "Videos are made together if all of their settings and inputs are alike."
            )
        for request in requests:
            self.check(request)
        report = progress or (lambda phase, done, total: None)
        made = self._made(tuple(requests), report, saved)
        return made if self.mesh is None else _under(self.mesh, made)

    def _made(
        self, requests: tuple[Request, ...], report: Progress, saved: Sequence[Kept] | None
    ) -> Iterator[UInt8[np.ndarray, "B F Y X 3"]]:
        first = requests[0]
        sampler = samplers.make(first.sampler)
        calls = sampler.calls(sampler.schedule(first.steps, first.shift))
        if first.length > first.grid.frames:
            own: dict[str, Any] = {}
            whole = self if self.kept is not None else dataclasses.replace(self, kept=own)
            conditions, negative = whole.encode(requests, report)
            own.pop("text_encoder", None), own.pop("audio_encoder", None)  # their work is done
            yield from whole._segments(requests, conditions, negative, calls, report, saved)
            return
        conditions, negative = self.encode(requests, report)
        latents = self.denoise(requests, conditions, negative, calls, report)
        yield from self.decode(latents, first.length, report)

    def _segments(
        self,
        requests: tuple[Request, ...],
        conditions: Conditions,
        negative: np.ndarray | None,
        calls: samplers.Calls,
        report: Progress,
        saved: Sequence[Kept] | None,
    ) -> Iterator[UInt8[np.ndarray, "B F Y X 3"]]:
        """Long videos, a segment after the other, each from the last frames of the one before."""
        clip, length = requests[0].grid.frames, requests[0].length
        firsts, left = segments.starts(length, clip), length
        before: np.ndarray | None = None
        anchor: np.ndarray | None = None
        for number, first in enumerate(firsts):
            part = _Part(number, len(firsts), len(calls), left, length, report)
            new = None if saved is None else _stacked([one.read(number) for one in saved])
            if new is None:
                given = segments.cut(conditions, first, clip)
                if before is not None:
                    motion = self._motion(before, anchor, requests[0].anchor)
                    given = dataclasses.replace(given, motion=motion)
                parts = self._segment(requests, given, negative, calls, part)
            else:
                parts = iter([new])
            shown: list[np.ndarray] = []
            for piece in parts:
                shown.append(piece)
                if left > 0:
                    yield piece[:, :left]
                left -= piece.shape[1]
            frames = np.concatenate(shown, axis=1)
            if saved is not None and new is None:
                for one, own in zip(saved, frames, strict=True):
                    one.write(number, own)
            if anchor is None:
                anchor = frames[:, :MOTION_FRAMES].copy()
            seen = frames if before is None else np.concatenate([before, frames], axis=1)
            before = seen[:, -MOTION_FRAMES:].copy()  # and not the whole segment

    def _segment(
        self,
        requests: tuple[Request, ...],
        conditions: Conditions,
        negative: np.ndarray | None,
        calls: samplers.Calls,
        part: "_Part",
    ) -> Iterator[UInt8[np.ndarray, "B F Y X 3"]]:
        """The new frames of one segment."""
        latents = self.denoise(requests, conditions, negative, calls, part, segment=part.number)
        seen, motion = 0, conditions.motion
        if motion is not None:
            latents = jnp.concatenate([motion, latents[:, motion.shape[1] :]], axis=1)
            seen = MOTION_FRAMES
        for piece in self.decode(latents, requests[0].grid.frames, part):
            if (new := piece[:, max(seen, 0) :]).shape[1]:
                yield new
            seen = max(seen - piece.shape[1], 0)

    def _motion(
        self,
        before: UInt8[np.ndarray, "B f Y X 3"],
        anchor: UInt8[np.ndarray, "B f Y X 3"] | None,
        strength: float,
    ) -> Float[Array, "B M H W C"]:
        """Latents of the last frames, drawn back to the statistics of the first ones by `strength`."""
        motion = self._latents(before)
        if not strength or anchor is None:
            return motion
        return segments.anchored(motion, self._latents(anchor), strength)

    def check(self, request: Request) -> None:
        """Refuse what the model has no network or no input for, before anything is read.

        Raises:
            InputError: it has none.
        """
        texts = request.text is not None or request.negative_text is not None
        wanted = {
            "dit": True,
            "vae": True,
            "text_encoder": texts,
            "audio_encoder": request.audio is not None,
        }
        for network in (name for name, needed in wanted.items() if needed):
            self.model.config(network)
        if texts and self.model.manifest.tokenizer is None:
            self.model.tokenizer()  # says what is missing
        config, name = self.model.config("dit"), self.model.path
        if request.audio is not None and config.audio is None:
            raise InputError(
                f"The model {name} has no audio input (it is plain Wan2.1); leave the audio away, or "
                "use a model trained with it."
            )
        if request.pose is not None:
            joints = None if config.pose is None else config.pose.joints
            if joints != request.pose.shape[1]:
                knows = f"poses of {joints} joints" if joints else "no pose input"
                raise InputError(
                    f"The model {name} has {knows}, and the pose given has {request.pose.shape[1]}."
                )

    def encode(
        self, requests: Sequence[Request], report: Progress
    ) -> tuple[Conditions, Float[np.ndarray, "B S E"] | None]:
        """What the networks make of the inputs of requests that are alike, and of the negative texts.

        All of it on the host: that of a long video is large, and a segment needs a part.

        Raises:
            InputError: the model has no network for one of them.
        """
        first = requests[0]
        length = segments.covered(first.length, first.grid.frames)
        made: dict[str, Any] = {}
        texts = [*_each(requests, "text"), *_each(requests, "negative_text")]
        texts = [text for text in dict.fromkeys(texts) if text is not None]
        jobs = [texts, first.reference is not None, first.audio is not None]
        total, done = sum(map(bool, jobs)), 0
        report("encode", done, total)
        features: dict[str, np.ndarray] = {}
        if texts:
            features = dict(zip(texts, self._text(texts)[:, None], strict=True))
            report("encode", done := done + 1, total)
        if first.reference is not None:
            size = first.grid.height, first.grid.width
            fitted = [media.fit_image(image, *size) for image in _each(requests, "reference")]
            made["reference"] = meshes.on_host(self._latents(np.stack(fitted)[:, None]))
            report("encode", done := done + 1, total)
        if first.audio is not None:
            sounds = _each(requests, "audio")
            heard = [meshes.on_host(self._audio(sound, length, first.fps)) for sound in sounds]
            made["audio"] = np.concatenate(heard)
            report("encode", done := done + 1, total)
        if first.pose is not None:
            poses = _each(requests, "pose")
            made["pose"] = np.concatenate([_held(pose, length) for pose in poses])
        text, negative = cast(
            Any,
            [
                None if read[0] is None else np.concatenate([features[one] for one in read])
                for read in (_each(requests, "text"), _each(requests, "negative_text"))
            ],
        )
        return Conditions(text=text, **made), negative

    def denoise(
        self,
        requests: Sequence[Request],
        conditions: Conditions,
        negative: Float[np.ndarray, "B S E"] | None,
        calls: samplers.Calls,
        report: Progress,
        segment: int = 0,
    ) -> Float[Array, "B T H W C"]:
        """Latents at the end of the flow; one compiled program a set of guidance passes.

        Every segment has noise of its own.
        """
        config, first, clips = self.model.config("dit"), requests[0], len(requests)
        plan = first.guidance.plan(
            conditions.given(), np.asarray(calls.time), np.asarray(calls.progress)
        )
        graph, params = nnx.split(self._network("dit"))
        height, width = first.grid.latent_shape[1:]
        report("denoise", 0, len(calls))

        @functools.cache
        def tokens(group: Group) -> Tokens:
            return denoising.embed(graph, params, conditions, negative, group, clips, height, width)

        shape = (*first.grid.latent_shape, config.channels)
        seeds, sampler = [r.seed for r in requests], samplers.make(first.sampler)
        state = denoising.start(sampler, shape, seeds, segment, first.steps)
        before: Any = ()
        for rows, part in plan.stretches():
            groups = self._groups(part.passes, clips, first.grid.tokens)
            given = tuple(map(tokens, groups))
            for i, weights in zip(range(rows.start, rows.stop), part.weights, strict=True):
                state, tick = denoising.advance(
                    graph, groups, params, state, calls[i], weights, given
                )
                # The device has the next step to do while we wait for this one.
                jax.block_until_ready(before)
                report("denoise", i, len(calls))
                before = tick
        jax.block_until_ready(before)
        report("denoise", len(calls), len(calls))
        return state[0]

    def _groups(self, passes: tuple[Pass, ...], clips: int, tokens: int) -> tuple[Group, ...]:
        """Which guidance passes share a network call: all, or none."""
        joint = self.joint
        if joint is None:
            config, bytes_ = self.model.config("dit"), jnp.dtype(self.precision.compute).itemsize
            clips *= len(passes)
            joint = denoising.fits_together(config, clips, tokens, bytes_, decoding.free_memory())
        return (passes,) if joint else tuple((one,) for one in passes)

    def decode(
        self, latents: Float[Array, "B T H W C"], frames: int, report: Progress
    ) -> Iterator[UInt8[np.ndarray, "B F Y X 3"]]:
        """Pixels of the first `frames` frames, a few latent frames at a time, in constant memory.

        A piece is given out while the device works on the next.
        """
        vae = self._network("vae")
        graph, params = nnx.split(vae)
        dtype, width = jnp.dtype(vae.precision.compute), self.model.config("vae").dim
        memory = decoding.free_memory()
        chunk = self.chunk or decoding.pieces(latents.shape, width, dtype.itemsize, memory)
        report("decode", 0, frames)
        made, shown = 0, decoding.decoded(graph, params, latents, frames, chunk)
        for pixels, finite in decoding.ahead_by_one(shown):
            if not finite:
                raise FloatingPointError("The decoder made pixels that are not finite numbers.")
            piece = np.asarray(pixels)[:, : frames - made]
            made += piece.shape[1]
            yield piece
            report("decode", made, frames)

    def _network(self, name: str) -> Any:
        if self.kept is not None and name in self.kept:
            return self.kept[name]
        precision = self.precision if name != "vae" else self.vae or usual_precision()
        hosted = self.offload and name == "dit"
        network = self.model.load(name, precision, self.mesh, offload=hosted)
        if self.kept is not None:
            self.kept[name] = network
        return network

    def _text(self, texts: list[str]) -> Float[np.ndarray, "B S E"]:
        length = self.model.config("dit").text_length

        def encode(text: str) -> Float[np.ndarray, "S E"]:
            encoder = self._network("text_encoder")
            features = umt5.text_features(encoder, self.model.tokenizer(), [text], length)
            return meshes.on_host(features)[0]

        # One by one: what a text becomes does not depend on what is encoded beside it.
        known = remembered(self.model, self.precision, length)
        return np.stack([encode(text) if known is None else known(text, encode) for text in texts])

    def _latents(self, frames: UInt8[np.ndarray, "B f Y X 3"]) -> Float[Array, "B M H W C"]:
        graph, params = nnx.split(self._network("vae"))
        return _encode(graph, params, frames.astype(np.float32) / 127.5 - 1)

    def _audio(
        self, audio: Float32[np.ndarray, "samples"], frames: int, fps: float
    ) -> Float[Array, "1 F layers A"]:
        samples = round(frames / fps * wav2vec2.SAMPLE_RATE)
        heard = np.pad(audio[:samples], (0, max(0, samples - len(audio))))
        encoder = self._network("audio_encoder")
        return wav2vec2.resample(wav2vec2.encode_long(encoder, heard[None]), frames, fps)


def _held(pose: Float32[np.ndarray, "f J 3"], frames: int) -> Float32[np.ndarray, "1 F J 3"]:
    """Cut to that length, or the last frame held."""
    pad = max(0, frames - len(pose))
    return np.pad(pose[:frames], ((0, pad), (0, 0), (0, 0)), mode="edge")[None]


def _each(requests: Sequence[Request], name: str) -> list[Any]:
    return [getattr(request, name) for request in requests]


def _stacked(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """All of them in one array; None if one is not there."""
    found = [array for array in arrays if array is not None]
    return np.stack(found) if len(found) == len(arrays) else None


def _under(mesh: Mesh, results: Iterator[Any]) -> Iterator[Any]:
    """The same, made with that mesh set, which whoever takes them does not see."""
    while True:
        with jax.set_mesh(mesh):
            try:
                result = next(results)
            except StopIteration:
                return
        yield result


@dataclass(frozen=True)
class _Part:
    """Reports the work on one segment as its share of the whole video's."""

    number: int
    segments: int
    steps: int
    left: int
    frames: int
    report: Progress

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase == "denoise":
            self.report(phase, self.number * self.steps + done, self.segments * self.steps)
        elif phase == "decode":
            new = max(0, done - (MOTION_FRAMES if self.number else 0))
            self.report(phase, min(self.frames - self.left + new, self.frames), self.frames)


@functools.partial(jax.jit, static_argnums=0)
def _encode(
    graph: Any, params: Any, pixels: Float[Array | np.ndarray, "B F Y X 3"]
) -> Float[Array, "B T H W C"]:
    return nnx.merge(graph, params).encode(pixels)
