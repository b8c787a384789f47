"""How every network is made: numeric precision, logical axes of parameters, stacked layers."""

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from omnihuman_jax.attention import LSE, OUT
from omnihuman_jax.mesh import shardings
from omnihuman_jax.models import low_precision, offload

Remat = Literal["none", "full", "dots", "attention"]


@dataclass(frozen=True)
class Precision:
    """The two dtypes that are configured; what must be float32 is float32 wherever it stands.

    `linears` is for inference: the linear layers of the transformer's blocks keep their weights in 8 bits
    and multiply in 8 bits (low_precision.py). Networks other than the transformer take no notice of it.
    """

    params: DTypeLike = jnp.float32  # what is stored, and what the optimizer updates
    compute: DTypeLike = jnp.bfloat16  # matmuls and convolutions
    linears: low_precision.Kind | None = None


FLOAT32 = Precision(jnp.float32, jnp.float32)
# What networks run at, by the name that a user gives; training has float32 parameters instead.
PRECISIONS: Mapping[str, Precision] = {
    "float32": FLOAT32,
    "bfloat16": Precision(jnp.bfloat16, jnp.bfloat16),
    "int8": Precision(jnp.bfloat16, jnp.bfloat16, "int8"),
    "float8": Precision(jnp.bfloat16, jnp.bfloat16, "float8"),
}
SCALE = "_scale"  # behind the path of a kernel in 8 bits: its scales


def param(
    shape: tuple[int, ...],
    axes: str,
    precision: Precision,
    rngs: nnx.Rngs,
    init: Callable[..., jax.Array] = nnx.initializers.zeros_init(),
) -> nnx.Param:
    """A parameter with a logical name for each axis (the table is in mesh.py)."""
    return nnx.Param(init(rngs.params(), shape, precision.params), axes=tuple(axes.split()))


class Linear(nnx.Linear):
    """A linear layer that may gain a low-rank adapter (training/lora.py), or weights in 8 bits (`lower`).

    Attributes:
        kernel_scale: "O", of a kernel in 8 bits; None for one that is what it says.
        lora_a, lora_b: "I r" and "r O", or None: the layer then adds lora_scale x A B.
    """

    kernel_scale: Any = None
    lora_a: Any = None
    lora_b: Any = None
    lora_scale: float = 0.0

    @property
    def param_precision(self) -> Precision:
        """That of the layer's own parameters."""
        return Precision(self.param_dtype, self.dtype or self.param_dtype)

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        plain = self.kernel_scale is None
        y = super().__call__(inputs, out_sharding) if plain else self._in_8_bits(inputs)
        if self.lora_a is None:
            return y
        a, b = (part[...].astype(y.dtype) for part in (self.lora_a, self.lora_b))
        return y + self.lora_scale * jnp.matmul(jnp.matmul(inputs.astype(y.dtype), a), b)

    def _in_8_bits(self, inputs: jax.Array) -> jax.Array:
        y = low_precision.product(inputs, self.kernel[...], self.kernel_scale[...])
        if self.bias is not None:
            y = y + jnp.expand_dims(self.bias[...].astype(jnp.float32), range(y.ndim - 1))
        return y.astype(self.param_precision.compute)


def linear(
    inputs: int,
    outputs: int,
    axes: str,
    precision: Precision,
    rngs: nnx.Rngs,
    *,
    bias: bool = True,
    init: Callable[..., jax.Array] | None = None,
) -> Linear:
    """A linear layer; `axes` names its two axes, "embed heads" for instance. `init` is the kernel's."""
    source, target = axes.split()
    return Linear(
        inputs,
        outputs,
        use_bias=bias,
        dtype=precision.compute,
        param_dtype=precision.params,
        kernel_init=nnx.with_metadata(
            init or nnx.initializers.xavier_uniform(), axes=(source, target)
        ),
        bias_init=nnx.with_metadata(nnx.initializers.zeros_init(), axes=(target,)),
        rngs=rngs,
    )


def lower(module: Any, kind: low_precision.Kind) -> None:
    """Keep the kernels of all linear layers of `module` (stacked or not) in 8 bits, for inference."""
    for _, layer in nnx.iter_graph(module):
        if isinstance(layer, Linear):
            codes, scale = low_precision.encode(layer.kernel[...], kind)
            target = layer.kernel.get_metadata()["axes"][-1]
            layer.kernel = cast(Any, layer.kernel.replace(codes))
            layer.kernel_scale = nnx.Param(scale, axes=(target,))


