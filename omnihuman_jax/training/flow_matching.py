"""The only place that trains the transformer by flow matching with mixed conditions (OmniHuman-1, 3.3)."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt32

from omnihuman_jax.attention import shared_by
from omnihuman_jax.conditions import STRENGTH, Batch
from omnihuman_jax.diffusion import flow
from omnihuman_jax.models.building import Precision, Remat, flat
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT
from omnihuman_jax.models.mini import find
from omnihuman_jax.training import lora, networks, stages
from omnihuman_jax.training.lora import LoRA
from omnihuman_jax.training.showing import Scene, show
from omnihuman_jax.training.stages import OmniStage
from omnihuman_jax.training.task import Params, Sample, Tallies, Trainee, tally
from omnihuman_jax.training.transformer import (
    TransformerTask,
    check,
    cost,
    drawn,
    given,
    learned,
    network,
)
from omnihuman_jax.training.trial import Trial, evaluated

BINS = 5  # of noise level, for reports


@dataclass(frozen=True, kw_only=True)
class Times:
    """At which noise levels to train: logit-normal, then shifted by the clip's tokens.

    SD3 (arXiv 2403.03206), section 3.1 and eq. 19 and 23; OmniHuman-1 tells neither.

    Attributes:
        shift: right for `at` tokens; shorter clips get less of it (`diffusion.flow.shift_for`).
    """

    mean: float = 0.0
    std: float = 1.0
    shift: float = 3.0
    at: int = 32_760


@dataclass(frozen=True, kw_only=True)
class FlowMatching(TransformerTask):
    """Train the transformer by flow matching.

    Attributes:
        start: "model": from its weights; "new": from nothing.
        lora: adapters that are trained in place of the network's own parameters, which are then kept in
            `compute` (in its blocks) and not in float32. The model directory at the end has them merged
            in; they lie beside it, as model.lora.safetensors.
        lively: extra weight of places that change fast from one latent frame to the next, lips and
            hands, against all that stands still; 0 for none. Ours; the weights of a clip average 1.
        scene: what sample videos show (`watch.sample_every`); None for none.
        trial: what intermediate models are evaluated on (`watch.trial_every`); None for nothing.
    """

    start: Literal["model", "new"] = "model"
    lora: LoRA | None = None
    times: Times = field(default_factory=Times)
    lively: float = 0.0
    scene: Scene | None = None
    trial: Trial | None = None

    def prepare(self, stages: Sequence[OmniStage], mesh: Mesh, seed: int) -> Trainee:
        """Ready to train.

        Raises:
            InputError: no such model or records, or a stage with a condition the network cannot take.
        """
        config = self.sizes()
        make = functools.partial(_network, config, self.precision, self.remat, self.lora)
        for stage in stages:
            check(stage, config)
        return Trainee(
            shapes={path: self._kept(path, s) for path, s in networks.shapes(make, mesh).items()},
            init=functools.partial(self._initial, make, config, mesh, seed),
            losses={s.name: functools.partial(self.loss, make, s) for s in stages},
            stream=functools.partial(self.stream, seed),
            cost=functools.partial(cost, config),
            export=functools.partial(self._export, config),
            trains=self.lora.trains if self.lora is not None else None,
            sample=self._sampler(config),
            trial=self._trier(config),
        )

    def loss(
        self, make: Any, stage: OmniStage, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Tallies]:
        """Weighted squared error of the velocity, a mean over clips."""
        x0 = batch.latents.astype(jnp.float32)
        clips, frames, height, width, _ = x0.shape
        draw, choose = jax.random.split(key)
        conditions, shown = given(batch, stage.ratios, choose)
        t, noise = self._path(stage, x0, draw, batch.sample)
        dit = networks.rebuilt(make, params)
        tokens = dit.embed(conditions, clips, height, width)
        with shared_by(self.sharing):
            velocity = dit(flow.interpolate(x0, noise, t), t, tokens)
        error = jnp.mean((velocity - flow.target(x0, noise)) ** 2, axis=-1)
        weight = liveliness(x0, self.lively) * learned(shown, frames)[..., 0]
        values = jnp.sum(error * weight, axis=(1, 2, 3)) / jnp.sum(
            jnp.broadcast_to(weight, error.shape), axis=(1, 2, 3)
        )
        return jnp.mean(values), _tallies(values, t, conditions.present, shown)

    def _path(
        self,
        stage: OmniStage,
        x0: Float[Array, "B T H W C"],
        key: PRNGKeyArray,
        sample: UInt32[Array, "B"],
    ) -> tuple[Float[Array, "B"], Float[Array, "B T H W C"]]:
        """Time and noise of each clip, a function of the key and the sample alone."""
        shift = stage.shift
        if shift is None:
            _, frames, height, width, _ = x0.shape
            tokens = frames * (height // 2) * (width // 2)
            shift = flow.shift_for(tokens, amount=self.times.shift, at=self.times.at)
        times = flow.LogitNormal(mean=self.times.mean, std=self.times.std, shift=shift)
        return drawn(key, sample, lambda one: times(one, ()), x0.shape[1:])

    def _sampler(self, config: DiTConfig) -> Callable[[Params, int], Sample] | None:
        if (scene := self.scene) is None:
            return None
        model, rebuild = find(self.model), self._rebuild(config)
        return lambda params, step: show(scene, model, config, rebuild, params)

    def _trier(self, config: DiTConfig) -> Callable[[Params, str], Mapping[str, float]] | None:
        if (trial := self.trial) is None:
            return None
        model, rebuild = find(self.model), self._rebuild(config)
        return lambda params, folder: evaluated(trial, model, config, rebuild, params, folder)

    def _rebuild(self, config: DiTConfig) -> Callable[[Params], OmniHumanDiT]:
        make = functools.partial(_network, config, self.precision, "none", self.lora)
        return functools.partial(networks.rebuilt, make)

    def _initial(self, make: Any, config: DiTConfig, mesh: Mesh, seed: int) -> Params:
        if self.start == "new":
            params = networks.initial(make, mesh, seed)
        else:
            model = find(self.model)
            loaded = model.load("dit", self.precision, mesh, config=self.network, seed=seed)
            params = flat(loaded)
            if self.lora is not None:
                params |= networks.initial(make, mesh, seed, only=lora.of_adapter)
        return {path: self._kept(path, value) for path, value in params.items()}

    def _kept(self, path: str, leaf: Any) -> Any:
        """A parameter, or its shape, in the dtype it is kept in: what LoRA freezes in that of `compute`."""
        if self.lora is None or self.lora.trains(path) or not path.startswith("blocks/"):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf.update(dtype=jnp.dtype(self.compute))
        return leaf.astype(self.compute)

    def _export(
        self, config: DiTConfig, path: str, params: Params, provenance: Mapping[str, Any]
    ) -> None:
        if self.lora is not None:
            lora.write(f"{path}{lora.SUFFIX}", params, self.lora, config)
            params = lora.merged(params, self.lora)
        self.write(path, params, config, provenance)


def liveliness(x0: Float[Array, "B T H W C"], extra: float) -> Float[Array, "B 1 H W"]:
    """1 + `extra` times how much more a place changes than the clip's mean, divided by its own mean.

    Change is what a straight line through the frames before and after does not tell: lips and hands, not
    a camera that drifts. At most four times the mean counts. Clips of under three frames weigh alike.
    """
    clips, frames, height, width, _ = x0.shape
    if not extra or frames < 3:
        return jnp.ones((clips, 1, height, width), jnp.float32)
    bend = x0[:, 1:-1] - 0.5 * (x0[:, :-2] + x0[:, 2:])
    change = jnp.sqrt(jnp.mean(bend**2, axis=(1, 4)) + 1e-8)
    relative = change / jnp.mean(change, axis=(1, 2), keepdims=True)
    weight = 1 + extra * jnp.minimum(relative, 4.0)
    return (weight / jnp.mean(weight, axis=(1, 2), keepdims=True))[:, None]


def _tallies(
    values: Float[Array, "B"],
    t: Float[Array, "B"],
    present: Mapping[str, Bool[Array, "B"]],
    shown: Bool[Array, "B"],
) -> Tallies:
    """Loss by what was given and by noise level, and the ratios really met."""
    found = {
        f"loss/given/{name}": tally(values, rows)
        for name, rows in stages.subset(present, len(values)).items()
    }
    level = jnp.minimum((t * BINS).astype(jnp.int32), BINS - 1)
    for i in range(BINS):
        found[f"loss/time/{i / BINS:.1f}-{(i + 1) / BINS:.1f}"] = tally(values, level == i)
    everyone = jnp.ones(values.shape, bool)
    for name in STRENGTH:
        found[f"ratio/{name}"] = tally(present.get(name, ~everyone).astype(jnp.float32))
    found["ratio/motion"] = tally(shown.astype(jnp.float32))
    return found


def _network(
    config: DiTConfig,
    precision: Precision,
    remat: Remat,
    adapters: LoRA | None,
    rngs: nnx.Rngs,
) -> OmniHumanDiT:
    new = network(config, precision, remat, rngs)
    return new if adapters is None else lora.adapt(new, adapters, rngs)
