"""The whole trainer in a minute: a transformer of two layers on eight puppets, through all three stages.

    omnihuman train configs/tiny.py --workdir runs/tiny

Hardware: any CPU. The puppets are drawn and encoded into the workdir the first time. It proves that training
runs, saves and resumes; so few steps teach nothing.
"""

from omnihuman_jax.models.conditioner import AudioConfig, PoseConfig
from omnihuman_jax.models.dit import DiTConfig
from omnihuman_jax.models.mini import CHANNELS
from omnihuman_jax.puppet_records import Rehearsal
from omnihuman_jax.training.experiment import Experiment, MeshSizes, Saving
from omnihuman_jax.training.flow_matching import FlowMatching
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.stages import AND_AUDIO, TEXT_AND_REFERENCE, OmniStage, Ratios
from omnihuman_jax.training.step import Update

experiment = Experiment(
    name="tiny",
    task=FlowMatching(
        model="mini",
        data="",  # the rehearsal's
        network=DiTConfig.tiny(
            channels=CHANNELS,
            text_width=128,
            text_length=240,
            audio=AudioConfig(width=96, layers=5, window=5, hidden=32),
            pose=PoseConfig(joints=17, hidden=8, channels=2),
        ),
        start="new",
        compute="float32",
        remat="none",
    ),
    stages=(
        OmniStage(name="text and reference", steps=6, batch=4, ratios=TEXT_AND_REFERENCE),
        OmniStage(name="audio", steps=6, batch=4, ratios=AND_AUDIO),
        OmniStage(name="pose", steps=8, batch=4, ratios=Ratios()),
    ),
    optimizer=Optimizer(learning_rate=1e-3, warmup=2),
    update=Update(ema=0.9),
    mesh=MeshSizes(data=-1, fsdp=1),
    save=Saving(every=5),
    watch=Watch(every=2, wandb="off"),
    rehearsal=Rehearsal(),
)
