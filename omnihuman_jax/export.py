"""A model directory -> checkpoints that other programs read: the layout of Wan or of diffusers.

Always safetensors, streamed a piece at a time, data types as stored. What plain Wan does not have (the
omni-conditions) goes to a file of its own, under our names, with the config that `convert` needs to
read it back.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from omnihuman_jax import orbax_layout, storage, torch_files
from omnihuman_jax.errors import InputError
from omnihuman_jax.models import directory
from omnihuman_jax.models.directory import ModelDirectory
from omnihuman_jax.models.lazy_array import LazyArray
from omnihuman_jax.models.manifest import CONFIG_KEY, KINDS
from omnihuman_jax.weights import Place, Rule, torch_names

Layout = Literal["wan", "diffusers"]
CONDITIONS = "omnihuman_conditions.safetensors"


@dataclass(frozen=True)
class _Target:
    """Where a network goes in a layout: its names' layout, its weights (stem of the file), its config."""

    names: str
    weights: str
    settings: str


_TARGETS: Mapping[str, Mapping[str, _Target]] = {
    "wan": {
        "dit": _Target("wan", "diffusion_pytorch_model", "config.json"),
        "vae": _Target("wan", "Wan2.1_VAE", ""),
        "text_encoder": _Target("wan", "models_t5_umt5-xxl-enc-bf16", ""),
        "audio_encoder": _Target("transformers", "wav2vec2/model", "wav2vec2/config.json"),
    },
    "diffusers": {
        "dit": _Target(
            "diffusers", "transformer/diffusion_pytorch_model", "transformer/config.json"
        ),
        "vae": _Target("diffusers", "vae/diffusion_pytorch_model", "vae/config.json"),
        "text_encoder": _Target("transformers", "text_encoder/model", "text_encoder/config.json"),
        "audio_encoder": _Target("transformers", "wav2vec2/model", "wav2vec2/config.json"),
    },
}
_TOKENIZER = {"wan": "google/umt5-xxl", "diffusers": "tokenizer"}
# As released: Wan's 1.3B DiT is one file of 5.7 GB; diffusers cuts at 5 GB.
_SHARD_BYTES = {"wan": 10_000_000_000, "diffusers": 5_000_000_000}


def export(
    model: str,
    destination: str,
    layout: Layout,
    *,
    shard_bytes: int | None = None,
    progress: bool = True,
) -> list[str]:
    """Write the networks of a model directory as safetensors; the files written, by relative name.

    In the layout "wan" the VAE and the text encoder, which Wan releases as .pth, are safetensors with
    the same tensor names.

    Raises:
        InputError: not a model directory, or `destination` is taken.
    """
    source = directory.open_directory(model)
    if storage.is_file(destination) or storage.files(destination):
        raise InputError(f"{destination} is not empty; give a new folder.")
    limit = shard_bytes or _SHARD_BYTES[layout]
    networks = {name: source.arrays(name) for name in source.manifest.configs}
    total = sum(array.nbytes for arrays in networks.values() for array in arrays.values())
    written: list[str] = []
    with tqdm(
        total=total, unit="B", unit_scale=True, disable=not progress, desc="Exporting"
    ) as bar:
        for name, arrays in networks.items():
            target, config = _TARGETS[layout][name], source.config(name)
            rules = KINDS[name].names.torch_rules(config, target.names)
            shapes = {path: array.shape for path, array in arrays.items()}
            places = torch_names(rules, shapes)
            written += _write_shards(
                storage.join(destination, target.weights), arrays, places, limit, bar
            )
            if target.settings:
                settings = json.dumps(_settings(name, config, layout), indent=2, sort_keys=True)
                storage.write_bytes(
                    storage.join(destination, target.settings), f"{settings}\n".encode()
                )
            if ours := arrays.keys() - {place.path for place in places.values()}:
                own = {path: Place(path, None, Rule(path, path)) for path in sorted(ours)}
                metadata = {CONFIG_KEY: json.dumps(dataclasses.asdict(config))}
                _write_file(storage.join(destination, CONDITIONS), arrays, own, bar, metadata)
                written.append(storage.join(destination, CONDITIONS))
    if source.manifest.tokenizer == "umt5":
        directory.copy_folder(
            storage.join(model, directory.TOKENIZER), storage.join(destination, _TOKENIZER[layout])
        )
    if layout == "diffusers":
        _write_pipeline(source, destination)
    return written


def _write_shards(
    stem: str,
    arrays: Mapping[str, LazyArray],
    places: Mapping[str, Place],
    limit: int,
    bar: Any,
) -> list[str]:
    """One file, or shards of at most `limit` bytes with an index; the files written."""
    shards: list[dict[str, Place]] = [{}]
    size = 0
    for name, place in places.items():
        nbytes = arrays[place.path].nbytes // (1 if place.row is None else len(arrays[place.path]))
        if size and size + nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = place
        size += nbytes
    if len(shards) == 1:
        _write_file(f"{stem}.safetensors", arrays, shards[0], bar)
        return [f"{stem}.safetensors"]
    count = len(shards)
    files = [f"{stem}-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for file, shard in zip(files, shards, strict=True):
        _write_file(file, arrays, shard, bar)
    owner = {
        name: file.rpartition("/")[2]
        for file, shard in zip(files, shards, strict=True)
        for name in shard
    }
    total = sum(arrays[path].nbytes for path in {place.path for place in places.values()})
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(owner.items()))}
    storage.write_bytes(
        f"{stem}.safetensors.index.json", (json.dumps(index, indent=2) + "\n").encode()
    )
    return files


