"""The table of omnihuman_jax/attention/tiles.py, made by asking the compiler: no TPU is needed.

python -m benchmarks.tune_tiles [--chips v4 v5e v5p v6e tpu7x]

Every tile of the search of benchmarks.attention_tpu is compiled for every chip, and the cost of each is
written down: cycles for 1024 x 1024 scores (its docstring says what that leaves out). For a given length
the cheapest is chosen when the program is traced, padding counted. Tiles that do not compile with lengths
and segments, at 75,600 tokens and with either statistic, are left out. Prints Python to paste.
"""

import argparse
import concurrent.futures
import itertools
import os

import jax
import jax.numpy as jnp

from benchmarks.attention_tpu import CHIPS, SIZES, VMEM_MIB, Speed, ask
from omnihuman_jax import ahead
from omnihuman_jax.attention import flash_tpu
from omnihuman_jax.attention.kernel import Mask
from omnihuman_jax.attention.tiles import Tiles

PASSES = {"forward": "fwd", "backward": "bwd", "tangent": "tangent"}
SMALL = [(512, 512, 256), (512, 1024, 512)]
KINDS = {
    "v4": "TPU v4",
    "v5e": "TPU v5 lite",
    "v5p": "TPU v5",
    "v6e": "TPU v6 lite",
    "tpu7x": "TPU7x",
}


def row(chip: str, pass_: str, speeds: list[Speed]) -> str:
    """The best way to multiply for every size of tile that is better than all smaller ones."""
    kept: list[tuple[float, Tiles]] = []
    for speed in sorted(speeds, key=lambda s: (s.area, s.per_score())):
        tile = Tiles(*speed.tile, VMEM_MIB[chip] // 3, VMEM_MIB[chip])
        better = not kept or speed.per_score() < 0.99 * min(cost for cost, _ in kept)
        if better and fits(chip, pass_, tile):
            kept.append((speed.per_score(), tile))
    tiles = [f"({round(cost * 2**20)}, Tiles({', '.join(map(str, t))}))" for cost, t in kept]
    return f"({', '.join(tiles)},)"


def fits(chip: str, pass_: str, tile: Tiles, length: int = 75_600) -> bool:
    """Whether the pass compiles with all masks."""
    device = ahead.devices(CHIPS[chip])[0]
    place = jax.sharding.SingleDeviceSharding(device)

    def aval(*shape: int, dtype: object = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    x, rows = aval(1, length, 2, 128), aval(1, length, dtype=jnp.int32)
    mask = Mask(aval(1, dtype=jnp.int32), (rows, rows))
    lse = aval(1, 2, length, dtype=jnp.float32)
    ours = flash_tpu.kernel(tile, device=device.device_kind)
    runs = {
        "forward": (lambda mask, *qkv: ours.forward(qkv, mask), (x,) * 3),
        "backward": (lambda mask, *a: ours.backward(a[:3], mask, *a[3:]), (x, x, x, x, lse, x)),
        "tangent": (lambda mask, *a: ours.tangent(a[:3], a[3:], mask), (x,) * 6),
    }
    run, arguments = runs[pass_]
    try:
        jax.jit(run).lower(mask, *arguments).compile()
    except jax.errors.JaxRuntimeError as why:
        if "RESOURCE_EXHAUSTED" not in str(why):
            raise
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chips", nargs="+", choices=CHIPS, default=list(CHIPS), metavar="CHIP")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    work = list(itertools.product(args.chips, PASSES))
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        one = lambda job: ask(job[0], "ours", PASSES[job[1]], SMALL + SIZES[PASSES[job[1]]])
        found = dict(zip(work, pool.map(one, work), strict=True))
    print("TABLE = {")
    for chip in args.chips:
        print(f'    "{KINDS[chip]}": {{')
        for pass_ in PASSES:
            print(f'        "{pass_}": {row(chip, pass_, found[chip, pass_])},')
        print("    },")
    print("}")


if __name__ == "__main__":
    main()
