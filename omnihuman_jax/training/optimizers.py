"""The only place that makes an optimizer of settings: its kind, its parameters, where its state lies."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int
from optax import contrib

from omnihuman_jax.errors import InputError
from omnihuman_jax.training import patterns, schedules
from omnihuman_jax.training.schedules import Shape

Kind = Literal["adamw", "adafactor", "muon", "rmsprop"]
KINDS: tuple[str, ...] = get_args(Kind)
STACKED = "blocks"  # parameters below it have a leading axis, the layer
EDGES = ("head", "patch", "pose_embedding", "text_in", "encoder/conv_in", "decoder/conv_out",
         "to_moments", "from_latents")  # in and out of a network: not Muon's  # fmt: skip

Shapes = Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What moves the parameters. Defaults are OmniHuman-1's (v3 notes, research/papers.md 1.4).

    Attributes:
        kind: "adamw" (Loshchilov and Hutter, arXiv 1711.05101): two numbers a parameter; "adafactor"
            (Shazeer and Stern, arXiv 1804.04235): rows and columns of second moments only; "muon"
            (Jordan et al. 2024; Liu et al., arXiv 2502.16982): one number a parameter of a matrix,
            whose update is made orthogonal, a layer at a time, and AdamW for all that is no matrix.
            A convolution is the matrix from all it sees to its channels (Jordan 2024, "Muon"). "rmsprop"
            (Tieleman and Hinton, 2012): second moments alone, with `beta2`, as torch has it.
        schedule, warmup, decay, end: see `schedules.factor`; in updates, of the whole run.
        beta1, beta2, eps: of AdamW; RMSProp's alpha is `beta2` (0.9 in Seaweed-APT, section 3.5).
        momentum: of Muon.
        weight_decay: on matrices and convolutions only, not on biases, norms and tables.
        trainable: patterns of paths that are trained; all others are frozen.
        frozen: patterns of paths that are not, of those.
    """

    kind: Kind = "adamw"
    learning_rate: float = 5e-5
    schedule: Shape = "constant"
    warmup: int = 500
    decay: float = 0.2
    end: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.95
    weight_decay: float = 0.01
    trainable: tuple[str, ...] = ("*",)
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (
            ("kind", self.kind, KINDS),
            ("schedule", self.schedule, schedules.SHAPES),
        ):
            if value not in known:
                raise InputError(f"optimizer.{name} is one of {', '.join(known)}; got {value!r}.")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(
                f"optimizer.learning_rate is a positive number, got {self.learning_rate}."
            )
        for name in ("warmup", "weight_decay", "end", "decay"):
            if not getattr(self, name) >= 0:
                raise InputError(f"optimizer.{name} is 0 or more, got {getattr(self, name)}.")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"optimizer.{name} is from 0 to below 1, got {getattr(self, name)}."
                )

    def make(self, shapes: Shapes, steps: int) -> optax.GradientTransformation:
        """The optimizer of parameters of these shapes, by path, for a run of `steps` updates."""
        rate = self._schedule(steps)
        if self.kind == "adafactor":
            return optax.adafactor(
                rate,
                multiply_by_parameter_scale=False,  # so that the rate means what AdamW's means
                weight_decay_rate=None,
                min_dim_size_to_factor=32,
            )
        if self.kind == "rmsprop":
            return optax.chain(
                optax.scale_by_rms(decay=self.beta2, eps=self.eps, eps_in_sqrt=False),
                optax.add_decayed_weights(self.weight_decay, mask=_decayed),
                optax.scale_by_learning_rate(rate),
            )
        adam = optax.adamw(
            rate,
            b1=self.beta1,
            b2=self.beta2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            mask=_decayed,
        )
        if self.kind == "adamw":
            return adam
        chosen = {path: matrix(path, shape.shape) for path, shape in shapes.items()}
        labels = {path: "muon" if yes else "adam" for path, yes in chosen.items()}
        return optax.multi_transform({"muon": self._muon(rate), "adam": adam}, labels)

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of update `step`, counted from 0, of `steps`."""
        return float(self._schedule(steps)(step))

    def trains(self, path: str) -> bool:
        """Whether this parameter is trained."""
        return patterns.matches(path, self.trainable) and not patterns.matches(path, self.frozen)

    def _schedule(self, steps: int) -> Callable[[Any], Float[Array, ""]]:
        def rate(update: Int[Array, ""] | int) -> Float[Array, ""]:
            return self.learning_rate * schedules.factor(
                self.schedule, update, steps, warmup=self.warmup, decay=self.decay, end=self.end
            )

        return rate

    def _muon(self, rate: Callable[[Any], Float[Array, ""]]) -> optax.GradientTransformation:
        """Orthogonal updates, as long as AdamW's usually are (arXiv 2502.16982, section 2.2: 0.2)."""

        def axes(params: Any) -> Any:
            return jax.tree_util.tree_map_with_path(lambda path, p: _axes(path[-1].key, p), params)

        return optax.chain(
            contrib.scale_by_muon(beta=self.momentum, weight_dimension_numbers=axes),
            optax.stateless(_even),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(rate),
        )


