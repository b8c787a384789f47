"""A program's text is read for what it does: products, bytes of HBM, kernels, collectives."""

from omnihuman_jax.planning import reading
from omnihuman_jax.planning.compiler import memory
from omnihuman_jax.planning.reading import Kernel, Sent, Work

KEYS = (
    "operand_layout_constraints={s32[1]{0}, bf16[1,2,256,128]{3,2,1,0}, bf16[1,2,512,128]{3,2,1,0}, "
    "bf16[1,2,128,512]{3,2,1,0}}"
)
# A loop of 3 rounds: a product of an array in HBM with one on the chip; one slice of a stack is read, one
# written in place; a kernel behind a condition; a gather that nothing hides. Then a copy.
PROGRAM = (
    """HloModule jit_f, is_scheduled=true

%product (a: bf16[64,32], b: bf16[32,16]) -> bf16[64,16] {
  %a = bf16[64,32]{1,0} parameter(0)
  %b = bf16[32,16]{1,0} parameter(1)
  ROOT %c = bf16[64,16]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}

%sliced (s: f32[8,100], i: s32[]) -> f32[1,100] {
  %s = f32[8,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %one = f32[1,100]{1,0} dynamic-slice(%s, %i), dynamic_slice_sizes={1,100}
}

%changed (s: f32[8,100], u: f32[1,100], i: s32[]) -> f32[8,100] {
  %s = f32[8,100]{1,0} parameter(0)
  %u = f32[1,100]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %new = f32[8,100]{1,0} dynamic-update-slice(%s, %u, %i)
}

%yes (p: bf16[1,2,256,128]) -> bf16[1,2,128,256] {
  %p = bf16[1,2,256,128]{3,2,1,0} parameter(0)
  ROOT %flash_forward.1 = bf16[1,2,128,256]{3,2,1,0} custom-call(%p), TARGET, KEYS, NAMED
}

%no (p: bf16[1,2,256,128]) -> bf16[1,2,128,256] {
  %p = bf16[1,2,256,128]{3,2,1,0} parameter(0)
  ROOT %flash_forward.0 = bf16[1,2,128,256]{3,2,1,0} custom-call(%p), TARGET, KEYS, NAMED
}

%body (t: (s32[], bf16[64,32])) -> (s32[], bf16[64,32]) {
  %t = (s32[], bf16[64,32]{1,0}) parameter(0)
  %x = bf16[64,32]{1,0:T(8,128)} get-tuple-element(%t), index=1
  %w = bf16[32,16]{1,0:T(8,128)S(1)} get-tuple-element(%t), index=1
  %y = bf16[64,16]{1,0:T(8,128)} fusion(%x, %w), kind=kOutput, calls=%product
  %stack = f32[8,100]{1,0} get-tuple-element(%t), index=1
  %i = s32[] get-tuple-element(%t), index=0
  %row = f32[1,100]{1,0:T(1,128)S(1)} fusion(%stack, %i), kind=kLoop, calls=%sliced
  %put = f32[8,100]{1,0} fusion(%stack, %row, %i), kind=kLoop, calls=%changed
  %if = (bf16[1,2]{1,0}) conditional(%i, %t, %t), branch_computations={%no, %yes}
  %all = (bf16[128,32]{1,0:T(8,128)(2,1)}, bf16[8]{0}) all-gather(%x, %x), GROUPS
  ROOT %r = (s32[], bf16[64,32]{1,0}) tuple(%i, %x)
}

%condition (t: (s32[], bf16[64,32])) -> pred[] {
  %t = (s32[], bf16[64,32]{1,0}) parameter(0)
  %n = s32[] constant(3)
  ROOT %lt = pred[] compare(%n, %n), direction=LT
}

ENTRY %main (a: bf16[64,32]) -> bf16[64,32] {
  %a = bf16[64,32]{1,0} parameter(0)
  %loop = (s32[], bf16[64,32]{1,0}) while(%a), condition=%condition, body=%body
  ROOT %copy = bf16[64,32]{0,1} copy(%a)
}
""".replace("NAMED", 'metadata={op_name="flash_forward"}')
    .replace("KEYS", KEYS)
    .replace("TARGET", 'custom_call_target="tpu_custom_call"')
    .replace("GROUPS", "replica_groups=mesh['data'=2,'fsdp'=4] {'data','fsdp'}")
)
REPORT = """Memory Space: default (color=0)
Total bytes: 28400003424 (26.45GiB)
  cumulative_size;       size;       offset; used_by_n_values; shapes_list
  ------------------------------------------------------------
    7.55GiB( 19%);    7.55GiB;   2151694336;                6; bf16[1,4], 5×bf16[40,1,19800]

Memory Space: vmem (color=1)
Total bytes: 134150144 (127.94MiB)
"""


def test_products_and_bytes_of_a_loop_count_as_often_as_it_runs():
    found = reading.read(PROGRAM)
    product = 2.0 * 64 * 16 * 32
    moved = 2 * 64 * 32 + 2 * 64 * 16  # the weights lie on the chip
    assert Work(3, product, moved) in found.work
    assert found.flops == 3 * product
    # One row read; one written, its source on the chip.
    assert Work(6, 0.0, 400 + 4) in found.work
    assert Work(1, 0.0, 2 * 2 * 64 * 32) in found.work


def test_a_kernel_behind_a_condition_counts_once():
    assert reading.read(PROGRAM).kernels == (Kernel(3, "forward", 2, 256, 512, 128),)


def test_a_collective_has_all_of_its_arrays_and_devices():
    assert reading.read(PROGRAM).sent == (Sent(3, "all-gather", 128 * 32 * 2 + 8 * 2, 8, True),)


def test_groups_are_counted_however_they_are_written():
    program = reading._Program(PROGRAM)
    assert program.among("all-reduce(%x), replica_groups=[64,4]<=[256]") == 4
    assert program.among("all-reduce(%x), replica_groups={{0,1,2},{3,4,5}}, to_apply=%f") == 3
    assert program.among("all-reduce(%x), replica_groups=mesh['axis_0'=256] {'axis_0'}") == 256


def test_memory_is_that_of_hbm_and_its_largest_part():
    peak, largest = memory(REPORT)
    assert peak == 28_400_003_424
    assert largest == (int(7.55 * 2**30), "bf16[1,4], 5×bf16[40,1,19800]")
    assert memory("") == (0, None)
