"""The transformer's forward pass and training step, against diffusers' on a GPU.

    python -m benchmarks.dit [--size 1.3b|14b|tiny|mini] [--only forward train low peer]

Plain Wan, text alone, bfloat16 weights and compute, batch 1, 81 frames of 480x832 (32,760 tokens), random
weights. Ours is jitted as the generator runs it. `forward_ms` is everything, embedding the text and its
keys and values in every layer included: what diffusers does at every step. `recalled_ms` is a step of the
generator, which makes those once a video. `int8_ms` and `float8_ms` are `recalled_ms` in those precisions
(null where this version has none). The training steps are benchmarks.train_step's, with blocks recomputed
whole (`train_ms`) or all but long attention's output (`train_attention_ms`); 14B's state does not fit on
one GPU. The peer is WanTransformer3DModel on the same tokens: torch.compile and cuDNN attention; for
training, blocks compiled, gradient checkpointing, fused AdamW. Every measurement has a process of its
own, so that no memory is held by another.

On an H100 with JAX for CUDA (`pip install -e .[cuda]`), in this order; ten minutes by estimate, not measured:

    python -m tests.attention.on_gpu                      values, gradients, lengths, ring: must all hold
    python -m benchmarks.attention_gpu --only ours --cases 1.3b text sound      near 638 and 577 TFLOP/s
    python -m benchmarks.dit --only forward train low     ours; `attention` must say flash_gpu
    python -m benchmarks.dit                              with the peer, which compiles for 92 s and more
    python -m benchmarks.dit --size 14b --only forward low
    python -m benchmarks.attention_gpu                    all contenders; with tokamax if it is installed

Goals on an H100: forward 1.3B <= 0.90 and 14B <= 0.92 of diffusers', the 1.3B training step <= 0.80 (it
took 2363 ms with blocks compiled), low precision <= 0.7, no peak higher than theirs. On a CPU "tiny" and
"mini" try the harness, in float32, in this process and without the peer.

The last line is one JSON object: milliseconds (medians), `mfu` of `forward_ms` and `train_mfu` of the
better training step (model FLOPs over the chip's peak, training/flops.py), `peak_gb` (weights, results and
temporaries of the compiled forward pass), `train_peak_gb` (of the device), `compile_s`, `attention` (which
implementation ran), `diffusers` with the peer's figures, ratios `vs_diffusers_…` (of `forward_ms`,
`recalled_ms`, the better training step, the better low precision), `failed`: why a measurement has none.
What was not measured is null.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import logging
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import peers, train_step
from omnihuman_jax import mesh as meshes
from omnihuman_jax.attention import dispatch
from omnihuman_jax.geometry import Grid
from omnihuman_jax.models import building
from omnihuman_jax.models.building import FLOAT32, Precision
from omnihuman_jax.models.conditioner import Tokens
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT
from omnihuman_jax.training import flops

LARGE = ("1.3b", "14b")  # not for CPUs
SIZES: Mapping[str, tuple[DiTConfig, Grid]] = {
    name: (dataclasses.replace(config, audio=None, pose=None), grid)
    for name, (config, grid) in train_step.SIZES.items()
} | {"14b": (DiTConfig.large(), Grid(81, 480, 832))}
PARTS: Mapping[str, tuple[str, ...]] = {
    "forward": ("forward",),
    "train": ("train", "train_attention"),
    "low": ("int8", "float8"),
    "peer": ("peer_forward", "peer_train"),
}
Measured = dict[str, Any] | None  # None: there is nothing to measure


def precision_of(kind: str) -> Precision | None:
    """bfloat16, int8 or float8 as `omnihuman generate --precision` has it; None if it has not."""
    if kind == "bfloat16":
        return FLOAT32 if jax.default_backend() == "cpu" else Precision(jnp.bfloat16, jnp.bfloat16)
    return getattr(building, "PRECISIONS", {}).get(kind)


def random_network(config: DiTConfig, precision: Precision) -> tuple[Any, Any]:
    """Graph and weights, drawn on the device leaf by leaf: a 14B network would not fit twice."""
    abstract = nnx.eval_shape(lambda: OmniHumanDiT(config, precision, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(abstract)

    return graph, jax.tree.map(lambda leaf: _draw(leaf.shape, leaf.dtype), state)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw(shape: tuple[int, ...], dtype: Any) -> jax.Array:
    key = jax.random.key(0)
    if jnp.issubdtype(dtype, jnp.integer):
        return jax.random.randint(key, shape, -127, 128, dtype)
    wide = dtype if dtype.itemsize > 1 else jnp.bfloat16
    return (0.02 * jax.random.normal(key, shape, wide)).astype(dtype)


def forward(config: DiTConfig, grid: Grid, repeats: int, kind: str = "bfloat16") -> Measured:
    """Our forward pass, with and without the text's keys and values."""
    if (precision := precision_of(kind)) is None:
        return None
    with meshes.here(), implementations() as used:
        graph, params = random_network(config, precision)
        batch = jax.device_put(train_step.batch_of(config, grid, conditions=False))
        x, t = jnp.asarray(batch.latents), jnp.full(1, 0.5)
        _, height, width = grid.latent_shape

        # As leaves: what `lower` calls with is no array, and `Conditions` and `Tokens` hold arrays.
        given, conditions = jax.tree.flatten(batch.conditions)

        def embed(params: Any, given: list[jax.Array]) -> Tokens:
            dit = nnx.merge(graph, params)
            return dit.recall(dit.embed(jax.tree.unflatten(conditions, given), 1, height, width))

        def whole(params: Any, x: jax.Array, t: jax.Array, given: list[jax.Array]) -> jax.Array:
            return nnx.merge(graph, params)(x, t, embed(params, given))

        kept, tokens = jax.tree.flatten(jax.jit(embed)(params, given))

        def step(params: Any, x: jax.Array, t: jax.Array, kept: list[jax.Array]) -> jax.Array:
            return nnx.merge(graph, params)(x, t, jax.tree.unflatten(tokens, kept))

        recalled = timed(step, (params, x, t, kept), repeats)
        found = {"recalled_ms": recalled["ms"], "peak_gb": recalled["peak_gb"]}
        found["compile_s"] = recalled["compile_s"]
        if kind == "bfloat16":
            every = timed(whole, (params, x, t, given), repeats)
            count = flops.dit_flops(config, grid, reference=False, audio=False, pose=False).forward
            top = flops.peak(jax.devices()[0].device_kind)
            found["forward_ms"] = every["ms"]
            found["mfu"] = None if top is None else round(1e3 * count / every["ms"] / top, 4)
    return found | {"attention": dict(used), "device": jax.devices()[0].device_kind}