def split(
    optimizer: Optimizer, shapes: Shapes, trains: Callable[[str], bool] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters that are trained, and those that are frozen.

    Args:
        trains: the task's own choice, by path; the optimizer's is made among those. None: all.

    Raises:
        InputError: a pattern that fits no parameter.
    """
    for patterns_ in (optimizer.trainable, optimizer.frozen):
        patterns.select(patterns_, shapes, "parameters")
    trained = {
        path: shape
        for path, shape in shapes.items()
        if optimizer.trains(path) and (trains is None or trains(path))
    }
    return trained, {path: shape for path, shape in shapes.items() if path not in trained}


def state_shapes(transform: optax.GradientTransformation, shapes: Shapes) -> Any:
    """Shape, dtype and place of everything in the optimizer's state, for it to be made where it belongs.

    What mirrors a parameter lies as the parameter does, rows and columns of one as theirs do, and all
    else (counters) everywhere.
    """
    mesh = next(iter(shapes.values())).sharding.mesh

    def one(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        keys = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        spec = _spec(leaf.shape, next((shapes[k] for k in reversed(keys) if k in shapes), None))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(one, jax.eval_shape(transform.init, dict(shapes)))


def state_bytes(optimizer: Optimizer, shapes: Shapes) -> int:
    """Bytes of the optimizer's state, all devices together."""
    made = jax.eval_shape(optimizer.make(shapes, 1).init, dict(shapes))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(made))


def decayed(path: str) -> bool:
    """Whether weight decay pulls at this parameter: a matrix or convolution, not a table, norm or bias."""
    return path.rsplit("/", 1)[-1] in ("kernel", "patch_embedding", "pose_embedding")


def matrix(path: str, shape: tuple[int, ...]) -> bool:
    """Whether Muon moves this parameter: a matrix, convolution or stack of matrices, inside the network."""
    inside = not path.startswith(EDGES)
    return path.endswith("/kernel") and len(shape) >= 2 + _stacked(path) and inside


def _stacked(path: str) -> bool:
    return path.startswith(f"{STACKED}/")


def _axes(path: str, param: Any) -> contrib.MuonDimensionNumbers:
    """Which axes of a kernel are summed over, and which one is left."""
    return contrib.MuonDimensionNumbers(tuple(range(int(_stacked(path)) - param.ndim, -1)), -1)


def _even(updates: Any, params: Any = None) -> Any:
    """0.2 sqrt(max(in, out)) times an orthogonal matrix has the root mean square of AdamW's updates."""
    del params

    def longest(path: str, u: Array) -> float:
        return float(max(math.prod(u.shape[int(_stacked(path)) : -1]), u.shape[-1]))

    return jax.tree_util.tree_map_with_path(
        lambda path, u: u * (0.2 * jnp.sqrt(longest(path[-1].key, u))), updates
    )


def _decayed(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: decayed(path[-1].key), params)


def _spec(shape: tuple[int, ...], param: jax.ShapeDtypeStruct | None) -> PartitionSpec:
    """Where an array of the state lies that belongs to `param`."""
    if param is None:
        return PartitionSpec()
    whole = [*param.sharding.spec, *[None] * (len(param.shape) - len(param.sharding.spec))]
    if shape == param.shape:
        return PartitionSpec(*whole)
    if len(shape) == len(param.shape) - 1:
        for axis in range(len(param.shape)):
            if shape == (*param.shape[:axis], *param.shape[axis + 1 :]):
                kept = [*whole[:axis], *whole[axis + 1 :]]
                # Two axes of one size: either could be gone, and a wrong guess only moves bytes.
                return PartitionSpec(*kept)
    return PartitionSpec()
