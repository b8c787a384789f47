"""The only place that knows what all distillations have in common: a teacher, and what a student is for.

A student is a transformer that jumps from noise to data: x0 = x - t v(x, t) at any t, and z - v(z, 1) in one
step (Seaweed-APT, arXiv 2501.08316, eq. 3 to 5).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from omnihuman_jax.attention import shared_by
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.diffusion import flow, guidance
from omnihuman_jax.errors import InputError
from omnihuman_jax.inference.denoising import joined
from omnihuman_jax.inference.remembered import remembered
from omnihuman_jax.models import umt5
from omnihuman_jax.models.building import PRECISIONS, Precision, flat
from omnihuman_jax.models.discriminator import Discriminator
from omnihuman_jax.models.mini import find
from omnihuman_jax.training import networks, parts
from omnihuman_jax.training.stages import OmniStage
from omnihuman_jax.training.task import Loss, Params, Trainee, Turn, tally
from omnihuman_jax.training.transformer import TransformerTask, check, cost, network

STUDENT, TEACHER, CRITIC, FAKE = "student", "teacher", "critic", "fake"
NEGATIVE = "negative/text"  # features of the negative prompt, beside the parameters

Given = Mapping[str, Any]  # parameters of all parts, and what stands beside them
Network = Any  # an OmniHumanDiT, or in tests what stands for one


@dataclass(frozen=True, kw_only=True)
class Distillation(TransformerTask):
    """Settings of any distillation. `model` is the teacher.

    Attributes:
        student: the model directory where the student's transformer starts; None: where the phase before
            ended, and in the first phase the teacher.
        guidance: scale of text in the teacher's velocity, against one fixed negative prompt: 7.5 in
            Seaweed-APT, section 3.1 ("constant CFG 7.5"). The prompt is the model's (`negative_text` of its
            sampling), or no text.
        audio_guidance: scale of the sound; None: as of text, both together (LiveTalk, research/papers.md
            3.7, found high guidance of the teacher to matter more than the loss).
        shift: of the sampler that students are for (`diffusion.samplers.Consistency`): the second of two
            steps begins at t = shift / (1 + shift). rCM's is at 0.78 (research/papers.md 3.6), 3 gives 0.75.
        steps: 1 or 2, the sampling default of the model that is written.
        second: share of the samples that are trained on that second step, from what the student itself
            made in the first.
    """

    student: str | None = None
    guidance: float = 7.5
    audio_guidance: float | None = None
    shift: float = 3.0
    steps: int = 1
    second: float = 0.0

    def __post_init__(self) -> None:
        if self.steps not in (1, 2) or not 0 <= self.second <= 1:
            raise InputError(
                f"A student is for 1 or 2 steps and trains the second with a share of 0 to 1; got "
                f"steps={self.steps} second={self.second:g}."
            )

    def turns(self, stage: OmniStage) -> Loss | Sequence[Turn]:
        """The losses of a stage, and whose turn it is."""
        raise NotImplementedError

    def roles(self) -> tuple[str, ...]:
        """The networks there are, those that are trained first."""
        raise NotImplementedError

    @property
    def second_at(self) -> float:
        """The flow time at which the second of two steps begins."""
        return float(flow.shift(np.full(1, 0.5), self.shift)[0])

    def prepare(self, stages: Sequence[OmniStage], mesh: Mesh, seed: int) -> Trainee:
        """Ready to train.

        Raises:
            InputError: no such model or records, or a stage with a condition the network cannot take.
        """
        config = self.sizes()
        for stage in stages:
            check(stage, config)
        return Trainee(
            shapes=self.shapes(mesh),
            init=functools.partial(self.initial, mesh, seed),
            losses={stage.name: self.turns(stage) for stage in stages},
            stream=functools.partial(self.stream, seed),
            cost=lambda batch: cost(config, getattr(batch, "batch", batch)),
            export=self._export,
            parts=tuple(role for role in self.roles() if role != TEACHER),
        )

    def make(self, role: str) -> Callable[[Any], Any]:
        """What builds the network of that role."""
        if role == TEACHER:  # it is never trained
            frozen = Precision(jnp.dtype(self.compute), jnp.dtype(self.compute))
            return functools.partial(network, self.sizes(), frozen, "none")
        if role == CRITIC:
            return lambda rngs: Discriminator(
                self.sizes(), self.precision, rngs=rngs, remat=self.remat
            )
        return functools.partial(network, self.sizes(), self.precision, self.remat)

    def shapes(self, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape, dtype and place of every parameter of every network, and of the negative prompt."""
        found: dict[str, jax.ShapeDtypeStruct] = {}
        for role in self.roles():
            found |= parts.under(role, networks.shapes(self.make(role), mesh))
        if TEACHER in self.roles() and self._has_negative():
            config = self.sizes()
            found[NEGATIVE] = jax.ShapeDtypeStruct(
                (config.text_length, config.text_width),
                jnp.float32,
                sharding=NamedSharding(mesh, PartitionSpec()),
            )
        return found

    def rebuilt(self, role: str, given: Given) -> Any:
        """The network of that role with its parameters."""
        return networks.rebuilt(self.make(role), parts.own(role, given))

    def teach(
        self,
        given: Given,
        conditions: Conditions,
        x: Float[Array, "B T H W C"],
        t: Float[Array, "B"],
    ) -> Float[Array, "B T H W C"]:
        """The teacher's guided velocity, which has no gradient."""
        teacher = self.rebuilt(TEACHER, given)
        audio = self.guidance if self.audio_guidance is None else self.audio_guidance
        scales = guidance.Guidance(
            text=guidance.Constant(self.guidance), audio=guidance.Constant(audio)
        )
        plan = scales.plan(conditions.given(), np.zeros(1), np.zeros(1))
        negative = given.get(NEGATIVE)
        if negative is not None:
            negative = jnp.broadcast_to(negative[None], (x.shape[0], *negative.shape))
        found = []
        for dropped in plan.passes:
            seen = joined(conditions, negative, (dropped,))
            found.append(self.velocity(teacher, seen, x, t))
        return jax.lax.stop_gradient(guidance.mix(found, plan.weights[0]))

    def velocity(
        self,
        dit: Network,
        conditions: Conditions,
        x: Float[Array, "B T H W C"],
        t: Float[Array, "B"],
    ) -> Float[Array, "B T H W C"]:
        """What a transformer says under conditions."""
        clips, _, height, width, _ = x.shape
        with shared_by(self.sharing):
            return dit(x, t, dit.embed(conditions, clips, height, width))

    def made(
        self,
        student: Network,
        conditions: Conditions,
        noise: Float[Array, "B T H W C"],
        key: PRNGKeyArray,
        sample: UInt32[Array, "B"],
    ) -> Float[Array, "B T H W C"]:
        """What the student makes of noise in one step; of some samples the second step's, from its own first.

        Gradients go through the last step alone (research/papers.md 3.6).
        """
        clips = noise.shape[0]
        once = jnp.ones((clips,), jnp.float32)
        if not self.second:
            return flow.data_from(noise, self.velocity(student, conditions, noise, once), once)
        fixed = jax.lax.stop_gradient(self.velocity(student, conditions, noise, once))

        def one(s: UInt32[Array, ""]) -> tuple[Array, Array]:
            of_share, of_noise = jax.random.split(jax.random.fold_in(key, s))
            again = jax.random.normal(of_noise, noise.shape[1:], jnp.float32)
            return jax.random.uniform(of_share) < self.second, again

        twice, again = jax.vmap(one)(sample)
        t = jnp.where(twice, self.second_at, 1.0)
        back = flow.interpolate(flow.data_from(noise, fixed, once), again, t)
        start = jnp.where(twice[:, None, None, None, None], back, noise)
        return flow.data_from(start, self.velocity(student, conditions, start, t), t)

    def initial(self, mesh: Mesh, seed: int, only: Sequence[str] | None = None) -> Params:
        """The parameters at the start of all networks, or of those roles `only`, and the negative prompt."""
        found: dict[str, Any] = {}
        for role in self.roles() if only is None else only:
            found |= parts.under(role, self._role(role, mesh, seed))
        if TEACHER in self.roles() and self._negative_text() is not None:
            where = NamedSharding(mesh, PartitionSpec())
            features = self._negative()
            found[NEGATIVE] = jax.make_array_from_callback(
                features.shape, where, lambda index: features[index]
            )
        return found

    def _role(self, role: str, mesh: Mesh, seed: int) -> Params:
        """The parameters a network starts with: the student's its own, all others the teacher's."""
        source = self.student if role == STUDENT and self.student is not None else self.model
        kept = jnp.dtype(self.compute) if role == TEACHER else jnp.float32
        precision = Precision(kept, jnp.dtype(self.compute))
        loaded = find(source).load("dit", precision, mesh, config=self.network, seed=seed)
        params = flat(loaded)
        if role != CRITIC:
            return params
        make = self.make(CRITIC)
        wanted = networks.shapes(make, mesh)
        trunk = {path: v for path, v in parts.under("trunk", params).items() if path in wanted}
        return trunk | networks.initial(
            make, mesh, seed, only=lambda path: not path.startswith("trunk/")
        )

    def _has_negative(self) -> bool:
        try:
            return self._negative_text() is not None
        except InputError:  # a plan may be made before there is a model, and Wan's have one
            return True

    def _negative_text(self) -> str | None:
        model = find(self.model)
        return model.manifest.sampling.get("negative_text") if model.manifest.tokenizer else None

    def _negative(self) -> Float[np.ndarray, "S E"]:
        model, text = find(self.model), self._negative_text()
        assert text is not None
        length, precision = self.sizes().text_length, PRECISIONS[self.compute]

        def encode(text: str) -> Float[np.ndarray, "S E"]:
            encoder = model.load("text_encoder", precision)
            return np.asarray(umt5.text_features(encoder, model.tokenizer(), [text], length))[0]

        known = remembered(model, precision, length)
        features = encode(text) if known is None else known(text, encode)
        return np.asarray(features, np.float32)

    def _export(self, path: str, params: Params, provenance: Mapping[str, Any]) -> None:
        sampling = {
            "sampler": "consistency",
            "steps": self.steps,
            "shift": self.shift,
            "guidance": 1.0,
            "audio_guidance": 1.0,
            **self.sampling,
        }
        said = {**provenance, "distilled": type(self).__name__, "teacher": self.model}
        self.write(path, parts.own(STUDENT, params), self.sizes(), said, sampling)


def mean(error: Float[Array, "B T H W C"], weight: Float[Array, "B T 1 1 1"]) -> Float[Array, "B"]:
    """The mean of each clip over what its weight counts."""
    count = jnp.sum(jnp.broadcast_to(weight, error.shape), axis=(1, 2, 3, 4))
    return jnp.sum(error * weight, axis=(1, 2, 3, 4)) / count


def diversity(
    made: Float[Array, "B T H W C"], real: Float[Array, "B T H W C"]
) -> Float[Array, "2"]:
    """A tally of how much clips differ from each other, made ones against real ones; 0 if all are one.

    Of a single clip nothing is told.
    """

    def spread(x: Float[Array, "B T H W C"]) -> Float[Array, ""]:
        return jnp.sqrt(jnp.mean((x - jnp.mean(x, axis=0, keepdims=True)) ** 2))

    ratio = spread(made) / jnp.maximum(spread(real), 1e-6)
    return tally(ratio[None], jnp.full((1,), made.shape[0] > 1))
