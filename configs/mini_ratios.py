"""What the points of the ablation of ratios are trained by: `mini` learns to hear and to be posed anew.

    omnihuman ablate configs/ablate_ratios.py

makes the records and trains all points; alone, a point is `omnihuman train configs/mini_ratios.py`.

Training starts where OmniHuman-1's ratios begin to matter (section 3.3): at a model that knows text and
reference, and neither sound nor pose. That is `mini` without its audio and pose inputs, which start as in a
new network. Why so, and not from all of `mini` or from nothing: docs/ablation.md.

Hardware: 2 CPU cores with other work beside it, six minutes a point.
"""

from omnihuman_jax.models.mini import CONFIGS, SAMPLING
from omnihuman_jax.training.experiment import Experiment, Saving
from omnihuman_jax.training.flow_matching import FlowMatching, Times
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.stages import OmniStage, Ratios
from omnihuman_jax.training.step import Update

experiment = Experiment(
    name="mini_ratios",
    task=FlowMatching(
        model="runs/ablate/silent",
        data="runs/ablate/clips",
        start="model",
        compute="float32",  # a CPU is no faster in bfloat16
        remat="none",
        times=Times(shift=1.0),
        lively=2.0,
        network=CONFIGS["dit"],
        sampling=SAMPLING,
    ),
    stages=(
        OmniStage(name="clips", steps=240, batch=8, ratios=Ratios()),
        OmniStage(name="longer", steps=30, batch=5, data="runs/ablate/longer", ratios=Ratios()),
    ),
    optimizer=Optimizer(
        kind="adamw", learning_rate=1e-3, schedule="wsd", decay=0.3, warmup=30, weight_decay=0.01
    ),
    update=Update(ema=0.99),
    save=Saving(every=100),
    watch=Watch(every=25, wandb="off"),
)
