"""Seaweed-APT on the built-in model: adversarial post-training of the consistency student, for 1 and 2 steps.

    omnihuman distill configs/mini_cd.py        # its docstring says how the records are made
    omnihuman distill configs/mini_apt.py

Pictures, then clips, the discriminator anew from the diffusion weights in each, as in the paper (arXiv
2501.08316, section 3.5). Its batches are 9062 and 2048, its learning rates 5e-6 and 3e-6 for 8 B
parameters; on 2 CPU cores batches are small, so what the student knows of its conditions is kept by a
consistency loss beside the adversarial one (`keep`), and the discriminator is shown real clips with other
sounds (`mismatched`). Neither is in the paper. The second step is trained too (`second`).

Hardware: 2 CPU cores, three quarters of an hour with other work beside it. What it scores: docs/log.md.
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
    keep=1.0,
)
FLOORS = (Floor(name="critic/adversarial", least=0.02), Floor(name="diversity", least=0.2))
RATIOS = Ratios(text=1.0, reference=0.9, audio=0.75, pose=0.25, motion=0.3)


def optimizers(rate: float) -> dict[str, object]:
    """RMSProp with alpha 0.9, no weight decay, no clipping, an average of 0.995 (section 3.5)."""
    moved = Optimizer(kind="rmsprop", learning_rate=rate, beta2=0.9, warmup=20, weight_decay=0.0)
    return dict(
        optimizer=moved,
        parts=(Part(name="critic", optimizer=moved),),
        update=Update(ema=0.995, clip=None),
        save=Saving(every=100),
        watch=Watch(every=20, wandb="off"),
        floors=FLOORS,
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
                critique=Critique(shift=1.0, sigma=0.01),
            ),
            stages=(OmniStage(name="pictures", steps=120, batch=32, ratios=TEXT_AND_REFERENCE),),
            **optimizers(1e-4),
        ),
        Experiment(
            name="clips",
            task=Adversarial(
                **COMMON,
                data="runs/records/clips",
                critique=Critique(mismatched=1.0),
                second=0.4,
            ),
            stages=(
                OmniStage(name="clips", steps=400, batch=8, ratios=RATIOS),
                OmniStage(
                    name="longer", steps=60, batch=5, data="runs/records/longer", ratios=RATIOS
                ),
            ),
            **optimizers(1e-4),
        ),
    ),
)
