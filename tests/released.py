"""Writes checkpoints as they are released, without torch: for the tests, and for benchmarks/convert.py."""

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx

from omnihuman_jax import torch_files
from omnihuman_jax.models import directory
from omnihuman_jax.models.building import FLOAT32, flat, with_params
from omnihuman_jax.models.conditioner import AudioConfig, PoseConfig
from omnihuman_jax.models.dit import DiTConfig
from omnihuman_jax.models.manifest import KINDS
from omnihuman_jax.models.umt5 import UMT5Config
from omnihuman_jax.models.vae import VAEConfig
from omnihuman_jax.models.wav2vec2 import Wav2Vec2Config
from omnihuman_jax.weights import torch_names

Tensors = Mapping[str, np.ndarray]
TINY: Mapping[str, Any] = {
    "dit": DiTConfig.tiny(),
    "vae": VAEConfig.tiny(),
    "text_encoder": UMT5Config.tiny(),
    "audio_encoder": Wav2Vec2Config.tiny(),
}
AUDIO = AudioConfig(width=6, layers=3, window=3, hidden=8)
POSE = PoseConfig(joints=5, hidden=8, channels=2)
_STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
}


def torch_shapes(network: str, config: Any, layout: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the released checkpoint of this config has."""
    params = directory.param_shapes(network, config)
    shapes = {}
    for name, place in torch_names(
        KINDS[network].names.torch_rules(config, layout), params
    ).items():
        ours = params[place.path] if place.row is None else params[place.path][1:]
        shapes[name] = place.rule.undo(np.broadcast_to(np.int8(0), ours)).shape
    return shapes


def tensors(network: str, layout: str, config: Any = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors under the names of a release; bfloat16 for the text encoder, as released."""
    rng = np.random.default_rng(seed)
    dtype = ml_dtypes.bfloat16 if network == "text_encoder" else np.float32
    shapes = torch_shapes(network, config or TINY[network], layout)
    return {
        name: rng.standard_normal(shape, np.float32).astype(dtype) for name, shape in shapes.items()
    }


def write_safetensors(path: Path, values: Tensors) -> None:
    described = {name: (value.shape, value.dtype) for name, value in values.items()}
    torch_files.write_safetensors(str(path), described, lambda name: [values[name]])


def write_zip(
    path: Path,
    shapes: Mapping[str, tuple[Sequence[int], Any]],
    value: Callable[[str], np.ndarray],
    extra: bytes = b"",
) -> None:
    """A `torch.save` archive of a flat dict: shapes and dtypes by name, values as they are needed.

    `extra` are opcodes run before the dict is built, for tests of hostile files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    root = path.stem
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{root}/data.pkl", _pickled(shapes, extra))
        archive.writestr(f"{root}/byteorder", "little")
        for number, name in enumerate(shapes):
            with archive.open(f"{root}/data/{number}", "w", force_zip64=True) as file:
                file.write(np.ascontiguousarray(value(name)).reshape(-1).view(np.uint8).data)
        archive.writestr(f"{root}/version", "3\n")


def plain(value: Any) -> bytes:
    """Opcodes that put a plain value on the stack."""
    return pickle.dumps(value, 2)[2:-1]  # without the protocol and the stop


def tensor_opcodes(number: int, shape: Sequence[int], dtype: Any) -> bytes:
    """Opcodes that put a tensor on the stack, whose bytes are the archive's data/NUMBER."""
    ordered = b"ccollections\nOrderedDict\n)R"
    strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    kind = f"ctorch\n{_STORAGES[np.dtype(dtype).name]}\n".encode()
    count = plain(int(np.prod(shape)))
    stored = b"(" + plain("storage") + kind + plain(str(number)) + plain("cpu") + count + b"tQ"
    arguments = stored + plain(0) + plain(tuple(shape)) + plain(strides) + plain(False) + ordered
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def _pickled(shapes: Mapping[str, tuple[Sequence[int], Any]], extra: bytes) -> bytes:
    """The pickle that torch writes for these tensors, opcode by opcode (see `pickletools.dis`)."""
    out = b"\x80\x02" + extra + b"ccollections\nOrderedDict\n)R("
    for number, (name, (shape, dtype)) in enumerate(shapes.items()):
        out += plain(name) + tensor_opcodes(number, shape, dtype)
    return out + b"u."


def write_pth(path: Path, values: Tensors, extra: bytes = b"") -> None:
    described = {name: (value.shape, value.dtype) for name, value in values.items()}
    write_zip(path, described, values.__getitem__, extra)


def wan_release(
    folder: Path, networks: Sequence[str] = ("dit", "vae", "text_encoder")
) -> dict[str, dict[str, np.ndarray]]:
    """A tiny release in Wan's layout; its tensors by network."""
    made = {name: tensors(name, "wan", seed=i) for i, name in enumerate(networks)}
    if "dit" in made:
        write_safetensors(folder / "diffusion_pytorch_model.safetensors", made["dit"])
        settings = {"num_heads": TINY["dit"].heads, "text_len": TINY["dit"].text_length}
        (folder / "config.json").write_text(json.dumps(settings))
    if "vae" in made:
        write_pth(folder / "Wan2.1_VAE.pth", made["vae"])
    if "text_encoder" in made:
        write_pth(folder / "models_t5_umt5-xxl-enc-bf16.pth", made["text_encoder"])
        tokenizer = folder / "google/umt5-xxl"
        tokenizer.mkdir(parents=True)
        (tokenizer / "spiece.model").write_bytes(b"pieces")
        (tokenizer / "tokenizer_config.json").write_text("{}")
    return made


def diffusers_release(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """A tiny release in the layout of diffusers; its tensors by network."""
    dit, vae, text = TINY["dit"], TINY["vae"], TINY["text_encoder"]
    places = {
        "dit": (
            "diffusers",
            "transformer/diffusion_pytorch_model",
            {"num_attention_heads": dit.heads},
        ),
        "vae": ("diffusers", "vae/diffusion_pytorch_model", {"latents_mean": vae.mean}),
        "text_encoder": ("transformers", "text_encoder/model", {"layer_norm_epsilon": text.eps}),
    }
    made = {}
    for name, (layout, stem, settings) in places.items():
        made[name] = tensors(name, layout)
        write_safetensors(folder / f"{stem}.safetensors", made[name])
        (folder / stem).with_name("config.json").write_text(json.dumps(settings))
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    return made


def random_network(network: Any, config: Any, seed: int = 0) -> Any:
    """A network of this config in which no parameter is zero or one."""
    made = nnx.eval_shape(lambda: network(config, FLOAT32, rngs=nnx.Rngs(seed)))
    rng = np.random.default_rng(seed)
    values = {
        path: jnp.asarray(rng.standard_normal(value.shape, np.float32))
        for path, value in flat(made).items()
    }
    return with_params(made, values)
