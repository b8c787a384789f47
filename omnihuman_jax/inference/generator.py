"""Conditions in, frames out: encode what was given, follow the flow from noise, decode as it streams."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, UInt8

from omnihuman_jax import media
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.diffusion import samplers
from omnihuman_jax.diffusion.guidance import Constant, Guidance, Plan
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import MOTION_FRAMES, SPATIAL, TEMPORAL, Grid
from omnihuman_jax.inference import segments
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
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generator:
    """A model directory, ready to make videos. Networks are restored when needed and freed after.

    Attributes:
        precision: of the transformer and the encoders.
        vae: precision of the VAE; None for float32 on CPUs and bfloat16 compute on accelerators.
        chunk: latent frames decoded at a time; None for what fits in a small part of the memory.
        offload: the transformer's blocks wait in the host's memory, for a device they do not fit.
        kept: where networks stay for the next request; None frees each after its work.
    """

    model: ModelDirectory
    precision: Precision = FLOAT32
    vae: Precision | None = None
    chunk: int | None = None
    kept: dict[str, Any] | None = None
    offload: bool = False

    def __call__(
        self, request: Request, progress: Progress | None = None, saved: Kept | None = None
    ) -> Iterator[np.ndarray]:
        """The frames, UInt8 "F Y X 3", a few at a time in order.

        Args:
            saved: where finished segments of a long video are kept, and taken from.

        Raises:
            InputError: the model has no input for a condition, or a setting cannot work.
        """
        report = progress or (lambda phase, done, total: None)
        self.check(request)
        sampler = samplers.make(request.sampler)
        calls = sampler.calls(sampler.schedule(request.steps, request.shift))
        frames, clip = request.frames or request.grid.frames, request.grid.frames
        if frames > clip:
            whole = self if self.kept is not None else dataclasses.replace(self, kept={})
            return whole._segments(request, calls, report, saved)
        conditions, negative = self.encode(request, report)
        latents = self.denoise(request, conditions, negative, calls, report)
        return self.decode(latents, frames, report)

    def _segments(
        self, request: Request, calls: samplers.Calls, report: Progress, saved: Kept | None
    ) -> Iterator[np.ndarray]:
        """A long video, a segment after the other, each from the last frames of the one before."""
        clip, left = request.grid.frames, request.frames or 0
        conditions, negative = self.encode(request, report)
        firsts = segments.starts(left, clip)
        before: np.ndarray | None = None
        for number, first in enumerate(firsts):
            part = _Part(number, len(firsts), len(calls), left, request.frames or 0, report)
            new = None if saved is None else saved.read(number)
            if new is None:
                given = segments.cut(conditions, first, clip)
                pieces = self._segment(request, given, negative, calls, part, before)
            else:
                pieces = iter([new])
            shown: list[np.ndarray] = []
            for piece in pieces:
                shown.append(piece)
                if left > 0:
                    yield piece[:left]
                left -= len(piece)
            frames = np.concatenate(shown)
            if saved is not None and new is None:
                saved.write(number, frames)
            seen = frames if before is None else np.concatenate([before, frames])
            before = seen[-MOTION_FRAMES:]

    def _segment(
        self,
        request: Request,
        conditions: Conditions,
        negative: Array | None,
        calls: samplers.Calls,
        part: "_Part",
        before: UInt8[np.ndarray, "f Y X 3"] | None,
    ) -> Iterator[np.ndarray]:
        """The new frames of one segment."""
        if before is not None:
            graph, params = nnx.split(self._network("vae"))
            pixels = jnp.asarray(before, jnp.float32)[None] / 127.5 - 1
            conditions = dataclasses.replace(conditions, motion=_encode(graph, params, pixels))
        latents = self.denoise(request, conditions, negative, calls, part, segment=part.number)
        motion = conditions.motion
        if motion is not None:
            latents = jnp.concatenate([motion, latents[:, motion.shape[1] :]], axis=1)
        seen = 0 if before is None else len(before)
        for piece in self.decode(latents, request.grid.frames, part):
            if len(new := piece[max(seen, 0) :]):
                yield new
            seen = max(seen - len(piece), 0)

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

    def encode(self, request: Request, report: Progress) -> tuple[Conditions, Array | None]:
        """What the networks make of the inputs, and the features of the negative text.

        Raises:
            InputError: the model has no network for one of them.
        """
        grid = request.grid
        length = segments.covered(request.frames or grid.frames, grid.frames)
        made: dict[str, Any] = {}
        texts = [t for t in (request.text, request.negative_text) if t is not None]
        jobs = [texts, request.reference is not None, request.audio is not None]
        total, done = sum(map(bool, jobs)), 0
        report("encode", done, total)
        features: list[Array] = []
        if texts:
            features = list(self._text(texts)[:, None])
            report("encode", done := done + 1, total)
        if request.reference is not None:
            made["reference"] = self._reference(request.reference, grid)
            report("encode", done := done + 1, total)
        if request.audio is not None:
            made["audio"] = self._audio(request.audio, length, request.fps)
            report("encode", done := done + 1, total)
        if request.pose is not None:
            made["pose"] = self._pose(request.pose, length)
        negative = None if request.negative_text is None else features.pop()
        text = None if request.text is None else features.pop()
        return Conditions(text=text, **made), negative

    def denoise(
        self,
        request: Request,
        conditions: Conditions,
        negative: Array | None,
        calls: samplers.Calls,
        report: Progress,
        segment: int = 0,
    ) -> Float[Array, "1 T H W C"]:
        """Latents at the end of the flow; one compiled program a set of guidance passes.

        Every segment has noise of its own.
        """
        config = self.model.config("dit")
        plan = request.guidance.plan(
            conditions.given(), np.asarray(calls.time), np.asarray(calls.progress)
        )
        dit = self._network("dit")
        graph, params = nnx.split(dit)
        height, width = request.grid.latent_shape[1:]
        report("denoise", 0, len(calls))

        def tokens(dropped: frozenset[str]) -> Tokens:
            kept = conditions.without(dropped)
            if kept.text is None and negative is not None:
                kept = dataclasses.replace(kept, text=negative)
            return _embed(graph, params, kept, height, width)

        shape = (1, *request.grid.latent_shape, config.channels)
        key = jax.random.key(request.seed)
        key = jax.random.fold_in(key, segment) if segment else key
        noise = jax.random.normal(key, shape, jnp.float32)
        state = samplers.make(request.sampler).init(noise)
        embedded = {dropped: tokens(dropped) for dropped in plan.passes}
        for rows, part in plan.stretches():
            given = tuple(embedded[dropped] for dropped in part.passes)
            for i, weights in zip(range(rows.start, rows.stop), part.weights, strict=True):
                state = _advance(graph, part.passes, params, state, calls[i], weights, given)
                jax.block_until_ready(state)
                report("denoise", i + 1, len(calls))
        return state[0]

    def decode(
        self, latents: Float[Array, "1 T H W C"], frames: int, report: Progress
    ) -> Iterator[np.ndarray]:
        """Pixels of the first `frames` frames, a few latent frames at a time, in constant memory.

        A piece is given out while the device works on the next.
        """
        vae = self._network("vae")
        graph, params = nnx.split(vae)
        dtype, width = jnp.dtype(vae.precision.compute), self.model.config("vae").dim
        chunk = self.chunk or pieces(latents.shape, width, dtype.itemsize, free_memory())
        report("decode", 0, frames)
        made = 0
        for pixels, finite in ahead_by_one(_pieces(graph, params, latents, frames, chunk)):
            if not finite:
                raise FloatingPointError("The decoder made pixels that are not finite numbers.")
            piece = np.asarray(pixels)[: frames - made]
            made += len(piece)
            yield piece
            report("decode", made, frames)

    def _network(self, name: str) -> Any:
        if self.kept is not None and name in self.kept:
            return self.kept[name]
        precision = self.precision if name != "vae" else self.vae or usual_precision()
        network = self.model.load(name, precision, offload=self.offload)
        if self.kept is not None:
            self.kept[name] = network
        return network

    def _text(self, texts: list[str]) -> Float[Array, "B S E"]:
        length = self.model.config("dit").text_length

        def encode(text: str) -> Float[Array, "S E"]:
            encoder = self._network("text_encoder")
            return umt5.text_features(encoder, self.model.tokenizer(), [text], length)[0]

        # One by one: what a text becomes does not depend on what is encoded beside it.
        known = remembered(self.model, self.precision, length)
        return jnp.stack([encode(text) if known is None else known(text, encode) for text in texts])

    def _reference(
        self, image: UInt8[np.ndarray, "y x 3"], grid: Grid
    ) -> Float[Array, "1 1 H W C"]:
        fitted = media.fit_image(image, grid.height, grid.width)
        pixels = jnp.asarray(fitted, jnp.float32)[None, None] / 127.5 - 1
        graph, params = nnx.split(self._network("vae"))
        return _encode(graph, params, pixels)

    def _audio(
        self, audio: Float32[np.ndarray, "samples"], frames: int, fps: float
    ) -> Float[Array, "1 F layers A"]:
        samples = round(frames / fps * wav2vec2.SAMPLE_RATE)
        heard = np.pad(audio[:samples], (0, max(0, samples - len(audio))))
        encoder = self._network("audio_encoder")
        return wav2vec2.resample(wav2vec2.encode_long(encoder, heard[None]), frames, fps)

    def _pose(self, pose: Float32[np.ndarray, "f J 3"], frames: int) -> Float[Array, "1 F J 3"]:
        pad = max(0, frames - len(pose))
        return jnp.asarray(np.pad(pose[:frames], ((0, pad), (0, 0), (0, 0)), mode="edge"))[None]


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


def pieces(
    latents: tuple[int, ...], width: int, itemsize: int = 4, memory: int | None = None
) -> int:
    """Latent frames to decode at a time: few enough for memory, and best without a shorter last piece,
    which would be compiled for itself.

    Args:
        itemsize: bytes of a number of the activations.
        memory: bytes that are free on the device, None if unknown. The largest activation may have a
            96th of it: a decoder's step needs about twelve of them (the TPU compiler's count), and a
            piece that takes an eighth of the device leaves room for the other networks.
    """
    _, frames, rows, columns, _ = latents
    widest = TEMPORAL * rows * columns * SPATIAL**2 * width * itemsize  # bytes, largest activation
    budget = 2**28 if memory is None else memory // 96
    most = max(1, min(8, budget // widest))
    even = (n for n in range(most, most // 2, -1) if (frames - 1) % n == 0)
    return next(even, most)


def free_memory() -> int | None:
    """Bytes that nothing occupies on the first device; None where it does not say (CPUs)."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return max(0, stats["bytes_limit"] - stats.get("bytes_in_use", 0))


