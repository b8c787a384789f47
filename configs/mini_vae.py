"""The VAE of the built-in model `mini`, from nothing, on puppets.

    omnihuman puppets runs/puppets96 --clips 2000 --size 96x96
    omnihuman train configs/mini_vae.py --workdir runs/mini_vae

The present result is too blurred to show mouths (docs/log.md).

Hardware: 2 CPU cores. Sizes are Wan2.1's shape (arXiv 2503.20314, section 4.1.1) with fewer channels.
Pictures first, then clips, as Wan's VAE was trained (same section); the numbers are ours.
"""

from omnihuman_jax.models.mini import CONFIGS
from omnihuman_jax.training.autoencoder import Autoencoder, PieceStage
from omnihuman_jax.training.experiment import Experiment, Saving
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.step import Update

experiment = Experiment(
    name="mini_vae",
    task=Autoencoder(videos="runs/puppets96", config=CONFIGS["vae"]),
    stages=(
        PieceStage(name="pictures", steps=2400, batch=8, frames=1, size=96),
        PieceStage(name="clips", steps=2000, batch=4, frames=9, size=64),
    ),
    optimizer=Optimizer(
        kind="adamw", learning_rate=2e-3, schedule="cosine", warmup=50, weight_decay=0.0
    ),
    update=Update(ema=0.998),
    save=Saving(every=300),
    watch=Watch(every=20),
)
