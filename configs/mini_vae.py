"""The VAE of the built-in model `mini`, from nothing, on puppets.

    omnihuman puppets runs/puppets64 --clips 1350 --size 64x64
    omnihuman train configs/mini_vae.py --workdir runs/mini_vae

Hardware: 2 CPU cores, most of an hour. Sizes are Wan2.1's shape (arXiv 2503.20314, section 4.1.1) with
fewer channels, more of them in a latent, and squares of 2x2 pixels as input like Wan2.2's larger VAE; the
numbers are ours. The last pieces are as long as the clips the transformer sees: after training on 9 frames
only, colours drift at 13.
"""

from omnihuman_jax.models.mini import CONFIGS
from omnihuman_jax.training.autoencoder import Autoencoder, PieceStage
from omnihuman_jax.training.experiment import Experiment, Saving
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.step import Update

experiment = Experiment(
    name="mini_vae",
    task=Autoencoder(videos="runs/puppets64", config=CONFIGS["vae"], kl=1e-4),
    stages=(
        PieceStage(name="clips", steps=3000, batch=4, frames=9, size=64, focus=8.0),
        PieceStage(
            name="mouths", steps=2000, batch=16, frames=9, size=32, focus=16.0, about_mouths=True
        ),
        PieceStage(name="whole", steps=2000, batch=4, frames=9, size=64, focus=40.0),
        PieceStage(name="13 frames", steps=300, batch=3, frames=13, size=64, focus=40.0),
        PieceStage(name="17 frames", steps=300, batch=2, frames=17, size=64, focus=40.0),
        PieceStage(name="25 frames", steps=1000, batch=2, frames=25, size=64, focus=40.0),
    ),
    optimizer=Optimizer(
        kind="muon", learning_rate=5e-3, schedule="wsd", decay=0.25, warmup=30, weight_decay=0.0
    ),
    update=Update(ema=0.99),
    save=Saving(every=500),
    watch=Watch(every=50),
)