def ahead_by_one[T](results: Iterator[T]) -> Iterator[T]:
    """The same, each given out only when the one after it has been asked for.

    JAX returns before a device has done its work, so the device has the next piece to work on while the
    caller waits for this one and writes it.
    """
    before = next(results, None)
    for result in results:
        if before is not None:
            yield before
        before = result
    if before is not None:
        yield before


def _pieces(
    graph: Any, params: Any, latents: Float[Array, "1 T H W C"], frames: int, chunk: int
) -> Iterator[tuple[UInt8[Array, "F Y X 3"], Bool[Array, ""]]]:
    """Pieces of at least `frames` frames and whether all is finite, on their way to the host."""
    cache, start, made = None, 0, 0
    while made < frames:
        stop = start + 1 if start == 0 else start + chunk
        piece, cache = _decode(graph, params, latents[:, start:stop], cache)
        for array in piece:
            array.copy_to_host_async()
        start, made = stop, made + len(piece[0])
        yield piece


def to_bytes(
    video: Float[Array, "F Y X 3"],
) -> tuple[UInt8[Array, "F Y X 3"], Bool[Array, ""]]:
    """[-1, 1] to 0..255, rounded, and whether all were numbers: one that is not would be a silent black."""
    rounded = jnp.round((video + 1) * 127.5).clip(0, 255).astype(jnp.uint8)
    return rounded, jnp.isfinite(video).all()


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _embed(graph: Any, params: Any, conditions: Conditions, height: int, width: int) -> Tokens:
    dit = nnx.merge(graph, params)
    return dit.recall(dit.embed(conditions, 1, height, width))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _advance(
    graph: Any,
    passes: tuple[frozenset[str], ...],
    params: Any,
    state: samplers.State,
    call: samplers.Calls,
    weights: Float[Array, "passes"],
    given: tuple[Tokens, ...],
) -> samplers.State:
    """One step of the sampler with all its guidance passes."""
    dit = nnx.merge(graph, params)

    def network(dropped: frozenset[str], x: Array, t: Array) -> Array:
        return dit(x, jnp.broadcast_to(t, x.shape[:1]), given[passes.index(dropped)])

    velocity = Plan(passes, np.zeros((0, len(passes)), np.float32)).velocity(network)
    return samplers.step(velocity, state, call, weights)


@functools.partial(jax.jit, static_argnums=0)
def _encode(
    graph: Any, params: Any, pixels: Float[Array, "B F Y X 3"]
) -> Float[Array, "B T H W C"]:
    return nnx.merge(graph, params).encode(pixels)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def _decode(
    graph: Any, params: Any, latents: Float[Array, "1 T H W C"], cache: Any
) -> tuple[tuple[UInt8[Array, "F Y X 3"], Bool[Array, ""]], Any]:
    """The next frames as bytes, and whether they are finite; the cache is written over."""
    pixels, cache = nnx.merge(graph, params).decode_step(latents, cache)
    return to_bytes(pixels[0]), cache
