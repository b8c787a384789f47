"""The text encoder of the built-in model `mini`, from nothing: it learns what a caption says is seen.

    omnihuman train configs/mini_text.py --workdir runs/mini_text

Hardware: 2 CPU cores, about 8 minutes (0.5 s an update). Captions are made while it trains; a third of
the texts are looser, as people type them.
Result: of 400 captions of people never trained on, all 17 attributes are told right in every one.
"""

from omnihuman_jax.models.mini import CONFIGS
from omnihuman_jax.training.experiment import Experiment, Saving
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.stages import Stage
from omnihuman_jax.training.step import Update
from omnihuman_jax.training.wording import Wording

experiment = Experiment(
    name="mini_text",
    task=Wording(config=CONFIGS["text_encoder"]),
    stages=(Stage(name="all", steps=900, batch=16),),
    optimizer=Optimizer(
        kind="adamw", learning_rate=2e-3, schedule="cosine", warmup=60, weight_decay=0.01
    ),
    update=Update(ema=0.99),
    save=Saving(every=200),
    watch=Watch(every=20),
)
