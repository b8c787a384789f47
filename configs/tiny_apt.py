"""All of distillation in minutes: dump, consistency, pictures, clips. The teacher is the built-in model.

    omnihuman distill configs/tiny_apt.py

Hardware: any CPU, ten minutes at most. Puppets are drawn and encoded into the workdir the first time, `mini`
makes its dump, the student learns from it, and discriminators of `mini`'s size take their turns. It proves
that all of it runs, saves and resumes; so few updates make the student no better.
"""

from omnihuman_jax.puppet_records import Cut, Rehearsal
from omnihuman_jax.training.collapse import Floor
from omnihuman_jax.training.distill.adversarial import Adversarial, Critique
from omnihuman_jax.training.distill.consistency import Consistency
from omnihuman_jax.training.distill.course import Course
from omnihuman_jax.training.experiment import Experiment, MeshSizes, Part, Saving
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.stages import TEXT_AND_REFERENCE, OmniStage, Ratios
from omnihuman_jax.training.step import Update

COMMON = dict(
    model="mini",
    data="",  # the rehearsal's
    compute="float32",
    remat="none",
    guidance=1.0,
    audio_guidance=6.5,
)
RATIOS = Ratios(text=1.0, reference=0.9, audio=0.75, pose=0.25)
MOVED = Optimizer(kind="rmsprop", learning_rate=1e-5, beta2=0.9, warmup=2, weight_decay=0.0)
RUN = dict(mesh=MeshSizes(data=-1, fsdp=1), save=Saving(every=4), watch=Watch(every=2, wandb="off"))

experiment = Course(
    name="tiny_apt",
    rehearsal=Rehearsal(cuts=(Cut(frames=17, pieces=2),)),
    phases=(
        Experiment(
            name="consistency",
            task=Consistency(**COMMON, level_shift=3.0, taught=4),
            stages=(OmniStage(name="clips", steps=8, batch=4, ratios=RATIOS),),
            optimizer=Optimizer(learning_rate=1e-4, warmup=2, weight_decay=0.0),
            update=Update(ema=0.9),
            **RUN,
        ),
        Experiment(
            name="pictures",
            task=Adversarial(**COMMON, critique=Critique(shift=1.0, sigma=0.01)),
            stages=(OmniStage(name="pictures", steps=6, batch=4, ratios=TEXT_AND_REFERENCE),),
            optimizer=MOVED,
            parts=(Part(name="critic", optimizer=MOVED),),
            update=Update(ema=0.9, clip=None),
            **RUN,
        ),
        Experiment(
            name="clips",
            task=Adversarial(
                **COMMON, critique=Critique(mismatched=1.0), second=0.5, keep=1.0, level_shift=3.0
            ),
            stages=(OmniStage(name="clips", steps=6, batch=4, ratios=RATIOS),),
            optimizer=MOVED,
            parts=(Part(name="critic", optimizer=MOVED),),
            update=Update(ema=0.9, clip=None),
            floors=(Floor(name="critic/adversarial", least=0.02),),
            **RUN,
        ),
    ),
)
