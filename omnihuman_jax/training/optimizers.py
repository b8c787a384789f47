"""The only place that knows optimizers: their settings, what they update, and where their state lies."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from omnihuman_jax.errors import InputError
from omnihuman_jax.training import schedules
from omnihuman_jax.training.patterns import matches, select
from omnihuman_jax.training.task import Params

Kind = Literal["adamw", "adafactor", "muon"]
Shapes = Mapping[str, jax.ShapeDtypeStruct]
Leaf = TypeVar("Leaf")

EPS = 1e-8
FACTORED_FROM = 128  # rows and columns from which Adafactor factors, as published
# Muon leaves the first and the last layers to Adam (Jordan et al., kellerjordan.github.io/posts/muon).
_ENDS = ("*_in/kernel", "head/kernel", "*embedding")


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How parameters are updated. The defaults are those of OmniHuman-1 (research/papers.md 1.4).

    The paper names AdamW, the learning rate, the decay and the clipping, and no schedule.

    * "adamw": Adam with decoupled decay (Loshchilov and Hutter, arXiv 1711.05101). 8 bytes a parameter.
    * "adafactor": second moments of matrices as a row and a column, no first moments (Shazeer and Stern,
      arXiv 1804.04235). Its step is not scaled by the size of the parameters, so that a learning rate
      means what it means for AdamW; `beta2` is the most that its second moments remember (as Zhai et
      al., arXiv 2106.04560, section 3). Next to no memory.
    * "muon": orthogonalised momentum for matrices, each layer's by itself (Jordan et al.), scaled so that
      learning rate and decay can be AdamW's (Liu et al., arXiv 2502.16982, section 2.2); Adam for the
      rest: convolutions, embeddings, first and last layers, vectors. 4 bytes a parameter of a matrix.

    The decay is on matrices alone (`is_matrix`). State and arithmetic are float32.

    Attributes:
        schedule, warmup, decay, end: `schedules.factor` says what they do; `warmup` counts updates,
            `decay` is the share of the updates in which "wsd" falls, `end` is relative to the rate.
        momentum: of Muon.
        clip: global norm to which the step clips gradients, before any of this.
        trainable, frozen: patterns of paths; what is trained fits the first and not the second.
    """

    kind: Kind = "adamw"
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    clip: float = 1.0
    schedule: schedules.Shape = "constant"
    warmup: int = 0
    decay: float = 0.2
    end: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    momentum: float = 0.95
    trainable: tuple[str, ...] = ("*",)
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, known in (("kind", get_args(Kind)), ("schedule", schedules.SHAPES)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"Optimizer has no {name} {getattr(self, name)!r}; it has {', '.join(known)}."
                )
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be above 0 and finite, got {getattr(self, name)}.")
        if not 0 <= self.weight_decay < math.inf or self.warmup < 0:
            raise InputError(
                "weight_decay and warmup must be 0 or more, "
                f"got {self.weight_decay=} and {self.warmup=}."
            )
        for name, most in (("beta1", "<"), ("beta2", "<"), ("momentum", "<"), ("end", "<=")):
            value = getattr(self, name)
            if not (0 <= value < 1 or (most == "<=" and value == 1)):
                raise InputError(f"{name} must be 0 <= {name} {most} 1, got {value}.")
        if not 0 < self.decay <= 1:
            raise InputError(
                f"decay is the share of updates that wsd falls in, 0 < decay <= 1, got {self.decay}."
            )

    def make(self, shapes: Shapes, steps: int) -> optax.GradientTransformation:
        """The updates of `steps` steps on a flat dict of parameters of these shapes (the trained ones).

        Raises:
            InputError: no parameters, one that is not float32, or fewer steps than the warm-up has.
        """
        self._check_steps(steps)
        if not shapes:
            raise InputError("There is nothing to train: no parameter is left.")
        odd = [path for path, leaf in shapes.items() if leaf.dtype != jnp.float32]
        if odd:
            raise InputError(
                f"The optimizer updates float32 parameters; {odd[0]} is {shapes[odd[0]].dtype} "
                f"({len(odd)} such); load the model with Precision(params=float32)."
            )
        return optax.chain(
            self._direction(shapes),
            optax.add_decayed_weights(self.weight_decay, lambda tree: _chosen(tree, is_matrix)),
            optax.scale_by_learning_rate(lambda count: self.learning_rate_at(count, steps)),
        )

    def learning_rate_at(self, step: Int[Array, ""] | int, steps: int) -> Float[Array, ""]:
        """The learning rate of the update with this number, counted from 0, in a run of `steps`."""
        self._check_steps(steps)
        rate = schedules.factor(
            self.schedule, step, steps, warmup=self.warmup, decay=self.decay, end=self.end
        )
        return self.learning_rate * rate

    def trains(self, path: str) -> bool:
        """Whether the parameter at `path` is trained."""
        return matches(path, self.trainable) and not matches(path, self.frozen)

    def split(self, params: Mapping[str, Leaf]) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
        """What is trained, and what is frozen: of parameters, their shapes, or anything by path.

        Raises:
            InputError: a pattern fits no path, or nothing is left to train.
        """
        select(self.trainable, params, "parameters")
        select(self.frozen, params, "parameters")
        trained = {path: leaf for path, leaf in params.items() if self.trains(path)}
        if not trained:
            raise InputError(
                f"There is nothing to train: {self.frozen=} freezes all {len(params)} parameters."
            )
        return trained, {path: leaf for path, leaf in params.items() if path not in trained}

    def state_bytes(self, shapes: Shapes, *, each: bool = False) -> int:
        """Bytes of the state for parameters of these shapes: in all, or (`each`) on each device."""
        total = 0
        for leaf in jax.tree.leaves(state_shapes(self.make(shapes, self.warmup + 1), shapes)):
            shape = leaf.shape
            if each and leaf.sharding is not None:
                shape = leaf.sharding.shard_shape(shape)
            total += math.prod(shape) * leaf.dtype.itemsize
        return total

    def _check_steps(self, steps: int) -> None:
        if steps <= self.warmup:
            raise InputError(
                f"A warm-up of {self.warmup} updates needs a run of more than that, got {steps=}."
            )

    def _direction(self, shapes: Shapes) -> optax.GradientTransformation:
        adam = optax.scale_by_adam(self.beta1, self.beta2, EPS, mu_dtype=jnp.float32)
        if self.kind == "adamw":
            return adam
        if self.kind == "adafactor":
            return optax.chain(_factored(self.beta2), optax.stateless(_clip_each_layer))
        layers = {path for path, leaf in shapes.items() if is_orthogonal(path, leaf.shape)}
        return _by_path(layers.__contains__, {"muon": self._muon(), "adam": adam})

    def _muon(self) -> optax.GradientTransformation:
        def sizes(tree: Params) -> dict[str, MuonDimensionNumbers]:
            # All other axes, so that of the layers, are batch axes.
            return {p: MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1) for p, leaf in tree.items()}

        def scale(updates: Params, params: Params | None) -> Params:
            # Moonlight's: an orthogonal matrix gets the typical size of an update of Adam.
            return {p: 0.2 * math.sqrt(max(u.shape[-2:])) * u for p, u in updates.items()}

        muon = scale_by_muon(
            beta=self.momentum, eps=EPS, mu_dtype=jnp.float32, weight_dimension_numbers=sizes
        )
        return optax.chain(muon, optax.stateless(scale))


