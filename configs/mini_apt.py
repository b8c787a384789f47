"""Seaweed-APT on the built-in model: adversarial post-training of the consistency student, for 1 and 2 steps.

    omnihuman distill configs/mini_cd.py        # its docstring says how the records are made
    omnihuman distill configs/mini_apt.py

Pictures, then clips, the discriminator anew from the diffusion weights in each, as in the paper (arXiv
2501.08316, section 3.5). Its batches are 9062 and 2048; here they are 16 and 8, and there what is published
did not do (docs/log.md): with RMSProp at one rate for both and an R1 of 100 the discriminator stayed at
chance, and the generator drifted. So the discriminator has Adam at ten times the generator's rate, an R1 of
10 and two updates for each of the generator's, and a consistency loss beside the adversarial one (`keep`)
holds on to what the student knows of its conditions. The second of two steps is trained too (`second`). It
ends early: 300 updates of clips had sharper pictures and lost the lips.

Hardware: 2 CPU cores, a quarter of an hour with other work beside it. What it scores: docs/log.md.
"""

from omnihuman_jax.training.collapse import Floor
from omnihuman_jax.training.distill.adversarial import Adversarial, Critique
from omnihuman_jax.training.distill.course import Course
from omnihuman_jax.training.experiment import Experiment, Part, Saving
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.stages import TEXT_AND_REFERENCE, OmniStage, Ratios
from omnihuman_jax.training.step import Update

COMMON = dict(
    model="mini",
    compute="float32",
    remat="none",
    guidance=1.0,
    audio_guidance=6.5,
    level_shift=3.0,
    keep=30.0,  # the two losses' gradients are then about as long as each other
    critic_updates=2,
)
RATIOS = Ratios(text=1.0, reference=0.9, audio=0.75, pose=0.25, motion=0.3)
RUN = dict(
    # Alpha 0.9, no weight decay, no clipping, an average of 0.995 (section 3.5).
    optimizer=Optimizer(kind="rmsprop", learning_rate=3e-5, beta2=0.9, warmup=10, weight_decay=0.0),
    parts=(
        Part(
            name="critic",
            optimizer=Optimizer(
                learning_rate=3e-4, beta1=0.5, beta2=0.99, warmup=5, weight_decay=0.0
            ),
        ),
    ),
    update=Update(ema=0.995, clip=None),
    save=Saving(every=30),
    watch=Watch(every=15, wandb="off"),
    floors=(Floor(name="critic/adversarial", least=0.02), Floor(name="diversity", least=0.2)),
)


experiment = Course(
    name="mini_apt",
    phases=(
        Experiment(
            name="pictures",
            task=Adversarial(
                **COMMON,
                data="runs/records/pictures",
                student="runs/mini_cd/mini_cd/model",
                critique=Critique(shift=1.0, sigma=0.01, r1=10.0),
            ),
            stages=(OmniStage(name="pictures", steps=45, batch=16, ratios=TEXT_AND_REFERENCE),),
            **RUN,
        ),
        Experiment(
            name="clips",
            task=Adversarial(
                **COMMON,
                data="runs/records/clips",
                critique=Critique(r1=10.0),
                second=0.5,
            ),
            stages=(OmniStage(name="clips", steps=90, batch=8, ratios=RATIOS),),
            **RUN,
        ),
    ),
)
