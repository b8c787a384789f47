"""What the transformer's forward pass needs on one small chip, its blocks on the chip or in host memory.

python -m benchmarks.offload_tpu [--model 14b] [--chips v5litepod-1 v6e-1] [--size 480x832x81]

One call of the network with text and reference, compiled by the TPU compiler for a chip that is not here;
it is not run. The last line is one JSON object, by chip, precision and where the blocks lie:

- `fits`: whether the compiler finds room; `why` not.
- `chip_gb`: arguments and temporaries on the chip, all at their most: no less than the peak.
- `host_gb`: what lies in the host's memory.
- `copied_s`: the bytes that a call copies over `--link` GB/s, the least that a call takes; arithmetic.
- `overlap`: of the copies of a layer, which share of the layer's estimated cycles pass before each is
  waited for (0: at once). Attention kernels count nothing there, so they hide more than it says.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from omnihuman_jax import ahead
from omnihuman_jax import mesh as meshes
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.models import offload
from omnihuman_jax.models.building import PRECISIONS
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT

MODELS = {"14b": DiTConfig.large(), "1.3b": DiTConfig()}
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


def ask(config: DiTConfig, chip: str, name: str, grid: Grid, hosted: bool, link: float) -> Any:
    """One call on one chip."""
    mesh = meshes.make_mesh(devices=ahead.devices(chip)[:1])
    precision = PRECISIONS[name]
    place = NamedSharding(mesh, PartitionSpec())
    _, height, width = grid.latent_shape

    def some(shape: Sequence[int], dtype: Any, where: Any = place) -> Any:
        return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=where)

    with jax.set_mesh(mesh):
        made = nnx.eval_shape(lambda: OmniHumanDiT(config, precision, rngs=nnx.Rngs(0)))
        graph, state = nnx.split(made)
        leaves = []
        for path, leaf in nnx.to_flat_state(state):
            waits = hosted and offload.waits("/".join(map(str, path)))
            where = offload.waiting(place) if waits else place
            leaves.append((path, leaf.replace(some(leaf.shape, leaf.dtype, where))))
        params = nnx.from_flat_state(leaves)

        def call(params: Any, x: Any, t: Any, text: Any, reference: Any) -> Any:
            dit = nnx.merge(graph, params)
            given = Conditions(text=text, reference=reference)
            return dit(x, t, dit.recall(dit.embed(given, 1, height, width)))

        arguments = (
            params,
            some((1, *grid.latent_shape, config.channels), jnp.float32),
            some((1,), jnp.float32),
            some((1, config.text_length, config.text_width), precision.compute),
            some((1, 1, height, width, config.channels), precision.compute),
        )
        try:
            program = jax.jit(call).lower(*arguments).compile()
        except jax.errors.JaxRuntimeError as why:
            if "RESOURCE_EXHAUSTED" not in str(why):
                raise
            return {"fits": False, "why": str(why).splitlines()[0][:200]}
    memory: Any = program.memory_analysis()
    copied = sum(
        leaf.size * leaf.dtype.itemsize
        for path, leaf in nnx.to_flat_state(params)
        if hosted and offload.waits("/".join(map(str, path)))
    )
    return {
        "fits": True,
        "chip_gb": round((memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9, 2),
        "host_gb": round(memory.host_argument_size_in_bytes / 1e9, 5),
        "copied_s": round(copied / link / 1e9, 3),
        "overlap": overlap(str(program.as_text())),
    }


def overlap(text: str) -> list[float]:
    """Of the loop with the most copies: when in its body each copy out of the host is waited for."""
    found: list[list[float]] = []
    spent, waits = 0, [0]
    for line in text.splitlines():
        if re.match(r"^(?:ENTRY )?%?[\w.\-]+ .*\{$", line):
            spent, waits = 0, []
        spent += sum(map(int, _CYCLES.findall(line)))
        if " dynamic-slice-done(" in line:
            waits.append(spent)
        if line.lstrip().startswith("ROOT") and spent:
            found.append([round(wait / spent, 2) for wait in waits])
    return max(found, key=len, default=[])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", choices=MODELS, default="14b", help="(default: 14b)")
    add("--chips", nargs="+", default=["v5litepod-1", "v6e-1"], metavar="SLICE",
        help="(default: v5litepod-1, which has 16 GB, and v6e-1, which has 32)")  # fmt: skip
    add("--size", default="480x832x81", metavar="HxWxF", help="(default: 480x832x81)")
    add("--precisions", nargs="+", choices=PRECISIONS, default=["bfloat16", "int8"],
        help="(default: bfloat16 and int8)")  # fmt: skip
    add("--blocks", nargs="+", choices=["chip", "host"], default=["chip", "host"],
        help="where the blocks lie (default: both)")  # fmt: skip
    add("--link", type=float, default=55.0, metavar="GB/s",
        help="between host and device (default: 55, what PCIe 5.0 x16 gives)")  # fmt: skip
    args = parser.parse_args(arguments)
    height, width, frames = map(int, args.size.split("x"))
    grid, found = Grid(frames, height, width), {}
    for chip in args.chips:
        for name in args.precisions:
            for blocks in args.blocks:
                given = (MODELS[args.model], chip, name, grid, blocks == "host", args.link)
                said = found[f"{chip} {name} {blocks}"] = ask(*given)
                print(chip, name, blocks, said, flush=True)
    about = {"model": args.model, "size": args.size, "libtpu": ahead.version()}
    print(json.dumps({**about, "found": found}))


if __name__ == "__main__":
    try:
        main()
    except InputError as why:
        sys.exit(f"error: {why}")