def _write_file(
    path: str,
    arrays: Mapping[str, LazyArray],
    places: Mapping[str, Place],
    bar: Any,
    metadata: Mapping[str, str] | None = None,
) -> None:
    tensors = {}
    for name, place in places.items():
        array = arrays[place.path]
        shape = array.shape if place.row is None else array.shape[1:]
        # A view that takes no memory, only to ask for its shape in torch.
        as_torch = place.rule.undo(np.broadcast_to(np.int8(0), shape))
        tensors[name] = (as_torch.shape, array.dtype)

    def pieces(name: str) -> Iterator[np.ndarray]:
        for piece in _pieces(arrays[places[name].path], places[name]):
            bar.update(piece.nbytes)
            yield piece

    torch_files.write_safetensors(path, tensors, pieces, metadata)


def _pieces(array: LazyArray, place: Place) -> Iterator[np.ndarray]:
    """A torch tensor from its first row to its last, in the pieces in which `convert` wrote it."""
    lead: tuple[Any, ...] = () if place.row is None else (place.row,)
    shape = array.shape[len(lead) :]
    axis = place.rule.first_axis()
    if axis is None or not shape or 0 in shape:
        yield place.rule.undo(array[lead])
        return
    step = orbax_layout.piece_rows(shape, array.dtype.itemsize, axis)
    for first in range(0, shape[axis], step):
        index = (*lead, *[slice(None)] * axis, slice(first, min(first + step, shape[axis])))
        yield place.rule.undo(array[index])


def _write_pipeline(source: ModelDirectory, destination: str) -> None:
    """What diffusers' `WanPipeline.from_pretrained` needs beside the networks."""
    parts = {
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    }
    index = {"_class_name": "WanPipeline", "_diffusers_version": "0.35.0"} | parts
    scheduler = {
        "_class_name": "UniPCMultistepScheduler",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "num_train_timesteps": 1000,
        "flow_shift": source.manifest.sampling["shift"],
    }
    for name, content in (
        ("model_index.json", index),
        ("scheduler/scheduler_config.json", scheduler),
    ):
        data = (json.dumps(content, indent=2) + "\n").encode()
        storage.write_bytes(storage.join(destination, name), data)


def _settings(name: str, config: Any, layout: Layout) -> dict[str, Any]:
    """The config.json that the released checkpoint of this network has, with its own keys."""
    if name == "dit" and layout == "wan":
        return {
            "_class_name": "WanModel", "_diffusers_version": "0.30.0", "model_type": "t2v",
            "dim": config.width, "ffn_dim": config.mlp, "num_heads": config.heads,
            "num_layers": config.layers, "in_dim": config.channels, "out_dim": config.channels,
            "text_len": config.text_length, "freq_dim": config.frequencies, "eps": config.eps,
        }  # fmt: skip
    if name == "dit":
        return {
            "_class_name": "WanTransformer3DModel", "_diffusers_version": "0.35.0",
            "patch_size": [1, 2, 2], "num_attention_heads": config.heads,
            "attention_head_dim": config.head_width, "in_channels": config.channels,
            "out_channels": config.channels, "text_dim": config.text_width,
            "freq_dim": config.frequencies, "ffn_dim": config.mlp, "num_layers": config.layers,
            "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "eps": config.eps,
            "added_kv_proj_dim": None, "image_dim": None, "rope_max_seq_len": 1024,
        }  # fmt: skip
    if name == "vae":
        return {
            "_class_name": "AutoencoderKLWan", "_diffusers_version": "0.35.0",
            "base_dim": config.dim, "z_dim": config.channels, "dim_mult": config.multipliers,
            "num_res_blocks": config.blocks, "attn_scales": [], "dropout": 0.0,
            "temperal_downsample": config.temporal,  # diffusers' spelling
            "latents_mean": config.mean, "latents_std": config.std,
        }  # fmt: skip
    if name == "text_encoder":
        return {
            "architectures": ["UMT5EncoderModel"], "model_type": "umt5",
            "vocab_size": config.vocab, "d_model": config.width, "d_ff": config.mlp,
            "num_heads": config.heads, "d_kv": config.head_width, "num_layers": config.layers,
            "relative_attention_num_buckets": config.buckets,
            "relative_attention_max_distance": config.max_distance,
            "layer_norm_epsilon": config.eps, "feed_forward_proj": "gated-gelu",
            "is_encoder_decoder": True, "tie_word_embeddings": False,
        }  # fmt: skip
    return {
        "architectures": ["Wav2Vec2Model"], "model_type": "wav2vec2",
        "hidden_size": config.width, "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads, "intermediate_size": config.mlp,
        "conv_dim": [config.channels] * 7, "conv_bias": config.conv_bias,
        "feat_extract_norm": config.conv_norm, "do_stable_layer_norm": config.pre_norm,
        "num_conv_pos_embeddings": config.position_kernel,
        "num_conv_pos_embedding_groups": config.position_groups,
    }  # fmt: skip
