"""Continuous-time consistency with a little distribution matching (rCM) on the built-in model, a baseline.

    omnihuman distill configs/mini_cd.py        # its docstring says how the records are made
    omnihuman distill configs/mini_rcm.py

rCM (arXiv 2510.08431) starts from the teacher; with so few updates this starts from the consistency student.
Its derivative along the path is `jax.jvp` through the network (docs/decisions/0009). Steps count both
networks: 170 are 85 updates of the student.

Hardware: 2 CPU cores, half an hour with other work beside it. What it scores: docs/log.md.
"""

from omnihuman_jax.training.collapse import Floor
from omnihuman_jax.training.distill.continuous import Continuous
from omnihuman_jax.training.experiment import Experiment, Part, Saving
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.stages import OmniStage, Ratios
from omnihuman_jax.training.step import Update

RATIOS = Ratios(text=1.0, reference=0.9, audio=0.75, pose=0.25, motion=0.3)

experiment = Experiment(
    name="mini_rcm",
    task=Continuous(
        model="mini",
        data="runs/records/clips",
        student="runs/mini_cd/mini_cd/model",
        compute="float32",
        remat="none",
        guidance=1.0,
        audio_guidance=6.5,
        time_shift=3.0,
        fake_updates=1,
        warmup=60,
        second=0.4,
    ),
    stages=(
        OmniStage(name="clips", steps=140, batch=8, ratios=RATIOS),
        OmniStage(name="longer", steps=30, batch=5, data="runs/records/longer", ratios=RATIOS),
    ),
    # Adam without momentum (research/papers.md 3.6).
    optimizer=Optimizer(learning_rate=5e-5, beta1=0.0, beta2=0.999, warmup=10, weight_decay=0.0),
    parts=(
        Part(
            name="fake",
            optimizer=Optimizer(
                learning_rate=3e-4, beta1=0.0, beta2=0.999, warmup=10, weight_decay=0.0
            ),
        ),
    ),
    update=Update(ema=0.95, clip=None),
    save=Saving(every=100),
    watch=Watch(every=20, wandb="off"),
    floors=(Floor(name="diversity", least=0.2, over=20),),
)
