"""How long and how much memory a conversion takes, beside a plain copy of the same bytes.

python -m benchmarks.convert --size 1.3b

Makes a checkpoint in Wan's layout with the true shapes of the transformer and the VAE (UMT5 at two
layers and a tenth of its vocabulary, to spare the disk), copies it, converts it in a process of its
own, exports it again, and compares every byte. Both times include writing all to disk (`sync`).
The last line is one JSON object. Goals: ratio at most 3, peak_rss_gb at most 3, identical true.
"""

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from omnihuman_jax import torch_files
from omnihuman_jax.export import CONDITIONS, export
from omnihuman_jax.models.dit import DiTConfig
from omnihuman_jax.models.umt5 import UMT5Config
from omnihuman_jax.models.vae import VAEConfig
from tests import released

SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": released.TINY,
    "1.3b": {
        "dit": DiTConfig(),
        "vae": VAEConfig(),
        "text_encoder": UMT5Config(layers=2, vocab=25_600),
    },
}
# Runs in a process of its own; VmHWM is what Linux says was its largest resident memory.
CONVERT = """
import sys
from omnihuman_jax.conversion import convert
convert(sys.argv[1], sys.argv[2], progress=False)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def make_release(folder: Path, configs: Mapping[str, Any]) -> None:
    """Random numbers under the names and in the files of a Wan release."""
    rng = np.random.default_rng(0)
    shapes = {
        name: released.torch_shapes(name, configs[name], "wan")
        for name in ("dit", "vae", "text_encoder")
    }

    def value(network: str, name: str) -> np.ndarray:
        dtype = ml_dtypes.bfloat16 if network == "text_encoder" else np.float32
        return rng.random(shapes[network][name], np.float32).astype(dtype)

    float32, bfloat16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)
    torch_files.write_safetensors(
        str(folder / "diffusion_pytorch_model.safetensors"),
        {name: (shape, float32) for name, shape in shapes["dit"].items()},
        lambda name: [value("dit", name)],
    )
    settings = {"num_heads": configs["dit"].heads, "text_len": configs["dit"].text_length}
    (folder / "config.json").write_text(json.dumps(settings))
    for network, file, dtype in (
        ("vae", "Wan2.1_VAE.pth", float32),
        ("text_encoder", "models_t5_umt5-xxl-enc-bf16.pth", bfloat16),
    ):
        described = {name: (shape, dtype) for name, shape in shapes[network].items()}
        released.write_zip(folder / file, described, functools.partial(value, network))


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of `work` until all it wrote is on the disk."""
    os.sync()
    start = time.perf_counter()
    work()
    os.sync()
    return time.perf_counter() - start


def identical(release: Path, back: Path) -> bool:
    """Whether every tensor of the one is in the other with the same bits, and no other."""

    def tensors(folder: Path) -> dict[str, torch_files.Tensor]:
        found: dict[str, torch_files.Tensor] = {}
        for name, files in torch_files.find_checkpoints(str(folder)):
            if not name.endswith(CONDITIONS):
                found |= torch_files.open_checkpoint(name, files).tensors
        return found

    one, other = tensors(release), tensors(back)
    return one.keys() == other.keys() and all(
        (tensor.dtype, tensor.shape) == (other[name].dtype, other[name].shape)
        and tensor.read().tobytes() == other[name].read().tobytes()
        for name, tensor in one.items()
    )


def run(size: str, folder: Path) -> dict[str, Any]:
    """The measurement, in an empty folder."""
    release = folder / "release"
    release.mkdir()
    make_release(release, SIZES[size])
    copied = seconds(lambda: shutil.copytree(release, folder / "copy"))
    shutil.rmtree(folder / "copy")
    peaks: list[int] = []

    def convert() -> None:
        command = [sys.executable, "-c", CONVERT, str(release), str(folder / "model")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout.split()[-1]))

    converted = seconds(convert)
    model, back = str(folder / "model"), str(folder / "back")
    exported = seconds(lambda: export(model, back, "wan", progress=False))
    return {
        "benchmark": "convert",
        "size": size,
        "gigabytes": round(sum(f.stat().st_size for f in release.iterdir()) / 1e9, 3),
        "seconds": round(converted, 2),
        "cp_seconds": round(copied, 2),
        "ratio": round(converted / copied, 2),
        "export_seconds": round(exported, 2),
        "peak_rss_gb": round(peaks[0] * 1024 / 1e9, 2),
        "identical": identical(release, folder / "back"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="1.3b")
    parser.add_argument("--folder", help="where to work (default: the system's temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print(json.dumps(run(args.size, Path(folder))))


if __name__ == "__main__":
    main()
