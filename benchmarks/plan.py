"""What the plan's estimates are worth: against one measured step and published times of others.

    nice python -m benchmarks.plan [--skip-compile]

- h100: the training step of Wan2.1 1.3B (81 frames of 480x832, full gradient checkpointing) on an H100
  takes 2363 ms, measured (DESIGN 10: bare JAX). Its time here is by hand (`estimate.by_hand`): the same sums
  from the network's sizes and the H100's data sheet; attention as measured there by itself.
- v5p_train, v5p_train_offload: maxdiffusion trains 14B on v5p-8, one clip of 720p x 81 frames, in 36.0 s a
  step (its README) with everything computed again, and in 32.8 s (its pull request 273) with activations in
  host memory (research/jax_stack.md 1.8). Our network is compiled in its layout; attention is taken for JAX
  splash's. Offloading is no setting of ours: its estimate is that of the same step with nothing of
  attention computed again, its copies free.
- v7x_generate: maxdiffusion makes 81 frames of 720p in 50 steps with guidance on v7x-8 in 249.3 s and v7x-16
  in 127.1 s, all included. The estimate is of the denoising alone, by hand, without exchange, with
  tokamax's attention.

The constants of `estimate` have sources of their own; where those leave a range (matrix products at 0.5 to
0.66 of the peak) the choice was made with these times in view. The last line is one JSON object, by case:
`fits`, `step_s`, `measured_s`, `error_vs_measured` (-0.2: a fifth too short) and `parts`.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from omnihuman_jax.geometry import Grid
from omnihuman_jax.models.dit import DiTConfig
from omnihuman_jax.planning import answers, compiler, estimate
from omnihuman_jax.planning.chips import CHIPS, slice_of
from omnihuman_jax.training import flops
from omnihuman_jax.training.experiment import Experiment, MeshSizes
from omnihuman_jax.training.flow_matching import FlowMatching
from omnihuman_jax.training.stages import OmniStage, Ratios
from omnihuman_jax.training.step import Update

P720, P480 = Grid(81, 720, 1280), Grid(81, 480, 832)
# Speeds of attention in kFLOP a bundle, ours over theirs (benchmarks/RESULTS.md, 2026-11-24).
SPLASH_V5P = 137 / 124
TOKAMAX_V7X = 344 / 210
# An H100 SXM: data sheet, and cuDNN attention through JAX as measured there (DESIGN 10): 638 TFLOP/s
# forward, 577 forward and backward together.
H100 = estimate.Rates(
    peak=flops.PEAKS["NVIDIA H100 80GB HBM3"],
    bandwidth=3.35e12,
    forward=638e12,
    backward=2.5 / (3.5 / 577e12 - 1 / 638e12),
)
MEASURED = {
    "h100": 2.363,
    "v5p_train": 36.0,
    "v5p_train_offload": 32.8,
    "v7x_8_generate": 249.3,
    "v7x_16_generate": 127.1,
}
FORWARD = 1 / 4  # of the passes through memory of a step that computes its forward pass twice

# What maxdiffusion trains, as a config: this file is one, for the compiler's process.
experiment = Experiment(
    name="wan_14b",
    task=FlowMatching(
        model="none",
        data="none",
        network=DiTConfig.large(),
        remat="full",
        sharing="everywhere",
    ),
    stages=(OmniStage(name="text", steps=1, batch=1, ratios=Ratios(
        text=0.9, reference=0.0, audio=0.0, pose=0.0, motion=0.0)),),
    update=Update(ema=None),
    mesh=MeshSizes(data=1, fsdp=1, context=4),
)  # fmt: skip


def wan(network: DiTConfig, grid: Grid) -> flops.Flops:
    """Operations of a forward pass of plain Wan2.1."""
    return flops.dit_flops(network, grid, reference=False, audio=False, pose=False)


def h100() -> estimate.Seconds:
    """A training step of 1.3B on an H100."""
    network = DiTConfig()
    return estimate.by_hand(wan(network, P480), network, P480, "full", H100, 1.0)


def generate(devices: int) -> estimate.Seconds:
    """50 steps of two forward passes of 14B on so many devices of v7x."""
    network, chip, passes = DiTConfig.large(), CHIPS["tpu7x"], 100 / devices
    work = wan(network, P720)
    rates = estimate.rates(chip, P720.tokens, network.head_width)
    moved = estimate.PASSES * FORWARD * network.layers * P720.tokens * network.width * 2
    return estimate.Seconds(
        matmul=passes * (work.forward - work.scores) / (chip.peak * estimate.MATMUL),
        memory=passes * moved / (chip.bandwidth * estimate.STREAM),
        attention=passes * work.scores / rates.forward * TOKAMAX_V7X,
        exposed=0.0,
    )


def v5p(remat: str) -> tuple[bool, estimate.Seconds | None]:
    """A training step of 14B on v5p-8 in maxdiffusion's layout, by the compiler."""
    size = (P720.frames, P720.height, P720.width)
    job = compiler.Job(__file__, (f"task.remat={remat}",), "v5p-8", size, "text")
    answer, _ = answers.answer(job, compiler.ask)
    if answer.reading is None:
        print(f"v5p-8 {remat}: {answer.words}", file=sys.stderr)
        return answer.fits, None
    seconds = estimate.of_program(answer.reading, slice_of("v5p-8"))
    return answer.fits, dataclasses.replace(seconds, attention=seconds.attention * SPLASH_V5P)


def row(case: str, fits: bool | None, seconds: estimate.Seconds | None) -> dict[str, Any]:
    """A case of the result."""
    step = None if seconds is None else seconds.step
    return {
        "fits": fits,
        "step_s": None if step is None else round(step, 3),
        "measured_s": MEASURED[case],
        "error_vs_measured": None if step is None else round(step / MEASURED[case] - 1, 3),
        "parts": None if seconds is None else {k: round(v, 3) for k, v in seconds.parts().items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skip-compile", action="store_true",
        help="leave out what the compiler is asked for (default: all cases)")  # fmt: skip
    args = parser.parse_args(arguments)
    found = {
        "h100": row("h100", True, h100()),
        "v7x_8_generate": row("v7x_8_generate", None, generate(8)),
        "v7x_16_generate": row("v7x_16_generate", None, generate(16)),
    }
    if not args.skip_compile:
        found["v5p_train"] = row("v5p_train", *v5p("full"))
        found["v5p_train_offload"] = row("v5p_train_offload", *v5p("attention"))
    for case, told in found.items():
        print(f"{case}: {told}", file=sys.stderr, flush=True)
    result = {name: {case: told[name] for case, told in found.items()} for name in
        ("fits", "step_s", "measured_s", "error_vs_measured", "parts")}  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
