"""Consistency distillation of the built-in model: the student that Seaweed-APT begins with.

    omnihuman puppets runs/puppets64 --clips 900 --size 64x64
    python -m omnihuman_jax.puppet_records runs/puppets64 runs/records/clips --model mini --cut 25x3
    (the same for runs/records/pictures, --cut 1x4, and runs/records/longer, --cut 49x1)
    omnihuman distill configs/mini_cd.py

32 steps and no average for the target are AAPT's (arXiv 2506.09350, research/papers.md 3.4); it has a shift
of 24 for clips of many thousand tokens, those of `mini` have 112 to 208. Guidance is what `mini` samples with
(docs/log.md), and not APT's 7.5 for text.

Hardware: 2 CPU cores, half an hour with other work beside it. What it scores: docs/log.md.
"""

from omnihuman_jax.training.distill.consistency import Consistency
from omnihuman_jax.training.experiment import Experiment, Saving
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.stages import OmniStage, Ratios
from omnihuman_jax.training.step import Update

# A student needs no guidance, so text is never dropped; sound is what it is for.
RATIOS = Ratios(text=1.0, reference=0.9, audio=0.75, pose=0.25, motion=0.3)

experiment = Experiment(
    name="mini_cd",
    task=Consistency(
        model="mini",
        data="runs/records/clips",
        compute="float32",  # a CPU is no faster in bfloat16
        remat="none",
        guidance=1.0,
        audio_guidance=6.5,
        level_shift=3.0,
    ),
    stages=(
        OmniStage(name="clips", steps=500, batch=8, ratios=RATIOS),
        OmniStage(name="longer", steps=150, batch=4, data="runs/records/longer", ratios=RATIOS),
    ),
    optimizer=Optimizer(
        kind="adamw", learning_rate=3e-4, schedule="wsd", decay=0.3, warmup=50, weight_decay=0.0
    ),
    update=Update(ema=0.99),
    save=Saving(every=100),
    watch=Watch(every=25, wandb="off"),
)