def is_matrix(path: str) -> bool:
    """Whether a parameter maps inputs to outputs, by its name: kernels, embeddings, LoRA's matrices.

    The rest (biases, norms, modulation tables, positions, null conditions) is added or multiplied and
    has no decay: for these zero is no simpler value than any other.
    """
    name = path.rsplit("/", 1)[-1]
    return name in ("kernel", "lora_a", "lora_b") or name.endswith("embedding")


def is_orthogonal(path: str, shape: tuple[int, ...]) -> bool:
    """Whether Muon takes this parameter: a matrix, or a stack of them, in the middle of the network."""
    return is_matrix(path) and len(shape) in (2, 3) and not matches(path, _ENDS)


def state_shapes(optimizer: optax.GradientTransformation, shapes: Shapes) -> Any:
    """The state as ShapeDtypeStructs, sharded as the parameters are; nothing is allocated.

    A leaf of a parameter's shape lies as the parameter does; a row or column of Adafactor's as the axes
    of the parameter that it has; what is left (counts) is on every device. Without shardings in
    `shapes` there are none. To create the state sharded:

        abstract = state_shapes(optimizer, shapes)
        out = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        state = jax.jit(optimizer.init, out_shardings=out)(params)
    """
    known = [leaf.sharding for leaf in shapes.values() if isinstance(leaf.sharding, NamedSharding)]
    abstract = jax.eval_shape(
        optimizer.init,
        {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in shapes.items()},
    )
    if not known:
        return abstract
    everywhere = NamedSharding(known[0].mesh, PartitionSpec())

    def place(keys: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        path = str(getattr(keys[-1], "key", "")) if keys else ""
        sharding = everywhere
        if path in shapes and isinstance(shapes[path].sharding, NamedSharding):
            fields = {str(getattr(key, "name", "")) for key in keys}
            sharding = _mirrored(leaf.shape, shapes[path], fields) or everywhere
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, abstract)


