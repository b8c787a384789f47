"""How long the VAE takes to decode and to encode 81 frames of 480x832, and how much memory.

python -m benchmarks.vae [--size mini|wan] [--tpu v6e-1]

Ours: random weights, the precision of `omnihuman generate` (bfloat16 compute on accelerators), latents to
bytes on the host and bytes on the device to latents, in the pieces of the generator, jitted. With torch,
diffusers and a GPU, in the same run on the same sizes, diffusers' AutoencoderKLWan in bfloat16: eager with
cudnn.benchmark, and with encoder and decoder compiled; `vs_diffusers_*` is ours over the faster of the two
(goal on an H100: at most 0.5, at no more memory). Each side decodes and encodes in processes of their own
without preallocation, ours first, so that peaks can be compared. Without a GPU the peer is not run and the
figures are null; "mini" is for CPUs.

The last line is one JSON object: `decode_ms`, `encode_ms` (medians), `peak_gb` (of decoding),
`encode_peak_gb` (of the device; null where JAX cannot tell), `compile_s` (the first decoding less a later
one), `chunk` (latent frames at a time), `compute`, `device`, `diffusers` (its own figures).

--tpu compiles one step of each for a TPU that need not be here, and times nothing: `peak_gb` of a step and
`cycles`, the compiler's estimate for all steps behind the first frame.
"""

import argparse
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding

from benchmarks import peers
from omnihuman_jax import ahead
from omnihuman_jax.encoding import _encode_step
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import TEMPORAL, Grid
from omnihuman_jax.inference.decoding import _decode, ahead_by_one, decoded, free_memory, pieces
from omnihuman_jax.models.building import Precision, arbitrary
from omnihuman_jax.models.mini import CONFIGS
from omnihuman_jax.models.vae import CausalVAE, VAEConfig, usual_precision

SIZES: Mapping[str, tuple[VAEConfig, Grid]] = {
    "mini": (CONFIGS["vae"], Grid(25, 64, 64)),
    "wan": (VAEConfig(), Grid(81, 480, 832)),
}
WORKS = ("decode", "encode")


def ours(size: str | None, work: str, repeats: int, chunk: int | None) -> dict[str, Any]:
    """Our decoding or encoding on the first device, timed."""
    device = jax.devices()[0]
    size = size or ("mini" if device.platform == "cpu" else "wan")
    config, grid = SIZES[size]
    precision = usual_precision()
    vae = arbitrary(lambda rngs: CausalVAE(config, precision, rngs=rngs))
    graph, params = nnx.split(vae)
    shape = (1, *grid.latent_shape, config.channels)
    itemsize = jnp.dtype(precision.compute).itemsize
    chunk = chunk or pieces(shape, config.dim, itemsize, free_memory())
    random = np.random.default_rng(0)
    if work == "decode":
        latents = jnp.asarray(random.standard_normal(shape, np.float32))

        def run() -> None:
            shown = decoded(graph, params, latents, grid.frames, chunk)
            for frames, finite in ahead_by_one(shown):
                if not finite:
                    raise FloatingPointError("The decoder made pixels that are not finite numbers.")
                np.asarray(frames)
    else:
        video = jnp.asarray(
            random.integers(0, 256, (1, grid.frames, grid.height, grid.width, 3), np.uint8)
        )
        ends = [1, *range(1 + TEMPORAL * chunk, grid.frames, TEMPORAL * chunk), grid.frames]

        def run() -> None:
            start, cache, made = 0, None, []
            for end in ends:
                latents, cache = _encode_step(graph, params, video[:, start:end], cache)
                made.append(latents)
                start = end
            jax.block_until_ready(made)

    found: dict[str, Any] = peers.timed(run, repeats)
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return {
        **found,
        "peak_gb": None if memory is None else round(memory / 1e9, 2),
        "chunk": chunk,
        "compute": str(jnp.dtype(precision.compute)),
        "device": device.device_kind,
        "size": size,
    }


