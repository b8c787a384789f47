"""The only place that knows low-rank adapters: put into a network, merged into its weights, written.

LoRA (Hu et al., arXiv 2106.09685, section 4.1): a linear layer W gains A B of rank r, scaled by alpha / r;
A starts random, B at zero, and only they are trained. The scale by rank is that of the paper.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError
from omnihuman_jax.models.building import SCALE, Linear, param
from omnihuman_jax.models.dit import DiTConfig, torch_rules
from omnihuman_jax.training import patterns
from omnihuman_jax.training.task import Params

SUFFIX = ".lora.safetensors"  # behind the name of the model directory
A, B, KERNEL = "lora_a", "lora_b", "kernel"


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Which linear layers get an adapter, and how large.

    Attributes:
        rank: of A B; memory and what can be learned grow with it.
        alpha: what is learned counts alpha / rank times.
        on: patterns of the kernels that get one; every one of them must fit something.
        whole: patterns of parameters that are trained as they are, beside the adapters: layers that a
            converted Wan2.1 does not have yet (`audio/*`, `blocks/audio_attn/*`), whose start is not
            worth keeping.
    """

    rank: int = 32
    alpha: float = 32.0
    on: tuple[str, ...] = ("blocks/*_attn/*/kernel", "blocks/up/kernel", "blocks/down/kernel")
    whole: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise InputError(
                f"An adapter has a rank of at least 1 and an alpha above 0, got rank={self.rank} "
                f"alpha={self.alpha:g}."
            )

    def trains(self, path: str) -> bool:
        """Whether this parameter is trained: of an adapter, or whole."""
        return of_adapter(path) or patterns.matches(path, self.whole)


def of_adapter(path: str) -> bool:
    """Whether this parameter is one of an adapter's."""
    return path.endswith((f"/{A}", f"/{B}"))


def adapt(network: Any, lora: LoRA, rngs: nnx.Rngs) -> Any:
    """The same network, its chosen linear layers with adapters that change nothing yet.

    A is normal over the root of its inputs; B is zero.

    Raises:
        InputError: a pattern that fits no kernel of a linear layer, or no parameter at all.
    """
    layers = {
        "/".join(map(str, (*path, KERNEL))): module
        for path, module in nnx.iter_graph(network)
        if isinstance(module, Linear)
    }
    chosen = patterns.select(lora.on, layers, "kernels of linear layers")
    everything = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(network))]
    patterns.select(lora.whole, everything, "parameters")
    for path in chosen:
        if not patterns.matches(path, lora.whole):
            _add(layers[path], lora, rngs)
    return network


def _add(layer: Linear, lora: LoRA, rngs: nnx.Rngs) -> None:
    *stack, inputs, outputs = layer.kernel.shape
    source, target = layer.kernel.get_metadata()["axes"]
    spread = nnx.initializers.normal(inputs**-0.5)
    exact = layer.param_precision
    layer.lora_a = param((*stack, inputs, lora.rank), f"{source} _", exact, rngs, spread)
    layer.lora_b = param((*stack, lora.rank, outputs), f"_ {target}", exact, rngs)
    layer.lora_scale = lora.alpha / lora.rank


def merged(params: Params, lora: LoRA) -> Params:
    """The parameters of the plain network that computes the same: W + (alpha / rank) A B, in float32.

    Raises:
        InputError: the weights are in 8 bits, which have no room for the sum.
    """
    if odd := [path for path in params if path.endswith(KERNEL + SCALE)]:
        raise InputError(
            f"An adapter is merged before weights are put into 8 bits, not after ({odd[0]})."
        )
    plain = {path: value for path, value in params.items() if not of_adapter(path)}
    for path in params:
        if path.endswith(f"/{A}"):
            kernel = path.removesuffix(A) + KERNEL
            plain[kernel] = _sum(
                plain[kernel],
                params[path],
                params[path.removesuffix(A) + B],
                lora.alpha / lora.rank,
            )
    return plain


@jax.jit
def _sum(kernel: Any, a: Any, b: Any, scale: Any) -> Any:
    change = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return kernel.astype(jnp.float32) + scale * change


def write(path: str, params: Params, lora: LoRA, config: DiTConfig) -> None:
    """The adapters as a file that the tools around Wan2.1 read (names of ComfyUI and Kohya's trainers).

    For each layer "diffusion_model.NAME.lora_A.weight" (rank, in), ".lora_B.weight" (out, rank) and
    ".alpha". Layers that a plain Wan2.1 does not have keep our names, "/" as dots and the number of the
    layer first, as do parameters trained whole.
    """
    tensors: dict[str, np.ndarray] = {}
    for adapter, name in _names(params, config).items():
        base = adapter.removesuffix(A)
        stacks = "{}" in name
        a, b = (np.asarray(params[base + part], np.float32) for part in (A, B))
        layers = zip(a, b, strict=True) if stacks else [(a, b)]
        for number, (down, up) in enumerate(layers):
            full = f"diffusion_model.{name.format(number)}"
            tensors[f"{full}.lora_A.weight"] = np.ascontiguousarray(down.T)
            tensors[f"{full}.lora_B.weight"] = np.ascontiguousarray(up.T)
            tensors[f"{full}.alpha"] = np.array(lora.alpha, np.float32)
    for name, value in params.items():
        if patterns.matches(name, lora.whole):
            tensors[name] = np.asarray(value, np.float32)
    note = {"rank": str(lora.rank), "alpha": f"{lora.alpha:g}"}
    storage.write_bytes(path, safetensors.numpy.save(tensors, metadata=note))


def _names(params: Mapping[str, Any], config: DiTConfig) -> dict[str, str]:
    """For the A of each adapter the torch name of its layer, "{}" for the number of a stacked one."""
    wan = {
        rule.path.removesuffix(KERNEL): rule.name.removesuffix(".weight")
        for rule in torch_rules(config, "wan")
        if rule.path.endswith(f"/{KERNEL}")
    }
    names = {}
    for path in params:
        if path.endswith(f"/{A}"):
            base = path.removesuffix(A)
            ours = base.rstrip("/").replace("blocks/", "blocks/{}/").replace("/", ".")
            names[path] = wan.get(base, ours)
    return names
