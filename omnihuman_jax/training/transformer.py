"""The only place that knows what every training of the transformer has in common: model, records, export."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt32

from omnihuman_jax.attention import Sharing
from omnihuman_jax.conditions import Batch, Conditions
from omnihuman_jax.data.pipeline import Batches, Layout
from omnihuman_jax.data.source import RecordSource
from omnihuman_jax.encoding import fingerprints
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.models import directory
from omnihuman_jax.models.building import Precision, Remat
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT
from omnihuman_jax.models.mini import find
from omnihuman_jax.training import networks, stages
from omnihuman_jax.training.flops import dit_flops
from omnihuman_jax.training.stages import OmniStage, Ratios
from omnihuman_jax.training.task import Cost, Params

MOTION = 2  # latent frames of the 5 pixel frames that a segment hands to the next (section 3.4)
SMALL = 100_000_000  # parameters up to which a model directory is a few plain files


@dataclass(frozen=True, kw_only=True)
class TransformerTask:
    """Settings of any training of the transformer of a model directory, on records that its encoders made.

    Attributes:
        model: the directory, local, gs:// or "mini": its encoders' fingerprints must be those of the
            records, and its transformer is where training starts.
        data: the records; a stage may have its own.
        network: sizes of the transformer, where they are more than the model's (audio and pose added
            to a converted Wan2.1); what is new starts as in a new network.
        compute: dtype of matrix products; parameters and optimizer are float32.
        remat: what the backward pass recomputes, to save memory.
        sharing: how the devices of the context axis share attention ("ulysses", "ring", "both",
            "everywhere"); None for the rule of attention/sharded.py.
        sampling: changes of the sampling defaults in the model directory that is written.
    """

    model: str
    data: str
    network: DiTConfig | None = None
    compute: Literal["bfloat16", "float32"] = "bfloat16"
    remat: Remat = "full"
    sharing: Sharing | None = None
    prefetch_gib: float = 2.0
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def precision(self) -> Precision:
        """What is trained: float32 parameters."""
        return Precision(jnp.float32, jnp.dtype(self.compute))

    def sizes(self) -> DiTConfig:
        """The transformer's."""
        return self.network or find(self.model).config("dit")

    def stream(self, seed: int, stage: OmniStage) -> Batches:
        """The batches of a stage."""
        config, prints = self.sizes(), fingerprints(find(self.model))
        ratios, audio, pose = stage.ratios, config.audio, config.pose
        layout = Layout(
            channels=config.channels,
            reference=ratios.reference > 0,
            text=(config.text_length, config.text_width) if ratios.text > 0 else None,
            audio=(audio.layers, audio.width) if audio is not None and ratios.audio > 0 else None,
            joints=pose.joints if pose is not None and ratios.pose > 0 else None,
        )
        wanted = {"vae": prints["vae"]} if "vae" in prints else {}
        if layout.text and "text_encoder" in prints:
            wanted["text_encoder"] = prints["text_encoder"]
        if layout.audio and "audio_encoder" in prints:
            wanted["audio_encoder"] = prints["audio_encoder"]
        return Batches(
            RecordSource(stage.data or self.data),
            layout,
            batch=stage.batch,
            seed=seed,
            mix=ratios.mix(),
            host=jax.process_index(),
            hosts=jax.process_count(),
            fingerprints=wanted,
            prefetch_bytes=int(self.prefetch_gib * 2**30),
        )

    def write(
        self,
        path: str,
        params: Params,
        config: DiTConfig,
        provenance: Mapping[str, Any],
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        """A model directory with this transformer, and all else as in the model; `sampling` as there."""
        make = functools.partial(network, config, Precision(), "none")
        size = sum(value.size for value in params.values())
        directory.replace(
            find(self.model),
            path,
            {"dit": networks.rebuilt(make, params)},
            weights="safetensors" if size <= SMALL else "orbax",
            provenance=provenance,
            sampling=self.sampling if sampling is None else sampling,
        )


def network(config: DiTConfig, precision: Precision, remat: Remat, rngs: nnx.Rngs) -> OmniHumanDiT:
    """A new transformer."""
    return OmniHumanDiT(config, precision, rngs=rngs, remat=remat)


def given(batch: Batch, ratios: Ratios, key: PRNGKeyArray) -> tuple[Conditions, Bool[Array, "B"]]:
    """The conditions that a training step gives, and which clips begin with clean motion frames."""
    x0 = batch.latents.astype(jnp.float32)
    conditions = stages.drop(batch.conditions, ratios, key, batch.sample)
    shown = jnp.zeros((x0.shape[0],), bool)
    if x0.shape[1] > MOTION and ratios.motion > 0:
        shown = stages.chosen(key, batch.sample, "motion", ratios.motion)
        conditions = replace(
            conditions,
            motion=x0[:, :MOTION],
            present={**conditions.present, "motion": shown},
        )
    return conditions, shown


def learned(shown: Bool[Array, "B"], frames: int) -> Float[Array, "B T 1 1 1"]:
    """0 for latent frames that are given clean, whose velocity means nothing; else 1."""
    clean = shown[:, None] & (jnp.arange(frames) < MOTION)[None]
    return 1.0 - clean.astype(jnp.float32)[:, :, None, None, None]


def drawn(
    key: PRNGKeyArray, sample: UInt32[Array, "B"], draw: Any, shape: tuple[int, ...]
) -> tuple[Any, Float[Array, "B *shape"]]:
    """`draw(key)` of each clip, and noise of that shape: functions of the key and the sample alone."""

    def one(s: UInt32[Array, ""]) -> tuple[Any, Array]:
        of_draw, of_noise = jax.random.split(jax.random.fold_in(key, s))
        return draw(of_draw), jax.random.normal(of_noise, shape, jnp.float32)

    return jax.vmap(one)(sample)


def check(stage: OmniStage, config: DiTConfig) -> None:
    """Refuse a stage with a condition that the network cannot take."""
    for name in ("audio", "pose"):
        if getattr(stage.ratios, name) and getattr(config, name) is None:
            raise InputError(
                f"Stage {stage.name!r} trains {name}, and the network has no {name} input; give "
                f"task.network one, or {name}=0."
            )


def cost(config: DiTConfig, batch: Batch) -> Cost:
    """Of one forward and backward pass of the transformer over a batch."""
    clips, frames, height, width, _ = batch.latents.shape
    grid = Grid(4 * frames - 3, 8 * height, 8 * width)
    have: Any = batch.conditions.given()
    flops = dit_flops(
        config, grid, reference="reference" in have, audio="audio" in have, pose="pose" in have
    ).training
    return Cost(clips, clips * grid.tokens, clips * flops)
