"""A run of 80 updates that fit a line, slow enough to be disturbed, for processes that launch.sh starts."""

import functools
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from omnihuman_jax.models import directory
from omnihuman_jax.training.experiment import Experiment, MeshSizes, Saving
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.stages import Stage
from omnihuman_jax.training.step import Update
from omnihuman_jax.training.streams import Numbered
from omnihuman_jax.training.task import Cost, Trainee, tally

STEPS, EVERY, WIDTH = 80, 5, 24


@dataclass(frozen=True, kw_only=True)
class Line:
    """A vector that is found again from its products with others; its parameters lie on all devices."""

    seconds: float = 0.08  # that a batch takes to come

    def prepare(self, stages, mesh, seed):
        shape = jax.ShapeDtypeStruct(
            (WIDTH,), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp"))
        )
        return Trainee(
            shapes={"line": shape},
            init=lambda: {"line": jax.device_put(np.zeros(WIDTH, np.float32), shape.sharding)},
            losses={stage.name: self.loss for stage in stages},
            stream=functools.partial(self.stream, seed),
            cost=lambda batch: Cost(len(batch[0]), len(batch[0])),
            export=lambda path, params, provenance: directory.save(
                path, {}, weights="safetensors", provenance=dict(provenance), overwrite=True
            ),
        )

    def loss(self, params, batch, key):
        x, y = batch
        noise = 0.1 * jax.random.normal(key, y.shape)
        errors = (x @ params["line"] - y + noise) ** 2
        return jnp.mean(errors), {"error": tally(errors)}

    def stream(self, seed, stage):
        share = stage.batch // jax.process_count()
        rows = slice(jax.process_index() * share, (jax.process_index() + 1) * share)

        def make(n):
            time.sleep(self.seconds)
            x = np.random.default_rng([seed, n]).standard_normal((stage.batch, WIDTH), np.float32)
            return x[rows], (x @ np.sin(np.arange(WIDTH, dtype=np.float32)))[rows]

        return Numbered(make, {"seed": seed, "stage": stage.name}, ahead=1)


experiment = Experiment(
    name="small",
    task=Line(),
    stages=(Stage(name="line", steps=STEPS, batch=16),),
    optimizer=Optimizer(learning_rate=1e-2, warmup=2),
    update=Update(ema=0.9),
    mesh=MeshSizes(data=1, fsdp=-1),
    save=Saving(every=EVERY),
    watch=Watch(every=1, wandb="off", tensorboard=False),
)
