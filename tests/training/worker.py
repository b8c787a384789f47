"""One of the processes of a run: `python -m tests.training.worker DEVICES WORLD WORKDIR`."""

import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_default_matmul_precision", "highest")

from omnihuman_jax import processes  # noqa: E402
from omnihuman_jax.training.loop import train  # noqa: E402
from tests.training import test_processes  # noqa: E402

if __name__ == "__main__":
    devices, world, workdir = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    with processes.joined():
        print(train(test_processes.experiment(Path(world)), workdir), flush=True)
