"""Seaweed-APT on Wan2.1 1.3B with the omni-conditions: consistency, pictures, videos; one step.

    omnihuman train configs/omni_1_3b.py --workdir runs/omni_1_3b …              # the teacher
    omnihuman distill configs/apt_1_3b.py phases.consistency.task.model=runs/omni_1_3b/model …

As configs/apt_14b.py, whose docstring says where each number is from, at 480p x 81 frames and with what a
slice of eight chips or one large GPU can hold: batches of 64 and 32 in parts. The paper's batches (9062 and
2048) and AAPT's 256 were far larger; 256 is where the paper saw video collapse, so expect to need `keep` or
more parts, and watch the floors.

Hardware: by sizes, three networks with RMSProp take 26 GB in float32 (research/papers.md 3.3): eight v6e
chips or one GPU of 80 GB. `omnihuman plan configs/apt_1_3b.py --slice v6e-8` asks the compiler. Never run.
"""

from omnihuman_jax.models.conditioner import AudioConfig, PoseConfig
from omnihuman_jax.models.dit import DiTConfig
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
    model="models/omni-1.3b",
    network=DiTConfig(audio=AudioConfig(), pose=PoseConfig()),
    remat="full",
    guidance=7.5,
)
RATIOS = Ratios(text=1.0, reference=0.9, audio=0.5, pose=0.25)


def adversarial(rate: float) -> dict[str, object]:
    """arXiv 2501.08316, section 3.5."""
    moved = Optimizer(kind="rmsprop", learning_rate=rate, beta2=0.9, warmup=0, weight_decay=0.0)
    return dict(
        optimizer=moved,
        parts=(Part(name="critic", optimizer=moved),),
        mesh=MeshSizes(data=1, fsdp=-1),
        save=Saving(every=50, keep=5),
        watch=Watch(every=10),
        floors=(
            Floor(name="critic/adversarial", least=0.05, over=20),
            Floor(name="diversity", least=0.3, over=20),
        ),
    )


experiment = Course(
    name="apt_1_3b",
    phases=(
        Experiment(
            name="consistency",
            task=Consistency(**COMMON, data="records/clips"),
            stages=(OmniStage(name="clips", steps=5000, batch=32, ratios=RATIOS),),
            optimizer=Optimizer(learning_rate=1e-5, warmup=100, weight_decay=0.01),
            update=Update(ema=0.995, accumulate=4),
            mesh=MeshSizes(data=1, fsdp=-1),
            save=Saving(every=250),
        ),
        Experiment(
            name="pictures",
            task=Adversarial(
                **COMMON, data="records/pictures", critique=Critique(shift=1.0, sigma=0.01)
            ),
            stages=(OmniStage(name="pictures", steps=700, batch=64, ratios=TEXT_AND_REFERENCE),),
            update=Update(ema=0.995, clip=None, accumulate=8),
            **adversarial(5e-6),
        ),
        Experiment(
            name="videos",
            task=Adversarial(**COMMON, data="records/clips", critique=Critique()),
            stages=(OmniStage(name="videos", steps=600, batch=32, ratios=RATIOS),),
            update=Update(ema=0.995, clip=None, accumulate=4),
            **adversarial(3e-6),
        ),
    ),
)