def diffusers(size: str | None, work: str, repeats: int) -> dict[str, Any] | None:
    """The peer's, or None where torch, diffusers or a GPU are missing."""
    if (torch := peers.torch_on_gpu()) is None:
        return None
    from diffusers import AutoencoderKLWan

    config, grid = SIZES[size or "wan"]
    if config != VAEConfig():
        return None  # it has no such network
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    vae = AutoencoderKLWan().to("cuda", torch.bfloat16).eval()
    half = dict(device="cuda", dtype=torch.bfloat16)
    latents = torch.randn(1, config.channels, *grid.latent_shape, **half)
    video = torch.rand(1, 3, grid.frames, grid.height, grid.width, **half) * 2 - 1

    @torch.inference_mode()
    def run() -> None:
        _ = vae.decode(latents).sample if work == "decode" else vae.encode(video).latent_dist.mode()
        torch.cuda.synchronize()

    def measured() -> dict[str, Any]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        times = peers.timed(run, repeats)
        return {**times, "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)}

    found: dict[str, Any] = {"eager": measured(), "compiled": None}
    (vae.decoder if work == "decode" else vae.encoder).compile()
    try:
        found["compiled"] = measured()
    except RuntimeError as why:  # what dynamo and inductor raise when they give up
        print(f"torch.compile failed: {str(why).splitlines()[0]}", file=sys.stderr)
    best = min((each for each in found.values() if each), key=lambda each: each["ms"])
    return {**best, **found}


def for_tpu(size: str | None, name: str, work: str, chunk: int) -> dict[str, Any]:
    """What the TPU compiler says of one step behind the first frame."""
    config, grid = SIZES[size or "wan"]
    sharding = SingleDeviceSharding(ahead.devices(name)[0])

    def there(tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    def make() -> CausalVAE:
        return CausalVAE(config, Precision(), rngs=nnx.Rngs(0))

    graph, params = nnx.split(nnx.eval_shape(make))
    decoding = work == "decode"
    step = functools.partial(_decode if decoding else _encode_step, graph)
    frames, size_there = (
        (chunk, grid.latent_shape[1:])
        if decoding
        else (
            TEMPORAL * chunk,
            (grid.height, grid.width),
        )
    )
    channels, dtype = (config.channels, jnp.float32) if decoding else (3, jnp.uint8)

    def given(count: int) -> Any:
        return there(jax.ShapeDtypeStruct((1, count, *size_there, channels), dtype))

    params = there(params)
    cache = there(jax.eval_shape(step, params, given(1), None)[1])
    said = ahead.compiled(step, params, given(frames), cache, donate_argnums=2)
    steps = -(-(grid.latent_shape[0] - 1) // chunk)
    return {
        "peak_gb": round(said.peak / 1e9, 2),
        "cycles": steps * said.cycles,
        "steps": steps,
        "compile_s": round(said.seconds, 1),
    }


def apart(args: argparse.Namespace, side: str, work: str) -> Any:
    """One side's work in a process of its own, which takes memory as it needs it."""
    arguments = ["--only", f"{side} {work}", "--repeats", str(args.repeats)]
    arguments += ["--size", args.size] if args.size else []
    arguments += ["--chunk", str(args.chunk)] if args.chunk else []
    return peers.apart("benchmarks.vae", *arguments, XLA_PYTHON_CLIENT_PREALLOCATE="false")


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Both sides, and ours over theirs."""
    sides = [("ours", work) for work in WORKS] + [("diffusers", work) for work in WORKS]
    found = {side: apart(args, *side) for side in sides}
    decode, encode = found["ours", "decode"], found["ours", "encode"]
    theirs = {work: found["diffusers", work] for work in WORKS}

    def against(work: str) -> float | None:
        peer = theirs[work]
        return None if peer is None else round(found["ours", work]["ms"] / peer["ms"], 3)

    return {
        "size": decode["size"],
        "device": decode["device"],
        "compute": decode["compute"],
        "chunk": decode["chunk"],
        "decode_ms": decode["ms"],
        "encode_ms": encode["ms"],
        "peak_gb": decode["peak_gb"],
        "encode_peak_gb": encode["peak_gb"],
        "compile_s": decode["compile_s"],
        "encode_compile_s": encode["compile_s"],
        "diffusers": None if theirs["decode"] is None else theirs,
        "vs_diffusers_decode": against("decode"),
        "vs_diffusers_encode": against("encode"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", choices=SIZES, help="(default: wan, on a CPU mini)")
    add("--repeats", type=int, default=5, metavar="N", help="(default: 5)")
    add("--chunk", type=int, metavar="N", help="latent frames at a time (default: by memory)")
    add(
        "--tpu",
        metavar="NAME",
        help="compile for this slice, v6e-1 for instance, instead of timing",
    )
    add("--only", metavar="'SIDE WORK'", help=argparse.SUPPRESS)  # what a process does by itself
    args = parser.parse_args(arguments)
    if args.repeats < 1 or (args.chunk is not None and args.chunk < 1):
        parser.error(f"--repeats and --chunk are at least 1, got {args.repeats} and {args.chunk}.")
    found: Any
    if args.tpu:
        said = {work: for_tpu(args.size, args.tpu, work, args.chunk or 1) for work in WORKS}
        found = {"size": args.size or "wan", "tpu": args.tpu, "libtpu": ahead.version(), **said}
    elif args.only:
        side, work = args.only.split()
        if side == "ours":
            found = ours(args.size, work, args.repeats, args.chunk)
        else:
            found = diffusers(args.size, work, args.repeats)
    else:
        found = compare(args)
    print(json.dumps(found))


if __name__ == "__main__":
    try:
        main()
    except InputError as why:
        sys.exit(f"error: {why}")