def timed(function: Callable[..., jax.Array], arguments: Any, repeats: int) -> dict[str, Any]:
    """Median of some calls, compiled ahead; what the program holds at once; seconds to compile."""
    began = time.perf_counter()
    run = jax.jit(function).lower(*arguments).compile()
    compiling = time.perf_counter() - began
    out = run(*arguments)
    if not np.isfinite(np.asarray(out)).all():
        raise FloatingPointError("The forward pass is not finite.")
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        times.append(time.perf_counter() - began)
    memory, peak = run.memory_analysis(), None
    if memory is not None and jax.default_backend() != "cpu":
        peak = memory.argument_size_in_bytes + memory.output_size_in_bytes
        peak = round((peak + memory.temp_size_in_bytes - memory.alias_size_in_bytes) / 1e9, 2)
    median = round(1e3 * statistics.median(times), 2)
    return {"ms": median, "peak_gb": peak, "compile_s": round(compiling, 1)}


@contextlib.contextmanager
def implementations() -> Iterator[dict[str, str]]:
    """What attention ran on, by shape of the queries and number of keys, as its dispatcher logs it."""
    found: dict[str, str] = {}

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            shape, keys, name = record.args
            found[f"{shape} -> {keys}"] = str(name)

    dispatch._say_once.cache_clear()
    log, notes = dispatch.log, Notes()
    level = log.level
    log.addHandler(notes)
    log.setLevel(logging.DEBUG)
    try:
        yield found
    finally:
        log.removeHandler(notes)
        log.setLevel(level)


def peer_forward(config: DiTConfig, grid: Grid, repeats: int) -> Measured:
    """diffusers' forward pass on the same tokens, or None where torch, diffusers or a GPU are missing."""
    if (torch := peers.torch_on_gpu()) is None:
        return None
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch.manual_seed(0)
    # And not `.to`, which would round the rotary angles too.
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        network = peers.wan_transformer(config)
        x = torch.randn(1, config.channels, *grid.latent_shape)
        text = torch.randn(1, config.text_length, config.text_width)
        t = torch.tensor([500])
    run = torch.compile(network.eval())

    def step() -> None:
        with torch.inference_mode(), sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            run(x, t, text, return_dict=False)
        torch.cuda.synchronize()

    found = peers.timed(step, repeats)
    torch.cuda.reset_peak_memory_stats()
    step()
    peak = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return {"forward_ms": found["ms"], "compile_s": found["compile_s"], "peak_gb": peak}


