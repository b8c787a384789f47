"""Seaweed-APT on Wan2.1 14B with the omni-conditions: consistency, pictures, videos; one step.

    omnihuman train configs/omni_14b.py --workdir gs://YOURS/omni_14b …          # the teacher
    omnihuman distill configs/apt_14b.py --workdir gs://YOURS/apt_14b --distributed \\
        phases.0.task.model=gs://YOURS/omni_14b/model …                          # and so on, see --settings

What the numbers are (arXiv 2501.08316, sections 3.1 to 3.5, research/papers.md 3.1): guidance 7.5 with one
negative prompt; discriminator from the diffusion weights, all of it trained; R1 of 100 with a deviation of
0.01 for pictures and 0.1 for videos; times shifted by 1 and 12; RMSProp with alpha 0.9, no decay, no
clipping; 5e-6 and 3e-6; batches of 9062 (here 9088, which 64 divides) and 2048; an average of 0.995 after 350
and 300 updates of the generator. An update of the discriminator and one of the generator are two steps here.
The consistency phase is that of its successor, AAPT, which tells what the paper does not (arXiv 2506.09350,
research/papers.md 3.4): 32 levels, a shift of 24, AdamW with 1e-5 and 0.01, no average for the target, 5,000
updates; guidance is the paper's.

Hardware: the adversarial step at 720p x 49 frames (46,800 tokens, the paper's) by the TPU compiler, on 256
v6e chips (mesh.fsdp=64 mesh.context=4): `python -m benchmarks.distill_tpu`, benchmarks/RESULTS.md. The paper
took 1024 H100. No run of this on real data or on a TPU has been made.
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
    model="models/omni-14b",
    network=DiTConfig.large(audio=AudioConfig(), pose=PoseConfig()),
    remat="full",
    guidance=7.5,
)
RATIOS = Ratios(text=1.0, reference=0.9, audio=0.5, pose=0.25)


def adversarial(rate: float) -> dict[str, object]:
    """Section 3.5."""
    moved = Optimizer(kind="rmsprop", learning_rate=rate, beta2=0.9, warmup=0, weight_decay=0.0)
    return dict(
        optimizer=moved,
        parts=(Part(name="critic", optimizer=moved),),
        mesh=MeshSizes(data=1, fsdp=-1),
        save=Saving(every=20, keep=5),
        watch=Watch(every=2),
        floors=(
            Floor(name="critic/adversarial", least=0.05, over=20),
            Floor(name="diversity", least=0.3, over=20),
        ),
    )


experiment = Course(
    name="apt_14b",
    phases=(
        Experiment(
            name="consistency",
            task=Consistency(**COMMON, data="records/clips"),
            stages=(OmniStage(name="clips", steps=5000, batch=256, ratios=RATIOS),),
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
            stages=(OmniStage(name="pictures", steps=700, batch=9088, ratios=TEXT_AND_REFERENCE),),
            update=Update(ema=0.995, clip=None, accumulate=142),
            **adversarial(5e-6),
        ),
        Experiment(
            name="videos",
            task=Adversarial(**COMMON, data="records/clips", critique=Critique()),
            stages=(OmniStage(name="videos", steps=600, batch=2048, ratios=RATIOS),),
            update=Update(ema=0.995, clip=None, accumulate=32),
            **adversarial(3e-6),
        ),
    ),
)
