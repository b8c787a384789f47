"""A run of 60 updates on the world in SMALL_WORLD, for processes that launch.sh starts."""

import os
from pathlib import Path

from omnihuman_jax.training.experiment import Experiment, MeshSizes, Saving
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.step import Update
from tests.training import worlds

STEPS, EVERY = 60, 5

experiment = Experiment(
    name="small",
    task=worlds.task(Path(os.environ["SMALL_WORLD"])),
    stages=(worlds.stage("pose", steps=STEPS, batch=4),),
    optimizer=Optimizer(learning_rate=1e-3, warmup=2),
    update=Update(ema=0.9),
    mesh=MeshSizes(data=-1, fsdp=1),
    save=Saving(every=EVERY),
    watch=Watch(every=1, wandb="off", tensorboard=False),
)
