"""How far off the transformer is in 8 bits, and what the TPU compiler says of the cycles.

    python -m benchmarks.low_precision [--size mini|1.3b] [--tokens N] [--clips N] [--chips v5litepod-1 ...]

The relative error ||a - b|| / ||b|| of the velocity, one forward pass, at flow times 0.1, 0.5 and 0.9
together: of bfloat16, int8 and float8 (as `omnihuman generate --precision` has them: all that is not in
8 bits is bfloat16) against float32, and of int8 and float8 against bfloat16. `_edges` are int8 and float8
with the first and the last layer left in bfloat16, to see whether they matter more than others.

- mini: the built-in model, trained; conditions are those that `omnihuman generate` takes by itself (picture,
  voice), noisy latents lie on the straight path from noise to what the model makes of them in float32.
  `lips`: `lip_corr` and the rest of benchmarks/mini.py's first part at each precision, over --clips clips.
- 1.3b: a network of Wan2.1-T2V-1.3B's sizes with normal weights, noise and text features. It has no
  channels that stand out as trained networks do, so a trained one may be farther off.

With --chips: cycles that the TPU compiler estimates for the linear layers of one block of `--size` (1.3b
or 14b) at --tokens tokens: `products`, the programs with a matrix product in them, and `cycles`, all,
with quantising the inputs. Nothing is run. What is not a product is estimated several times slower than the
memory of the chips allows (v5e: at 280 of 819 GB/s), so the truth lies between the two.

The last line is one JSON object.
"""

import argparse
import dataclasses
import gc
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import mini
from omnihuman_jax import ahead
from omnihuman_jax import mesh as meshes
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.diffusion import samplers
from omnihuman_jax.diffusion.flow import interpolate
from omnihuman_jax.errors import InputError
from omnihuman_jax.inference import segments
from omnihuman_jax.inference.generator import Generator
from omnihuman_jax.inference.request import Wish, prepare
from omnihuman_jax.models import dit
from omnihuman_jax.models.building import FLOAT32, PRECISIONS, arbitrary
from omnihuman_jax.models.dit import OmniHumanDiT
from omnihuman_jax.models.dit_layers import Block, DiTConfig

TIMES = (0.1, 0.5, 0.9)
EIGHT = ("int8", "float8")
CHIP_SIZES = {"1.3b": DiTConfig, "14b": DiTConfig.large}
Case = tuple[jax.Array, jax.Array, Conditions]  # noisy latents, times, conditions


def mini_case() -> Case:
    """What the built-in model meets on its way: its own video of the example inputs, with noise added."""
    model = mini.find("mini")
    request = prepare(Wish(), model)
    generator = Generator(model, FLOAT32)
    silent = lambda *_: None
    conditions, negative = generator.encode([request], silent)
    sampler = samplers.make(request.sampler)
    calls = sampler.calls(sampler.schedule(request.steps, request.shift))
    clip = dataclasses.replace(request, frames=None)
    conditions = segments.cut(conditions, 0, request.grid.frames)
    clean = generator.denoise([clip], conditions, negative, calls, silent)
    several = lambda a: jnp.repeat(a, len(TIMES), axis=0)
    noise = jax.random.normal(jax.random.key(1), clean.shape)
    times = jnp.array(TIMES, jnp.float32)
    x = interpolate(several(clean), several(noise), times)
    return x, times, jax.tree.map(several, conditions)