def create(make: Callable[[nnx.Rngs], Any], seed: int = 0, mesh: Mesh | None = None) -> Any:
    """The network that `make` builds, initialised in one compiled program, already sharded on `mesh`."""
    abstract = nnx.eval_shape(lambda: make(nnx.Rngs(seed)))
    graph, state = nnx.split(abstract)
    out = None if mesh is None else shardings(state, mesh)
    return nnx.merge(
        graph, jax.jit(lambda: nnx.split(make(nnx.Rngs(seed)))[1], out_shardings=out)()
    )


def arbitrary(make: Callable[[nnx.Rngs], Any], seed: int = 0) -> Any:
    """The network that `make` builds with arbitrary weights, the same on every machine, at once.

    For an untrained model that only has to run, and for tests: `create` compiles a random generator
    for each parameter, which takes longer than a small network's whole work. Matrices are normal over
    the root of their inputs, and nothing is zero; norms scale by about one.
    """
    abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    params: dict[str, Any] = {}
    for path, leaf in flat(abstract).items():
        if path.endswith(SCALE):
            continue  # comes with its kernel
        random = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(path.encode())]))
        value = random.standard_normal(leaf.shape, np.float32)
        name = path.rsplit("/", 1)[-1]
        if name in ("kernel", "embedding") or "embedding" in name:
            value *= math.prod(leaf.shape[-2:-1]) ** -0.5
        else:
            value = 0.05 * value + (name in ("scale", "weight", "gamma"))
        if kind := low_precision.kind_of(leaf.dtype):
            codes, scale = low_precision.encode(jnp.asarray(value), kind)
            params |= {path: codes, path + SCALE: scale}
        else:
            params[path] = jnp.asarray(value, leaf.dtype)
    return with_params(abstract, params)


def stack(make: Callable[[nnx.Rngs], Any], layers: int, rngs: nnx.Rngs) -> Any:
    """`layers` modules in one: each parameter gains a leading axis, the layer number. Use with `scan`."""

    @nnx.split_rngs(splits=layers)
    @nnx.vmap(in_axes=(0,), out_axes=0, transform_metadata={nnx.PARTITION_NAME: None})
    def create(one: nnx.Rngs) -> Any:
        return make(one)

    return create(rngs)


def scan(
    layers: Any,
    apply: Callable[..., tuple[Any, Any]],
    carry: Any,
    *inputs: Any,
    remat: Remat = "none",
) -> tuple[Any, Any]:
    """Run stacked layers one after another: `carry, output = apply(layer, carry, *inputs_of_layer)`.

    `inputs` are pytrees whose leaves have a leading layer axis. Compiled once for all layers.
    `remat` says what the backward pass recomputes: nothing, everything, all but matmul results, or all
    but the outputs of long attention.
    Parameters that wait in the host's memory are copied a layer at a time (offload.py).
    Returns the last carry and the outputs, stacked on a leading layer axis.
    """
    graph, params = nnx.split(layers)

    def body(carry: Any, given: tuple[Any, ...]) -> tuple[Any, Any]:
        layer = nnx.merge(graph, offload.fetched(given[0]))
        return apply(layer, carry, *given[1:])

    if remat != "none":
        keep = jax.checkpoint_policies
        policies = {
            "full": None,
            "dots": keep.dots_with_no_batch_dims_saveable,
            "attention": keep.save_only_these_names(OUT, LSE),
        }
        body = jax.checkpoint(body, prevent_cse=False, policy=policies[remat])
    return jax.lax.scan(body, carry, (params, *inputs))


def flat(state: Any) -> dict[str, Any]:
    """Parameters by path, "/" between modules: `blocks/self_attn/q/kernel`. Accepts a module too."""
    if isinstance(state, nnx.Module):
        state = nnx.state(state, nnx.Param)
    return {
        "/".join(map(str, path)): leaf[...] if _concrete(leaf) else leaf.get_value()
        for path, leaf in nnx.to_flat_state(state)
    }


def _concrete(leaf: Any) -> bool:
    return isinstance(leaf.get_value(), jax.Array)


def with_params(module: Any, params: dict[str, Any]) -> Any:
    """The same (often abstract) module with every parameter taken from `params`, by path.

    Raises:
        KeyError: a parameter is missing or left over. ValueError: a shape differs.
    """
    graph, state = nnx.split(module, nnx.Param)
    have = {"/".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    if odd := sorted(have.keys() ^ params.keys()):
        raise KeyError(
            f"Parameters missing or left over: {', '.join(odd[:6])} ({len(odd)} in all)."
        )
    leaves = []
    for name, (path, leaf) in have.items():
        if params[name].shape != leaf.shape:
            raise ValueError(
                f"{name} has shape {params[name].shape}, the network needs {leaf.shape}."
            )
        leaves.append((path, leaf.replace(params[name])))
    return nnx.merge(graph, nnx.from_flat_state(leaves))
