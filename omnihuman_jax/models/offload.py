"""The only place that knows that weights may wait in the host's memory, for devices that are too small.

The matrices of the transformer's stacked blocks (99.9 % of its bytes) lie in pinned memory of the host;
the scan over the blocks copies one layer's to the device, where all else stays. What the compiler makes of
it (TPU, libtpu 0.0.50.1; `python -m benchmarks.offload_tpu`):

- A scan over host arrays whose body begins with `device_put` becomes asynchronous copies out of the host
  of the layer's part alone. All start where the layer does, and each is waited for just before its
  first use, so that those of the feed-forward layers travel while attention is computed.
- Carrying the next layer's weights along, to copy a whole layer ahead, is worse: the compiler then starts
  the copies at the end of the layer before and waits for them there.
- Vectors cannot be sliced in host memory (the compiler fails on the layout of [layers, 6, width]).
"""

from typing import Any

import jax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from omnihuman_jax.mesh import make_mesh

HOST = "pinned_host"  # JAX's name for memory of the host that devices read by themselves


def waits(path: str) -> bool:
    """Whether this parameter of a network is one that may wait: a matrix of a stacked block."""
    return path.startswith("blocks/") and path.endswith("/kernel")


def waiting(sharding: Any) -> Any:
    """The same place, in the host's memory."""
    if isinstance(sharding, SingleDeviceSharding):
        # JAX's type of an array says where it lies only if a mesh does (0.12.0).
        (device,) = sharding.device_set
        sharding = NamedSharding(make_mesh(devices=[device]), PartitionSpec())
    return sharding.with_memory_kind(HOST)


def fetched(layer: Any) -> Any:
    """A layer's parameters on the device: those that wait in the host's memory are copied."""
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf, jax.memory.Space.Device) if _on_host(leaf) else leaf,
        layer,
    )


def sent(network: Any) -> Any:
    """A network that is on a device, with the parameters that may wait in the host's memory."""
    graph, state = nnx.split(network)
    leaves = []
    for path, leaf in nnx.to_flat_state(state):
        if waits("/".join(map(str, path))):
            array = leaf.get_value()
            leaf = leaf.replace(jax.device_put(array, waiting(array.sharding)))
        leaves.append((path, leaf))
    return nnx.merge(graph, nnx.from_flat_state(leaves))


def _on_host(leaf: Any) -> bool:
    return bool(jax.typeof(leaf).memory_space == jax.memory.Space.Host)
