"""What benchmarks against diffusers share: its transformer on the GPU, timing, and a process for each side.

Nothing of it that needs torch has run yet: no GPU was to be had.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from omnihuman_jax.models.dit_layers import DiTConfig


def torch_on_gpu() -> Any:
    """torch, where it and diffusers are installed and see a GPU; else None."""
    try:
        import diffusers  # noqa: F401
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def wan_transformer(config: DiTConfig) -> Any:
    """diffusers' WanTransformer3DModel of the same sizes, random, where torch puts new tensors by default."""
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_width,
        in_channels=config.channels,
        out_channels=config.channels,
        text_dim=config.text_width,
        ffn_dim=config.mlp,
        num_layers=config.layers,
    )


def timed(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median milliseconds of some calls; the first, which compiles, and a second are apart."""
    times = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    median = statistics.median(times[2:])
    return {"ms": round(1000 * median, 2), "compile_s": round(times[0] - median, 1)}


def apart(module: str, *arguments: str, **environment: str) -> Any:
    """What `python -m module arguments` prints last, as JSON: two sides in one process would share memory.

    Raises:
        RuntimeError: it failed; the last line of what it said.
    """
    ran = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment | os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        said = ran.stderr.strip().splitlines() or [f"it ended with {ran.returncode}"]
        raise RuntimeError(said[-1][:300])
    return json.loads(ran.stdout.splitlines()[-1])