def random_case(config: DiTConfig, tokens: int) -> Case:
    """Noise and text features; two latent frames, rows of 8 tokens (128 pixels)."""
    shape = (len(TIMES), 2, tokens // 8, 16, config.channels)
    keys = jax.random.split(jax.random.key(0))
    text = jax.random.normal(keys[1], (len(TIMES), config.text_length, config.text_width))
    return jax.random.normal(keys[0], shape), jnp.array(TIMES, jnp.float32), Conditions(text=text)


@jax.jit
def velocity(model: OmniHumanDiT, x: jax.Array, t: jax.Array, conditions: Conditions) -> jax.Array:
    return model(x, t, model.embed(conditions, x.shape[0], *x.shape[2:4]))


def with_edges(model: OmniHumanDiT, usual: OmniHumanDiT, case: Case) -> jax.Array:
    """The velocity with the first and the last layer of `usual` in place of the model's."""
    layers = model.config.layers

    def scan(blocks: Any, apply: Callable[..., Any], carry: Any, **_: Any) -> tuple[Any, Any]:
        for number in range(layers):
            of = usual.blocks if number in (0, layers - 1) else model.blocks
            graph, params = nnx.split(of)
            one = nnx.merge(graph, jax.tree.map(lambda leaf, n=number: leaf[n], params))
            carry, _ = jax.jit(apply)(one, carry)
        return carry, None

    x, t, conditions = case
    with mock.patch.object(dit, "scan", scan):
        return model(x, t, model.embed(conditions, x.shape[0], *x.shape[2:4]))


def errors(load: Callable[[str], OmniHumanDiT], case: Case) -> dict[str, Any]:
    """Of every precision; no more than two networks in 16 bits or fewer are held at once."""
    found: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    usual = None
    for name in PRECISIONS:
        model = load(name)
        began = time.monotonic()
        found[name] = np.asarray(velocity(model, *case), np.float64)
        seconds[name] = round(time.monotonic() - began, 1)
        print(f"{name}: {seconds[name]} s with compiling", file=sys.stderr, flush=True)
        if name == "bfloat16":
            usual = model
        if name in EIGHT:
            found[f"{name}_edges"] = np.asarray(with_edges(model, usual, case), np.float64)
        del model
        gc.collect()
    table: dict[str, Any] = {}
    for base in ("float32", "bfloat16"):
        others = [name for name in found if name not in ("float32", base)]
        table[f"against_{base}"] = {
            name: float(
                f"{np.linalg.norm(found[name] - found[base]) / np.linalg.norm(found[base]):.3g}"
            )
            for name in others
        }
    return table


def lips(clips: int) -> dict[str, Any]:
    """The built-in model's mouths at each precision."""
    table = {}
    for name, precision in PRECISIONS.items():
        began = time.monotonic()
        make, _ = mini.film("mini", None, (None, None), precision=precision)
        table[name] = mini.lips_part(make, clips, 64, 0)
        print(f"lips, {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return table


def cycles(chip: str, config: DiTConfig, tokens: int) -> dict[str, Any]:
    """Of the linear layers of one block, by precision."""
    mesh = meshes.make_mesh(devices=ahead.devices(chip)[:1])
    whole = NamedSharding(mesh, PartitionSpec())
    there = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)
    x = jax.ShapeDtypeStruct((1, tokens, config.width), jnp.bfloat16, sharding=whole)
    table = {}
    for name in ("bfloat16", *EIGHT):
        graph, params = nnx.split(_block(config, name))

        def run(params: Any, x: Any, seen: Any, graph: Any = graph) -> Any:
            block = nnx.merge(graph, params)
            own, text = block.self_attn, block.cross_attn
            # Barriers stand where attention and norms keep the layers apart.
            q, k, v = own.q(x), own.k(x), own.v(x)
            y = own.o(jax.lax.optimization_barrier(q + k + v))
            y = text.o(jax.lax.optimization_barrier(text.q(jax.lax.optimization_barrier(x + y))))
            up = block.up(jax.lax.optimization_barrier(y))
            return block.down(nnx.gelu(up, approximate=True))

        with jax.set_mesh(mesh):
            said = ahead.compiled(run, jax.tree.map(there, params), x, x)
        products = re.findall(r'kind=kOutput.*"estimated_cycles":"(\d+)"', said.text)
        table[name] = {"products": sum(map(int, products)), "cycles": said.cycles}
        print(f"{chip}, {name}: compiled in {said.seconds:.0f} s", file=sys.stderr, flush=True)
    return table


def _block(config: DiTConfig, precision: str) -> Block:
    """One abstract layer."""
    config = dataclasses.replace(config, layers=1)
    blocks = nnx.eval_shape(
        lambda: OmniHumanDiT(config, PRECISIONS[precision], rngs=nnx.Rngs(0)).blocks
    )
    graph, params = nnx.split(blocks)
    one = lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
    return nnx.merge(graph, jax.tree.map(one, params))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", choices=["mini", "1.3b", "14b"], default="mini",
        help="the network; 14b only with --chips (default: mini)")  # fmt: skip
    add("--tokens", type=int, metavar="N",
        help="of the video (default: 128 for 1.3b, 4096 with --chips; mini has its own)")  # fmt: skip
    add("--clips", type=int, default=4, metavar="N",
        help="clips of mini whose lips are scored, 0 for none (default: 4)")  # fmt: skip
    add("--chips", nargs="+", metavar="NAME",
        help="ask the TPU compiler about these slices instead (default: none)")  # fmt: skip
    args = parser.parse_args(arguments)
    if args.size not in CHIP_SIZES if args.chips else args.size == "14b":
        parser.error(
            f"--size {args.size} is for runs {'without' if args.chips else 'with'} --chips."
        )
    args.tokens = args.tokens or (4096 if args.chips else 128)
    if args.tokens < 16 or args.tokens % 16:
        parser.error(f"--tokens is a multiple of 16, got {args.tokens}.")
    if args.clips and not 2 <= args.clips <= 50:
        parser.error(f"--clips is 0 or between 2 and 50, got {args.clips}.")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    began = time.monotonic()
    said: dict[str, Any] = {"size": args.size}
    if args.chips:
        config = CHIP_SIZES[args.size]()
        said |= {"tokens": args.tokens, "libtpu": ahead.version()}
        said["chips"] = {chip: cycles(chip, config, args.tokens) for chip in args.chips}
    elif args.size == "mini":
        model = mini.find("mini")
        said |= errors(lambda name: model.load("dit", PRECISIONS[name]), mini_case())
        if args.clips:
            said["lips"] = lips(args.clips)
    else:
        config = DiTConfig()
        load = lambda name: arbitrary(lambda r: OmniHumanDiT(config, PRECISIONS[name], rngs=r))
        said |= {"tokens": args.tokens} | errors(load, random_case(config, args.tokens))
    said |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    print(json.dumps(said | {"seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    try:
        main()
    except InputError as why:
        sys.exit(f"error: {why}")
