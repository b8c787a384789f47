"""Clips of pixels, sound and words → records: the one place where `data` meets the networks."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from omnihuman_jax import storage
from omnihuman_jax.data.candidates import Candidate
from omnihuman_jax.data.records import Example
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import TEMPORAL
from omnihuman_jax.models import mini, umt5, wav2vec2
from omnihuman_jax.models.building import FLOAT32, Precision
from omnihuman_jax.models.directory import ModelDirectory

BFLOAT = np.dtype(ml_dtypes.bfloat16)
NETWORKS = ("vae", "text_encoder", "audio_encoder")  # whose outputs are stored
PRECISIONS = {"float32": FLOAT32, "bfloat16": Precision(jnp.bfloat16, jnp.bfloat16)}
LARGEST = 2**28  # bytes of one activation while a clip is encoded


def fingerprints(model: ModelDirectory) -> dict[str, str]:
    """What tells the encoders of one model from those of another: sha256 of config and weights.

    Weights that were converted are known by the sha256 of the files they came from; others are read.
    """
    return {name: _fingerprint(model, name) for name in NETWORKS if name in model.manifest.configs}


def _fingerprint(model: ModelDirectory, name: str) -> str:
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        digest.update(json.dumps(value, sort_keys=True).encode())

    add(dataclasses.asdict(model.config(name)))
    provenance = model.manifest.provenance
    sources = [f["sha256"] for f in provenance.get("files", ()) if f.get("network") == name]
    if provenance.get("untrained"):
        add("untrained")
        return f"untrained:{digest.hexdigest()[:16]}"
    if sources:
        add(sorted(sources))
    else:
        folder = model.folder(name)
        for file in storage.files(folder):
            add(file)
            digest.update(storage.read_bytes(storage.join(folder, file)))
    return f"sha256:{digest.hexdigest()[:16]}"


@functools.cache
def encoder(model: str, precision: str = "float32", batch: int = 4) -> "Encoder":
    """The encoder of a model by name or path, once a process: Beam asks for it in every worker."""
    if precision not in PRECISIONS:
        raise InputError(f"--precision is one of {', '.join(PRECISIONS)}, got {precision}.")
    return Encoder(mini.find(model), PRECISIONS[precision], batch)


class Encoder:
    """Candidates to examples. Every clip's numbers are the same whatever batch it comes in.

    Args:
        precision: of the text and audio encoder; the VAE always computes in float32, as Wan's.
        batch: clips encoded at a time; the last batch is filled up, so one program serves all.
    """

    def __init__(self, model: ModelDirectory, precision: Precision, batch: int) -> None:
        if batch < 1:
            raise InputError(f"A batch has at least one clip, got {batch}.")
        self.model, self.precision, self.batch = model, precision, batch
        for name in NETWORKS:
            model.config(name)  # says which is missing
        self.text_length = (
            model.config("dit").text_length if "dit" in model.manifest.configs else 512
        )

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return self.model.tokenizer()

    @functools.cached_property
    def _networks(self) -> Mapping[str, Any]:
        return {
            name: self.model.load(name, FLOAT32 if name == "vae" else self.precision)
            for name in NETWORKS
        }

    def __call__(self, candidates: Sequence[Candidate]) -> list[Example]:
        """The examples of the candidates, in their order."""
        made: dict[int, Example] = {}
        by_grid: dict[Any, list[int]] = {}
        for place, candidate in enumerate(candidates):
            by_grid.setdefault(candidate.grid, []).append(place)
        for places in by_grid.values():
            for start in range(0, len(places), self.batch):
                part = places[start : start + self.batch]
                made.update(zip(part, self._encode([candidates[i] for i in part]), strict=True))
        return [made[i] for i in range(len(candidates))]

    def _encode(self, candidates: list[Candidate]) -> list[Example]:
        filled = candidates + candidates[-1:] * (self.batch - len(candidates))
        latents = self._latents(np.stack([c.frames for c in filled]))
        references = self._latents(np.stack([c.reference[None] for c in filled]))
        texts = self._texts([c.text for c in filled])
        return [
            Example(
                id=c.id,
                source=c.source,
                text=c.text,
                latents=latents[i],
                reference=references[i],
                text_features=texts[i],
                audio_features=self._sound(c),
                pose=None if c.pose is None else c.pose.astype(np.float16),
                fps=c.fps,
                frames=c.grid.frames,
                height=c.grid.height,
                width=c.grid.width,
                teaches=c.teaches,
                scores=dict(c.scores),
            )
            for i, c in enumerate(candidates)
        ]

    def _latents(self, frames: UInt8[np.ndarray, "B F Y X 3"]) -> np.ndarray:
        """bfloat16 "B T H W C", in pieces of few enough frames for memory."""
        graph, params = nnx.split(self._networks["vae"])
        width = self.model.config("vae").dim
        parts, cache = [], None
        for piece in _pieces(frames, width):
            moments, cache = _encode_step(graph, params, piece, cache)
            parts.append(np.asarray(moments))
        made = np.concatenate(parts, axis=1)
        if not np.isfinite(made).all():
            raise FloatingPointError("The VAE made latents that are not finite numbers.")
        return made.astype(BFLOAT)

    def _texts(self, texts: list[str]) -> list[np.ndarray | None]:
        encoder = self._networks["text_encoder"]
        features = umt5.text_features(encoder, self._tokenizer, texts, self.text_length)
        _, lengths = self._tokenizer.encode(texts, self.text_length)
        cut = [np.asarray(f)[:n].astype(BFLOAT) for f, n in zip(features, lengths, strict=True)]
        return [f if text else None for f, text in zip(cut, texts, strict=True)]

    def _sound(self, candidate: Candidate) -> np.ndarray | None:
        """bfloat16 "F layers A"; the sound before and after the clip is heard and then left away."""
        if candidate.sound is None:
            return None
        heard = wav2vec2.encode_long(self._networks["audio_encoder"], candidate.sound[None])
        start = candidate.lead / wav2vec2.SAMPLE_RATE
        features = wav2vec2.resample(heard, candidate.grid.frames, candidate.fps, start)[0]
        return np.asarray(features).astype(BFLOAT)


def _pieces(frames: UInt8[np.ndarray, "B F Y X 3"], width: int) -> Iterator[np.ndarray]:
    """The first frame, then the others by as many as memory allows, evenly."""
    batch, count, height, columns, _ = frames.shape
    yield frames[:, :1]
    most = max(1, LARGEST // (batch * height * columns * width * 4 * TEMPORAL))
    left = (count - 1) // TEMPORAL
    step = next((n for n in range(most, 0, -1) if left % n == 0), 1) * TEMPORAL
    for start in range(1, count, step):
        yield frames[:, start : start + step]


@functools.partial(jax.jit, static_argnums=0)
def _encode_step(
    graph: Any, params: Any, frames: Array, cache: Any
) -> tuple[Float[Array, "B T H W C"], Any]:
    pixels = frames.astype(jnp.float32) / 127.5 - 1
    return nnx.merge(graph, params).encode_step(pixels, cache)
