"""The audio encoder of the built-in model `mini`, from nothing: it learns how a mouth moves to a sound.

    omnihuman train configs/mini_audio.py --workdir runs/mini_audio

Hardware: 2 CPU cores, about 16 minutes (0.8 s an update). Voices are synthesised while it trains; no
recorded speech is trained on, `examples/speech.flac` is only tested on.
Result: the opening that a linear layer reads from the features against the true one, correlation 0.993
on voices never trained on and 0.986 on the recorded speech (aims: 0.97 and 0.9).
"""

from omnihuman_jax.models.mini import CONFIGS
from omnihuman_jax.training.experiment import Experiment, Saving
from omnihuman_jax.training.hearing import Hearing
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.stages import Stage
from omnihuman_jax.training.step import Update

experiment = Experiment(
    name="mini_audio",
    task=Hearing(config=CONFIGS["audio_encoder"]),
    stages=(Stage(name="all", steps=1200, batch=16),),
    optimizer=Optimizer(
        kind="adamw", learning_rate=1.5e-3, schedule="cosine", warmup=60, weight_decay=0.01
    ),
    update=Update(ema=0.99),
    save=Saving(every=200),
    watch=Watch(every=20),
)