def measure(what: str, size: str, repeats: int) -> Measured:
    """One measurement, in this process."""
    config, grid = SIZES[size]
    if size == "14b" and "train" in what:
        return None
    if what == "peer_forward":
        return peer_forward(config, grid, repeats)
    if what == "peer_train":
        return train_step.diffusers(config, grid, repeats)
    cpu = jax.default_backend() == "cpu"
    if cpu and size in LARGE:
        raise RuntimeError(f"{size} is not for CPUs, and JAX sees no other device.")
    if what.startswith("train"):
        remat = "attention" if what == "train_attention" else "full"
        compute = "float32" if cpu else "bfloat16"
        return train_step.ours(config, grid, repeats, compute, remat)
    return forward(config, grid, repeats, "bfloat16" if what == "forward" else what)


def measure_apart(what: str, size: str, repeats: int) -> Measured:
    """The same in a process of its own. Raises RuntimeError as `peers.apart`."""
    arguments = ["--measure", what, "--size", size, "--repeats", str(repeats)]
    return peers.apart("benchmarks.dit", *arguments, XLA_PYTHON_CLIENT_MEM_FRACTION="0.92")


def summary(found: Mapping[str, Measured]) -> dict[str, Any]:
    """The figures of all measurements, and their ratios."""

    def of(what: str, name: str) -> Any:
        return (found.get(what) or {}).get(name)

    def ratio(ours: list[float | None], theirs: float | None) -> float | None:
        known = [ms for ms in ours if ms is not None]
        return round(min(known) / theirs, 3) if known and theirs else None

    forward_ms, recalled_ms = of("forward", "forward_ms"), of("forward", "recalled_ms")
    trains = [of(what, "step_ms") for what in PARTS["train"]]
    lows = [of(what, "recalled_ms") for what in PARTS["low"]]
    mfus = [mfu for what in PARTS["train"] if (mfu := of(what, "mfu")) is not None]
    peer = {
        "forward_ms": of("peer_forward", "forward_ms"),
        "train_ms": of("peer_train", "step_ms"),
        "peak_gb": of("peer_forward", "peak_gb"),
        "train_peak_gb": of("peer_train", "peak_gb"),
        "compile_s": of("peer_forward", "compile_s"),
    }
    return {
        "device": of("forward", "device"),
        "forward_ms": forward_ms,
        "recalled_ms": recalled_ms,
        "int8_ms": lows[0],
        "float8_ms": lows[1],
        "train_ms": trains[0],
        "train_attention_ms": trains[1],
        "mfu": of("forward", "mfu"),
        "train_mfu": max(mfus, default=None),
        "peak_gb": of("forward", "peak_gb"),
        "low_peak_gb": [of(what, "peak_gb") for what in PARTS["low"]],
        "train_peak_gb": [of(what, "peak_gb") for what in PARTS["train"]],
        "compile_s": of("forward", "compile_s"),
        "attention": of("forward", "attention"),
        "diffusers": peer,
        "vs_diffusers_forward": ratio([forward_ms], peer["forward_ms"]),
        "vs_diffusers_recalled": ratio([recalled_ms], peer["forward_ms"]),
        "vs_diffusers_train": ratio(trains, peer["train_ms"]),
        "vs_diffusers_low": ratio(lows, peer["forward_ms"]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    gpu = shutil.which("nvidia-smi") is not None
    size = "1.3b" if gpu else "mini"
    parser.add_argument("--size", choices=SIZES, default=size, help=f"(default here: {size})")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help="of forward, train, low, peer (default: all)")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="(default: 5)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.repeats < 1:
        parser.error(f"--repeats is at least 1, got {args.repeats}.")
    if args.measure:
        print(json.dumps(measure(args.measure, args.size, args.repeats)))
        return
    run = measure_apart if gpu else measure
    found: dict[str, Measured] = {}
    failed: dict[str, str] = {}
    for what in (what for part in args.only for what in PARTS[part]):
        try:
            found[what] = run(what, args.size, args.repeats)
        except Exception as why:  # noqa: BLE001  one failure must not cost the figures of the others
            failed[what] = f"{type(why).__name__}: {why}"[:300]
        print(f"{what}: {failed.get(what) or found[what]}", file=sys.stderr, flush=True)
    grid = SIZES[args.size][1]
    print(
        json.dumps({"size": args.size, "tokens": grid.tokens} | summary(found) | {"failed": failed})
    )


if __name__ == "__main__":
    main()
