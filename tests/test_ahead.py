"""Compiling for chips that are not there: a program is counted, and the compiler really asked."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from omnihuman_jax import ahead
from omnihuman_jax import mesh as meshes
from omnihuman_jax.errors import InputError

# A loop of 5 rounds with a gather that hides behind a matrix product and one that nothing hides.
PROGRAM = """HloModule jit_f, is_scheduled=true

%body.1 (p: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %p = (s32[], bf16[8,128]) parameter(0)
  %x = bf16[8,128]{1,0} get-tuple-element(%p), index=1
  %start.1 = (bf16[2,128]{1,0}, bf16[8,128]{1,0}) all-gather-start(%x), dimensions={0}
  %product = bf16[8,128]{1,0} fusion(%x), kind=kOutput, calls=%f, backend_config={"estimated_cycles":"100"}
  %done.1 = bf16[8,128]{1,0} all-gather-done(%start.1)
  %start.2 = (bf16[8,128]{1,0}, bf16[8,128]{1,0}) collective-permute-start(%x)
  %done.2 = bf16[8,128]{1,0} collective-permute-done(%start.2)
  ROOT %t = (s32[], bf16[8,128]{1,0}) tuple(%x, %done.2)
}

%cond.1 (p: (s32[], bf16[8,128])) -> pred[] {
  %p = (s32[], bf16[8,128]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(5)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: bf16[8,128]) -> f32[4] {
  %a = bf16[8,128]{1,0} parameter(0)
  %w = (s32[], bf16[8,128]{1,0}) while(%a), condition=%cond.1, body=%body.1
  %s = f32[4]{0} fusion(%a), kind=kLoop, calls=%g, backend_config={"estimated_cycles":"7"}
  ROOT %sum = f32[4]{0} all-reduce(%s), to_apply=%add
}
"""


def test_loops_count_as_often_as_they_run_and_what_nothing_hides_is_exposed():
    found = ahead.collectives(PROGRAM)
    gather, permute, reduce = (
        found[kind] for kind in ("all-gather", "collective-permute", "all-reduce")
    )
    assert gather == ahead.Traffic(5, 5 * 8 * 128 * 2, 0, 0)
    assert permute == ahead.Traffic(5, 5 * 8 * 128 * 2, 5, 5 * 8 * 128 * 2)
    assert reduce == ahead.Traffic(1, 16, 1, 16)
    assert set(found) == {"all-gather", "collective-permute", "all-reduce"}
    assert ahead.cycles(PROGRAM) == 5 * 100 + 7


def test_an_unknown_slice_names_those_that_are_known():
    with pytest.raises(InputError, match=r"no TPU slice v9-8 .* v5p-256"):
        ahead.devices("v9-8")


@pytest.mark.slow
@pytest.mark.parametrize("name, count", [("v4-8", 4), ("v5p-8", 4), ("v6e-8", 8), ("v5e:2x2", 4)])
def test_the_compiler_says_what_a_sharded_program_needs(name, count):
    """A scan of 3 layers whose weights are split over all devices: each gathers one layer at a time."""
    pytest.importorskip("libtpu")
    devices = ahead.devices(name)
    assert len(devices) == count
    mesh = meshes.make_mesh(devices=devices)
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    x = jax.ShapeDtypeStruct((1024, 512), jnp.bfloat16, sharding=rows)
    w = jax.ShapeDtypeStruct(
        (3, 512, 512), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    )

    def f(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    with jax.set_mesh(mesh):
        said = ahead.compiled(f, x, w, out_shardings=rows)
    assert said.arguments >= (x.size + w.size) * 2 // count
    gather = said.traffic["all-gather"]
    assert (gather.count, gather.bytes) == (3, w.size * 2)
    assert said.peak > 0 and said.cycles > 0


@pytest.mark.slow
def test_what_does_not_fit_is_the_compilers_own_error():
    pytest.importorskip("libtpu")
    [device] = ahead.devices("v6e-1")
    mesh = meshes.make_mesh(devices=[device])
    whole = NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((2**17, 2**17), jnp.bfloat16, sharding=whole)  # 34 GB of 32
    with jax.set_mesh(mesh), pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        ahead.compiled(lambda x: x @ x, x)
