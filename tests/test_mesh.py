"""The same program on one device and on eight gives the same result; axes lie where the table says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from omnihuman_jax.conditions import Conditions
from omnihuman_jax.errors import InputError
from omnihuman_jax.mesh import make_mesh, partition, shardings
from omnihuman_jax.models.building import FLOAT32, arbitrary
from omnihuman_jax.models.conditioner import AudioConfig, PoseConfig
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT


def test_one_size_takes_what_the_others_leave():
    assert dict(make_mesh(tensor=2).shape) == {"data": 1, "fsdp": 4, "context": 1, "tensor": 2}


@pytest.mark.parametrize("sizes", [{"tensor": 3}, {"fsdp": 4}, {"data": -1}])
def test_a_mesh_uses_every_device_exactly(sizes):
    with pytest.raises(InputError, match="8 devices"):
        make_mesh(**sizes)


def test_axes_lie_where_the_table_says():
    mesh = make_mesh(fsdp=4, tensor=2)
    assert partition("embed heads", (48, 48), mesh) == P(("fsdp",), ("tensor",))
    assert partition("embed heads", (6, 48, 48), mesh) == P(None, ("fsdp",), ("tensor",))  # stacked
    assert partition("embed heads", (6, 48), mesh) == P(None, ("tensor",))  # 6 rows do not divide
    assert partition("batch tokens width", (8, 10, 48), mesh) == P(("fsdp",), None, None)
    mesh = make_mesh(data=2, fsdp=2, context=2)
    assert partition("batch tokens width", (4, 10, 48), mesh) == P(
        ("data", "fsdp"), ("context",), None
    )
    assert partition("batch tokens width", (2, 9, 48), mesh) == P(("data",), None, None)
    assert partition("embed heads", (48, 48), mesh) == P(("fsdp", "context"), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [
        {"fsdp": 8},
        {"data": 2, "fsdp": 4},
        {"fsdp": 2, "tensor": 4},
        {"fsdp": 2, "context": 4},
        {"fsdp": 1, "context": 8},
        {"fsdp": 2, "context": 2, "tensor": 2},
    ],
)
def test_sharded_over_eight_devices_the_transformer_computes_the_same(sizes):
    config = DiTConfig.tiny(
        heads=4, audio=AudioConfig(width=6, layers=3, window=3, hidden=16),
        pose=PoseConfig(joints=4, hidden=8, channels=2),
    )  # fmt: skip
    model = arbitrary(lambda rngs: OmniHumanDiT(config, FLOAT32, rngs=rngs))
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    x, t = draw(8, 3, 8, 8, 16), jnp.linspace(0.1, 1, 8)
    given = Conditions(
        text=draw(8, 12, 24), reference=draw(8, 1, 8, 8, 16), audio=draw(8, 9, 3, 6),
        pose=jnp.abs(jnp.tanh(draw(8, 9, 4, 3))),
    )  # fmt: skip

    def run(model, x, t, given):
        return model(x, t, model.embed(given, 8, 8, 8))

    want = jax.jit(run)(model, x, t, given)
    mesh = make_mesh(**sizes)
    graph, state = nnx.split(model)
    with jax.set_mesh(mesh):
        placed = jax.device_put(state, shardings(state, mesh))
        got = jax.jit(run)(nnx.merge(graph, placed), x, t, given)
    if sizes["fsdp"] == 8:
        kernel = nnx.to_pure_dict(placed)["blocks"]["up"]["kernel"]
        assert kernel.addressable_shards[0].data.size * 8 == kernel.size
    # Sums over split axes are added in another order: float32 rounding, through two layers.
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
