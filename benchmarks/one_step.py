"""One denoising step of a converted transformer on this machine: its time and the memory it takes.

    python -m benchmarks.one_step MODEL_DIR --size 480x832 --frames 17

The text features are random: what they say changes no time. Prints one JSON line last.
"""

import argparse
import json
import resource
import time

import jax
import numpy as np

from omnihuman_jax.conditions import Conditions
from omnihuman_jax.diffusion import samplers
from omnihuman_jax.diffusion.guidance import Constant, Guidance
from omnihuman_jax.geometry import Grid
from omnihuman_jax.inference.generator import Generator, Request
from omnihuman_jax.models.building import FLOAT32, Precision
from omnihuman_jax.models.mini import find


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model directory")
    parser.add_argument("--size", default="480x832", help="height x width (default: 480x832)")
    parser.add_argument("--frames", type=int, default=17, help="4n+1 frames (default: 17)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32",
                        help="of weights and matmuls (default: float32)")  # fmt: skip
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    grid = Grid(args.frames, height, width)
    precision = FLOAT32 if args.precision == "float32" else Precision("bfloat16", "bfloat16")
    model = find(args.model)
    config = model.config("dit")
    text = np.random.default_rng(0).standard_normal((1, config.text_length, config.text_width))
    calls = samplers.make("euler").calls(samplers.make("euler").schedule(1))
    marks: list[float] = []
    latents = Generator(model, precision).denoise(
        [
            Request(
                grid=grid, fps=16, steps=1, sampler="euler", guidance=Guidance(text=Constant(1.0))
            )
        ],
        Conditions(text=jax.numpy.asarray(text, "float32")),
        None,
        calls,
        lambda *_: marks.append(time.monotonic()),
    )
    print(
        json.dumps(
            {
                "model": args.model,
                "size": args.size,
                "frames": args.frames,
                "tokens": grid.tokens,
                "precision": args.precision,
                "device": jax.devices()[0].device_kind,
                "step_s_with_compile": round(marks[1] - marks[0], 1),
                "finite": bool(np.isfinite(latents).all()),
                "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
