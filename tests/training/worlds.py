"""A transformer of two layers, a model directory that holds it, and records that fit it."""

import dataclasses
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp

from omnihuman_jax.data import records
from omnihuman_jax.data.records import ShardWriter
from omnihuman_jax.models import directory, mini
from omnihuman_jax.models.building import FLOAT32, arbitrary
from omnihuman_jax.models.conditioner import AudioConfig, PoseConfig
from omnihuman_jax.models.dit import DiTConfig, OmniHumanDiT
from omnihuman_jax.training.flow_matching import FlowMatching
from omnihuman_jax.training.stages import OmniStage, Ratios
from tests.data import datasets

CONFIG = DiTConfig.tiny(
    channels=4,
    text_width=6,
    text_length=6,
    audio=AudioConfig(width=3, layers=2, window=3, hidden=8),
    pose=PoseConfig(joints=17, hidden=4, channels=2),
)


@cache
def network():
    with jax.ensure_compile_time_eval():  # kept for all tests, whoever asks first, be it in a trace
        return arbitrary(lambda rngs: OmniHumanDiT(CONFIG, FLOAT32, rngs=rngs))


def task(folder: Path, **changes) -> FlowMatching:
    """Flow matching on 12 records, from a model directory, all below `folder`."""
    model, data = str(folder / "model"), str(folder / "records")
    if not (folder / "records").exists():
        directory.save(model, {"dit": network()}, weights="safetensors")
        write(data)
    settings = dict(model=model, data=data, compute="float32", remat="none")
    return FlowMatching(**(settings | changes))


def write(folder: str) -> None:
    """12 records of one size, 9 frames of 32x32; every third has no sound, every third also a pose."""
    with ShardWriter(folder, "t", 0, 1) as out:
        for number in range(1, 25, 2):
            out.write(datasets.example(number))
    prints = datasets.FINGERPRINTS
    records.write_info(
        folder, records.info_from_shards(folder, "t", 1, prints, fps=25.0, channels=4)
    )


def stage(name: str = "all", *, steps: int = 4, batch: int = 8, **ratios) -> OmniStage:
    return OmniStage(name=name, steps=steps, batch=batch, ratios=Ratios(**ratios))


def on_device(batch):
    """A host's batch as jax arrays."""
    return jax.tree.map(jnp.asarray, batch)


def tiny_of_mini() -> DiTConfig:
    """A transformer that takes what the encoders of the built-in model make."""
    config = mini.CONFIGS["dit"]
    return DiTConfig.tiny(
        channels=config.channels,
        text_width=config.text_width,
        text_length=config.text_length,
        audio=dataclasses.replace(config.audio, hidden=8),
        pose=PoseConfig(joints=17, hidden=4, channels=2),
    )
