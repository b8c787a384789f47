"""Distribution matching (DMD2) on the built-in model, a baseline of `mini_apt`, from the consistency student.

    omnihuman distill configs/mini_cd.py        # its docstring says how the records are made
    omnihuman distill configs/mini_dmd2.py

The fake network is moved five times for each update of the student (arXiv 2405.14867, section 4.2), without
the adversarial term (`task.gan=0.1` adds it). Steps count both: 900 are 150 updates of the student.

Hardware: 2 CPU cores, half an hour with other work beside it. What it scores: docs/log.md.
"""

from omnihuman_jax.training.collapse import Floor
from omnihuman_jax.training.distill.matching import Matching
from omnihuman_jax.training.experiment import Experiment, Part, Saving
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.stages import OmniStage, Ratios
from omnihuman_jax.training.step import Update

RATIOS = Ratios(text=1.0, reference=0.9, audio=0.75, pose=0.25, motion=0.3)

experiment = Experiment(
    name="mini_dmd2",
    task=Matching(
        model="mini",
        data="runs/records/clips",
        student="runs/mini_cd/mini_cd/model",
        compute="float32",
        remat="none",
        guidance=1.0,
        audio_guidance=6.5,
        time_shift=3.0,  # a clip of `mini` has few tokens
        second=0.4,
    ),
    stages=(
        OmniStage(name="clips", steps=750, batch=8, ratios=RATIOS),
        OmniStage(name="longer", steps=150, batch=5, data="runs/records/longer", ratios=RATIOS),
    ),
    # Adam without momentum, as DMD2 and rCM have it (research/papers.md 3.6).
    optimizer=Optimizer(learning_rate=1e-4, beta1=0.0, beta2=0.99, warmup=10, weight_decay=0.0),
    parts=(
        Part(
            name="fake",
            optimizer=Optimizer(
                learning_rate=3e-4, beta1=0.0, beta2=0.99, warmup=10, weight_decay=0.0
            ),
        ),
    ),
    update=Update(ema=0.95, clip=1.0),
    save=Saving(every=120),
    watch=Watch(every=30, wandb="off"),
    floors=(Floor(name="diversity", least=0.2, over=20),),
)