def _mirrored(
    shape: tuple[int, ...], param: jax.ShapeDtypeStruct, fields: set[str]
) -> NamedSharding | None:
    """The sharding of a leaf of the state that belongs to `param`; None if it is nothing like it."""
    sharding: Any = param.sharding
    if shape == param.shape:
        return sharding
    spec = [*sharding.spec, *[None] * (len(param.shape) - len(sharding.spec))]
    largest = np.argsort(param.shape)  # optax sums over the largest axis for a row, the next for a column
    for field, place in (("v_row", -1), ("v_col", -2)):
        if field in fields and len(shape) == len(param.shape) - 1:
            del spec[int(largest[place])]
            return NamedSharding(sharding.mesh, PartitionSpec(*spec))
    return None


def _chosen(tree: Mapping[str, Any], rule: Callable[[str], bool]) -> dict[str, bool]:
    return {path: rule(path) for path in tree}


def _factored(most: float) -> optax.GradientTransformation:
    """Adafactor's direction, with second moments that forget a little for ever."""

    def remembered(count: Any, exponent: Any) -> Float[Array, ""]:
        decay = 1.0 - jnp.asarray(count + 1, jnp.float32) ** (-exponent)
        return jnp.minimum(decay, most)

    return optax.scale_by_factored_rms(
        min_dim_size_to_factor=FACTORED_FROM, decay_rate_fn=remembered
    )


def _clip_each_layer(updates: Params, params: Params | None) -> Params:
    """Adafactor's own clipping, to a root mean square of 1 (section 6), of each stacked layer alone."""

    def clip(path: str, update: Array) -> Array:
        axes = (-2, -1) if is_matrix(path) and update.ndim == 3 else None
        size = jnp.sqrt(jnp.mean(update**2, axis=axes, keepdims=True))
        return update / jnp.maximum(size, 1.0)

    return {path: clip(path, update) for path, update in updates.items()}


def _by_path(
    first: Callable[[str], bool], parts: Mapping[str, optax.GradientTransformation]
) -> optax.GradientTransformation:
    """Two transformations, each of its own parameters; the state is a dict by their names."""
    (one, other), names = parts.values(), tuple(parts)

    def halves(tree: Any) -> tuple[Any, Any]:
        if tree is None:
            return None, None
        return (
            {path: leaf for path, leaf in tree.items() if first(path)},
            {path: leaf for path, leaf in tree.items() if not first(path)},
        )

    def init(params: Any) -> Any:
        ours, theirs = halves(params)
        return {names[0]: one.init(ours), names[1]: other.init(theirs)}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        gradients, values = halves(updates), halves(params)
        ours, first_state = one.update(gradients[0], state[names[0]], values[0])
        theirs, other_state = other.update(gradients[1], state[names[1]], values[1])
        moved = {**ours, **theirs}  # type: ignore[dict-item]
        return {path: moved[path] for path in updates}, dict(
            zip(names, (first_state, other_state), strict=True)
        )

    return optax.GradientTransformation(init, update)
