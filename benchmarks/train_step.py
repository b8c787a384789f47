"""How long one training step takes, what share of the chip it uses, and how much memory.

python -m benchmarks.train_step [--size 1.3b]

Ours: the transformer with audio and pose, forward, backward, AdamW and moving average off, as
`omnihuman train` compiles it: bfloat16 compute, float32 parameters and optimizer, blocks recomputed. Random
weights and noise, one clip. With torch, diffusers and a GPU, in the same run on the same tokens, diffusers'
WanTransformer3DModel: forward, backward and fused AdamW, gradient checkpointing, cuDNN attention, blocks
compiled; it has no audio and no pose, so ours is timed a second time without them (`plain_step_ms`), and
`vs_diffusers` is that over theirs (goal on an H100: at most 1.0, and 0.8 with our attention). Without a
GPU the peer is not run and `vs_diffusers` is null; "tiny" and "mini" are for CPUs.

The last line is one JSON object: `step_ms` (median), `mfu` (model FLOPs, nothing recomputed, over the chip's
peak in training/flops.py; null for a chip that is not there), `peak_gb` (of the device; null where JAX
cannot tell), `compile_s` (the first step less a later one), `tokens`.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers
from omnihuman_jax import mesh as meshes
from omnihuman_jax.conditions import Batch, Conditions
from omnihuman_jax.geometry import Grid
from omnihuman_jax.models.building import Precision, Remat
from omnihuman_jax.models.conditioner import AudioConfig, PoseConfig
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT
from omnihuman_jax.models.mini import CONFIGS
from omnihuman_jax.training import flops, networks, optimizers, state
from omnihuman_jax.training.flow_matching import FlowMatching
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.parts import WHOLE
from omnihuman_jax.training.stages import OmniStage
from omnihuman_jax.training.step import Update, make_step

OMNI = dict(audio=AudioConfig(), pose=PoseConfig())
SIZES: Mapping[str, tuple[DiTConfig, Grid]] = {
    "tiny": (DiTConfig.tiny(**OMNI), Grid(9, 64, 64)),
    "mini": (CONFIGS["dit"], Grid(25, 64, 64)),
    "1.3b": (DiTConfig(**OMNI), Grid(81, 480, 832)),
}


def batch_of(config: DiTConfig, grid: Grid, conditions: bool) -> Batch:
    """One clip of noise with a text, and a reference, sound and pose if the network takes them."""
    random = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, np.float32)

    _, *size = latents = grid.latent_shape
    given: dict[str, Any] = {"text": noise(1, config.text_length, config.text_width)}
    if conditions:
        given["reference"] = noise(1, 1, *size, config.channels)
        if config.audio is not None:
            given["audio"] = noise(1, grid.frames, config.audio.layers, config.audio.width)
        if config.pose is not None:
            given["pose"] = random.uniform(0, 1, (1, grid.frames, config.pose.joints, 3)).astype(
                np.float32
            )
    present = {name: np.ones(1, bool) for name in given}
    return Batch(
        latents=noise(1, *latents, config.channels),
        conditions=Conditions(**given, present=present),
        sample=np.zeros(1, np.uint32),
    )


def ours(
    config: DiTConfig, grid: Grid, repeats: int, compute: str, remat: Remat = "full"
) -> dict[str, Any]:
    """Our step on one device, timed; `remat` says what the backward pass computes again."""
    mesh = meshes.make_mesh(devices=jax.devices()[:1], data=1, fsdp=1, context=1, tensor=1)
    with jax.set_mesh(mesh):
        precision = Precision(jnp.float32, jnp.dtype(compute))

        def make(rngs: Any) -> OmniHumanDiT:
            return OmniHumanDiT(config, precision, rngs=rngs, remat=remat)

        stage = OmniStage(name="all", steps=1, batch=1)
        task = FlowMatching(model="", data="", compute=compute)
        shapes = networks.shapes(make, mesh)
        transform = Optimizer(kind="adamw").make(shapes, 1000)
        opt = optimizers.state_shapes(transform, shapes)
        now = state.create(
            networks.initial(make, mesh, 0), {WHOLE: transform.init}, {WHOLE: opt}, ema=False
        )
        step = make_step(functools.partial(task.loss, make, stage), transform, Update(ema=None))
        batch = jax.device_put(batch_of(config, grid, config.audio is not None))
        key = jax.random.key(0)
        run = jax.jit(step, donate_argnums=0)
        times = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            now, tallies = run(now, {}, batch, key)
            loss = float(np.asarray(tallies["loss"])[0])  # waits for the step
            times.append(time.perf_counter() - began)
        if not np.isfinite(loss):
            raise FloatingPointError(f"The loss is {loss}.")
    device = jax.devices()[0]
    omni = config.audio is not None
    count = flops.dit_flops(config, grid, reference=omni, audio=omni, pose=omni).training
    median = statistics.median(times[1:])
    top = flops.peak(device.device_kind)
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return {
        "step_ms": round(1000 * median, 2),
        "mfu": None if top is None else round(count / median / top, 4),
        "tflops": round(count / median / 1e12, 3),
        "peak_gb": None if memory is None else round(memory / 1e9, 2),
        "compile_s": round(times[0] - median, 1),
        "steps": repeats,
    }


def diffusers(config: DiTConfig, grid: Grid, repeats: int) -> dict[str, Any] | None:
    """The peer's step on the same tokens, or None where torch, diffusers or a GPU are missing."""
    if (torch := peers.torch_on_gpu()) is None:
        return None
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch.manual_seed(0)
    with torch.device("cuda"):
        network = peers.wan_transformer(config)
        frames, rows, columns = grid.latent_shape
        x = torch.randn(1, config.channels, frames, rows, columns, dtype=torch.bfloat16)
        text = torch.randn(1, config.text_length, config.text_width, dtype=torch.bfloat16)
        t = torch.tensor([500])
    network.train()
    network.enable_gradient_checkpointing()
    for block in network.blocks:
        block.compile()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    torch.cuda.reset_peak_memory_stats()

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16), sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            y = network(x, t, text, return_dict=False)[0]
            loss = (y.float() - x.float()).square().mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()

    found = peers.timed(step, repeats)
    return {
        "step_ms": found["ms"],
        "compile_s": found["compile_s"],
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "1.3b" if jax.default_backend() != "cpu" else "mini"
    parser.add_argument("--size", choices=SIZES, default=default, help=f"(default here: {default})")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="(default: 5)")
    args = parser.parse_args(arguments)
    if args.repeats < 1:
        parser.error(f"--repeats is at least 1, got {args.repeats}.")
    config, grid = SIZES[args.size]
    compute = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    found = ours(config, grid, args.repeats, compute)
    bare = dataclasses.replace(config, audio=None, pose=None)
    plain = ours(bare, grid, args.repeats, compute)
    peer = diffusers(bare, grid, args.repeats)
    print(
        json.dumps(
            {
                "size": args.size,
                "device": jax.devices()[0].device_kind,
                "compute": compute,
                "tokens": grid.tokens,
                **found,
                "plain_step_ms": plain["step_ms"],
                "diffusers": peer,
                "vs_diffusers": None
                if peer is None
                else round(plain["step_ms"] / peer["step_ms"], 3),
            }
        )
    )


if __name__ == "__main__":
    main()
