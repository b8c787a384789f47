"""The table of omnihuman_jax/attention/tiles.py, made by asking the compiler: no TPU is needed.

python -m benchmarks.tune_tiles [--chips v4 v5e v5p v6e tpu7x]

Every tile of the search of benchmarks.attention_tpu is compiled for every chip, and the cost of each is
written down: cycles for 1024 x 1024 scores (its docstring says what that leaves out). For a given length
the cheapest is chosen when the program is traced, padding counted. Prints Python to paste.
"""

import argparse
import concurrent.futures
import itertools
import os

from benchmarks.attention_tpu import CHIPS, SIZES, VMEM_MIB, Speed, ask

PASSES = {"forward": "fwd", "backward": "bwd", "tangent": "tangent"}
SMALL = [(512, 512, 256), (512, 1024, 512)]
KINDS = {
    "v4": "TPU v4",
    "v5e": "TPU v5 lite",
    "v5p": "TPU v5",
    "v6e": "TPU v6 lite",
    "tpu7x": "TPU7x",
}


def row(chip: str, speeds: list[Speed]) -> str:
    """The best way to multiply for every size of tile that is better than all smaller ones."""
    kept: list[Speed] = []
    for speed in sorted(speeds, key=lambda s: (s.area, s.per_score())):
        if not kept or speed.per_score() < 0.99 * min(s.per_score() for s in kept):
            kept.append(speed)
    cost = lambda s: round(s.per_score() * 2**20)
    room = f"{VMEM_MIB[chip] // 3}, {VMEM_MIB[chip]}"
    tiles = [f"({cost(s)}, Tiles({', '.join(map(str, s.tile))}, {room}))" for s in kept]
    return f"({', '.join(tiles)},)"


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
            print(f'        "{pass_}": {row(chip, found[chip, pass_])},')
        print("    },")
    print("}")


if __name__ == "__main__":
    main()
