"""How long a video takes, by phase: load, encode, denoise, decode, write; in 50 steps, in 2 and in 1.

python -m benchmarks.generate [--size 1.3b|mini] [--steps 50 2 1]

Ours: random weights of Wan2.1 1.3B (transformer, VAE, and a UMT5 text encoder of its sizes), 81 frames of
480x832 from a text, as `omnihuman generate` makes them: guidance of the text (two passes) in 50 steps; 2
and 1 steps are those of a distilled model, `consistency` without guidance. Every run is made twice, and the
second, warm one counts; `load` is making the weights, since nothing is on disk. With torch, diffusers and a
GPU, in the same run diffusers' WanPipeline (bfloat16, its own random weights), whose time leaves out the text
encoder and the file. Goal on an
H100: 50 steps at most 0.85 of its time; one step with text and VAE under 2 s warm. None of it has been
measured on a GPU, and the peer's code has never run.

"mini" is the built-in small model, for CPUs: 49 frames of 64x64, no peer. On a TPU say `--size 1.3b`.

The last line is one JSON object: by steps seconds of each phase and `total_s`, `load_s`, `device`, `size`,
the peer's seconds, and `vs_diffusers` (our total over theirs at 50 steps; null where it was not run).
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from benchmarks import peers
from omnihuman_jax.diffusion.guidance import Constant, Guidance
from omnihuman_jax.geometry import Grid
from omnihuman_jax.inference.generator import Request
from omnihuman_jax.inference.pipeline import Pipeline, precision_of
from omnihuman_jax.models import mini
from omnihuman_jax.models.directory import ModelDirectory
from omnihuman_jax.models.dit import DiTConfig
from omnihuman_jax.models.manifest import Manifest
from omnihuman_jax.models.mini import Untrained
from omnihuman_jax.models.umt5 import BYTES, UMT5Config
from omnihuman_jax.models.vae import VAEConfig

TEXT = "a singer on a small stage"
GRIDS = {"mini": Grid(49, 64, 64), "1.3b": Grid(81, 480, 832)}
PHASES = ("encode", "denoise", "decode")


def model_of(size: str) -> ModelDirectory:
    """A model of that size; that of Wan's has arbitrary weights, and bytes for a tokenizer."""
    if size == "mini":
        return mini.mini()
    configs = {"dit": DiTConfig(), "vae": VAEConfig(), "text_encoder": UMT5Config()}
    return Untrained("random-1.3b", Manifest(configs, {}, tokenizer=BYTES))


def request_of(size: str, steps: int) -> Request:
    """50 steps as of Wan, few as of a distilled model."""
    few = steps <= 8
    scale = Constant(1.0 if few else 5.0)
    return Request(
        grid=GRIDS[size],
        fps=16,
        text=TEXT,
        steps=steps,
        sampler="consistency" if few else "unipc",
        guidance=Guidance(text=scale, audio=scale),
    )


def timed(pipe: Pipeline, request: Request, folder: str) -> dict[str, float]:
    """Seconds of each phase of one video; `write` is what the file takes beyond them."""
    spent = dict.fromkeys(PHASES, 0.0)
    last = began = time.perf_counter()

    def progress(phase: str, done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        spent[phase] += now - last
        last = now

    pipe.write([request], [str(Path(folder) / "out.mp4")], progress)
    total = time.perf_counter() - began
    spent["write"] = total - sum(spent.values())
    return {f"{name}_s": round(seconds, 3) for name, seconds in spent.items()} | {
        "total_s": round(total, 3)
    }


@contextmanager
def seconds(found: dict[str, Any], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    found[name] = round(time.perf_counter() - began, 3)


def ours(size: str, steps: Sequence[int]) -> dict[str, Any]:
    """Our pipeline, each number of steps warm."""
    pipe = Pipeline(model_of(size), precision_of("auto"))
    found: dict[str, Any] = {}
    with seconds(found, "load_s"):
        for name in ("dit", "vae", "text_encoder"):
            pipe.generator._network(name)
    with tempfile.TemporaryDirectory() as folder:
        for count in steps:
            request = request_of(size, count)
            timed(pipe, request, folder)
            found[f"steps_{count}"] = timed(pipe, request, folder)
    return found


def diffusers(steps: Sequence[int]) -> dict[str, Any] | None:
    """The peer's pipeline on the same work, or None where torch, diffusers or a GPU are missing."""
    if (torch := peers.torch_on_gpu()) is None:
        return None
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
    from diffusers import WanPipeline as Peer

    size = DiTConfig()
    with torch.device("cuda"):
        transformer = peers.wan_transformer(size).to(torch.bfloat16)
        vae = AutoencoderKLWan().to(torch.bfloat16)
        text = torch.randn(1, size.text_length, size.text_width, dtype=torch.bfloat16)
    pipe = Peer(
        tokenizer=None,
        text_encoder=None,
        transformer=transformer,
        vae=vae,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
        ),
    )
    pipe.set_progress_bar_config(disable=True)
    found = {}
    for count in steps:
        call = dict(
            prompt_embeds=text, negative_prompt_embeds=torch.zeros_like(text), height=480, width=832,
            num_frames=81, num_inference_steps=count, guidance_scale=1.0 if count <= 8 else 5.0,
        )  # fmt: skip
        for _ in range(2):
            torch.cuda.synchronize()
            began = time.perf_counter()
            pipe(**call)
            torch.cuda.synchronize()
            found[f"steps_{count}"] = {"total_s": round(time.perf_counter() - began, 3)}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "1.3b" if shutil.which("nvidia-smi") else "mini"  # without waking JAX
    parser.add_argument("--size", choices=GRIDS, default=default, help=f"(default here: {default})")
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 2, 1], metavar="N",
                        help="(default: 50 2 1)")  # fmt: skip
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if min(args.steps) < 1:
        parser.error(f"--steps are at least 1, got {min(args.steps)}.")
    if args.peer:
        print(json.dumps(diffusers(args.steps)))
        return
    peer, ratio = None, None
    if args.size == "1.3b":  # before JAX is here, which takes the GPU's memory
        peer = peers.apart("benchmarks.generate", "--peer", "--steps", *map(str, args.steps))
    found = ours(args.size, args.steps)
    if peer is not None and "steps_50" in found:
        ratio = round(found["steps_50"]["total_s"] / peer["steps_50"]["total_s"], 3)
    device = jax.devices()[0].device_kind
    print(
        json.dumps(
            {"size": args.size, "device": device, **found, "diffusers": peer, "vs_diffusers": ratio}
        )
    )


if __name__ == "__main__":
    main()
