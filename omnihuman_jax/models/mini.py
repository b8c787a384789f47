"""The built-in small model: the sizes of its networks, and where its weights lie."""

import dataclasses
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from omnihuman_jax.models.building import Precision, arbitrary
from omnihuman_jax.models.conditioner import AudioConfig, PoseConfig
from omnihuman_jax.models.directory import ModelDirectory, open_directory
from omnihuman_jax.models.dit import DiTConfig
from omnihuman_jax.models.manifest import KINDS, Manifest
from omnihuman_jax.models.offload import sent
from omnihuman_jax.models.umt5 import BYTES, UMT5Config
from omnihuman_jax.models.vae import VAEConfig
from omnihuman_jax.models.wav2vec2 import Wav2Vec2Config

NAME, ONE_STEP, UNTRAINED = "mini", "mini-1step", "mini-untrained"
FOLDER = Path(__file__).parent.parent / NAME  # written by models/joining.py --ship
ONE_STEP_FOLDER = FOLDER.with_name("mini_1step")  # the same, --only dit
TEXT_LENGTH = 240  # bytes of a caption, padding included
# Of a latent. Wan2.1 has 16: a cell of 8x8 pixels of a small picture holds more than one of a large one.
# (Linear codes of puppets at 64x64, 4 frames at a time: 24.1 dB with 16 numbers a cell, 27.8 with 48.)
CHANNELS = 48

# Every network has the shape of the released one; only the numbers are smaller.
CONFIGS = {
    "dit": DiTConfig(
        width=256,
        channels=CHANNELS,
        mlp=1024,
        heads=4,
        layers=6,
        text_width=128,
        text_length=TEXT_LENGTH,
        audio=AudioConfig(width=96, layers=5, window=5, hidden=256),
        pose=PoseConfig(joints=17, hidden=32, channels=4),
    ),
    "vae": VAEConfig(
        dim=16,
        channels=CHANNELS,
        multipliers=(1, 2, 4),
        temporal=(True, True),
        patch=2,  # two fifths of the price of a step of dim=8 and four stages, as good after as many
        blocks=1,
        mean=(0.0,) * CHANNELS,
        std=(1.0,) * CHANNELS,
    ),
    "text_encoder": UMT5Config(vocab=384, width=128, mlp=256, heads=4, head_width=32, layers=4),
    "audio_encoder": Wav2Vec2Config(
        width=96, layers=4, heads=4, mlp=192, channels=64, position_kernel=32, position_groups=8
    ),
}
SAMPLING = {
    "steps": 6,
    "shift": 3.0,
    # That of the sound is OmniHuman-1's; that of words harms faces here (docs/log.md).
    "guidance": 1.0,
    "audio_guidance": 6.5,
    "fps": 25,
    "frames": 49,
    "area": 64 * 64,
    "example": "puppet.png",  # the reference where the user gives nothing
    "knows": "drawn puppets",
}


class Untrained(ModelDirectory):
    """A model that nobody trained: it runs, and what it makes is noise."""

    def load(
        self,
        name: str,
        precision: Precision,
        mesh: Mesh | None = None,
        *,
        config: Any = None,
        seed: int = 0,
        offload: bool = False,
    ) -> Any:
        network, config = KINDS[name].network, config or self.config(name)
        made = arbitrary(lambda rngs: network(config, precision, rngs=rngs), seed)
        return sent(made) if offload else made


def mini() -> ModelDirectory:
    """The built-in model, trained on puppets; its `manifest.provenance` tells how."""
    return open_directory(str(FOLDER))


def one_step() -> ModelDirectory:
    """The built-in model distilled to one or two steps: a transformer of its own, all else is mini's."""
    own, whole = open_directory(str(ONE_STEP_FOLDER)), mini()
    return dataclasses.replace(
        own,
        manifest=dataclasses.replace(
            own.manifest,
            configs={**whole.manifest.configs, **own.manifest.configs},
            weights={**whole.manifest.weights, **own.manifest.weights},
            provenance={**whole.manifest.provenance, **own.manifest.provenance},
        ),
        elsewhere={
            name: whole.folder(name)
            for name in whole.manifest.configs
            if name not in own.manifest.configs
        },
    )


def untrained() -> ModelDirectory:
    """A model of the same sizes with arbitrary weights; its `manifest.provenance` says so."""
    manifest = Manifest(
        configs=CONFIGS,
        weights=dict.fromkeys(CONFIGS, "safetensors"),
        tokenizer=BYTES,
        sampling=SAMPLING,
        provenance={"untrained": True},
    )
    return Untrained(UNTRAINED, manifest)


def find(name_or_path: str) -> ModelDirectory:
    """A built-in model ("mini", "mini-1step", "mini-untrained"), or the model directory at a path, local or gs://.

    Raises:
        InputError: neither.
    """
    built_in = {NAME: mini, ONE_STEP: one_step, UNTRAINED: untrained}.get(name_or_path)
    return open_directory(name_or_path) if built_in is None else built_in()
