"""The transformer of the built-in model `mini`, from nothing, on puppets: the three stages of OmniHuman-1.

    omnihuman puppets runs/puppets64 --clips 1350 --size 64x64
    omnihuman train configs/mini_vae.py --workdir runs/mini_vae          # and mini_audio, mini_text
    python -m omnihuman_jax.models.joining runs/mini_base runs/mini_{vae,audio,text}/model --like-mini
    python -m omnihuman_jax.puppet_records runs/puppets64 runs/records/clips --model runs/mini_base --cut 25x3
    (the same for runs/records/pictures, --cut 1x5, and runs/records/longer, --cut 49x2)
    omnihuman train configs/mini_dit.py --workdir runs/mini_dit

Section 3.3: text and reference, then audio, then pose. Pictures come before clips (its "stage 0", and how
Wan2.1 was trained): they teach what a puppet looks like for a fraction of the price. The stages "longer"
have clips as long as those that are generated.

    python -m omnihuman_jax.models.joining omnihuman_jax/mini runs/mini_dit/model --like-mini --ship

Hardware: 2 CPU cores, two and a half hours with other work beside it. What it scores, and why not more:
docs/log.md.
"""

from omnihuman_jax.models.mini import CONFIGS, SAMPLING
from omnihuman_jax.training.experiment import Experiment, Saving
from omnihuman_jax.training.flow_matching import FlowMatching, Times
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.stages import AND_AUDIO, TEXT_AND_REFERENCE, OmniStage, Ratios
from omnihuman_jax.training.step import Update

experiment = Experiment(
    name="mini_dit",
    task=FlowMatching(
        model="runs/mini_base",
        data="runs/records/clips",
        start="new",
        compute="float32",  # a CPU is no faster in bfloat16
        remat="none",
        times=Times(shift=1.0),
        lively=2.0,
        network=CONFIGS["dit"],
        sampling=SAMPLING,
    ),
    stages=(
        OmniStage(
            name="pictures",
            steps=600,
            batch=64,
            data="runs/records/pictures",
            ratios=TEXT_AND_REFERENCE,
        ),
        OmniStage(name="text and reference", steps=300, batch=8, ratios=TEXT_AND_REFERENCE),
        OmniStage(name="audio", steps=3000, batch=8, ratios=AND_AUDIO),
        OmniStage(name="pose", steps=1500, batch=8, ratios=Ratios()),
        OmniStage(name="longer", steps=500, batch=5, data="runs/records/longer", ratios=Ratios()),
        OmniStage(name="all", steps=9000, batch=8, ratios=Ratios()),
        OmniStage(
            name="all, longer", steps=1000, batch=5, data="runs/records/longer", ratios=Ratios()
        ),
    ),
    optimizer=Optimizer(
        kind="adamw", learning_rate=1e-3, schedule="wsd", decay=0.25, warmup=100, weight_decay=0.01
    ),
    update=Update(ema=0.995),
    save=Saving(every=250),
    watch=Watch(every=25),
)
