"""OmniHuman-1 on Wan2.1 14B: all parameters, the three stages.

    omnihuman convert Wan-AI/Wan2.1-T2V-14B models/wan-14b  # and wav2vec 2.0: `convert --help`
    omnihuman preprocess gs://YOURS/raw gs://YOURS/records --model models/wan-14b
    omnihuman train configs/omni_14b.py --workdir gs://YOURS/omni_14b \\
        task.model=models/wan-14b task.data=gs://YOURS/records --distributed

What the numbers are: ratios by condition, learning rate, weight decay and clipping are
OmniHuman-1's (arXiv 2502.01061, section 3.3, and the notes on its last version: docstrings of
`Ratios` and `Optimizer`). The batch of 256 is the paper's. It tells no number of updates,
resolution, shift or average: 10,000 updates a stage, the average of 0.9999 and the shift of 3 at
32,760 tokens (the idea: SD3, arXiv 2403.03206, eq. 23) are ours.

Hardware: the state (parameters, Adam's two moments, average) takes 16 bytes a parameter, 270 GB. At
720p x 81 frames the TPU compiler says that a step fits on 256 v6e chips (mesh.fsdp=64
mesh.context=4, 27 GB each) and on 128 v5p chips (fsdp=32, context=4, 32 GB each):
`python -m benchmarks.step_tpu`. No run of this on real data or on a TPU has been made.
"""

from omnihuman_jax.models.conditioner import AudioConfig, PoseConfig
from omnihuman_jax.models.dit import DiTConfig
from omnihuman_jax.training.experiment import Experiment, MeshSizes, Saving
from omnihuman_jax.training.flow_matching import FlowMatching
from omnihuman_jax.training.optimizers import Optimizer
from omnihuman_jax.training.report import Watch
from omnihuman_jax.training.stages import AND_AUDIO, AND_POSE, TEXT_AND_REFERENCE, OmniStage
from omnihuman_jax.training.step import Update

experiment = Experiment(
    name="omni_14b",
    task=FlowMatching(
        model="models/wan-14b",
        data="records",
        network=DiTConfig.large(audio=AudioConfig(), pose=PoseConfig()),
        remat="attention",
    ),
    stages=(
        OmniStage(name="text and reference", steps=10_000, batch=256, ratios=TEXT_AND_REFERENCE),
        OmniStage(name="audio", steps=10_000, batch=256, ratios=AND_AUDIO),
        OmniStage(name="pose", steps=10_000, batch=256, ratios=AND_POSE),
    ),
    optimizer=Optimizer(
        kind="adamw", learning_rate=5e-5, schedule="constant", warmup=500, weight_decay=0.01
    ),
    update=Update(clip=1.0, ema=0.9999),
    mesh=MeshSizes(data=1, fsdp=-1),
    save=Saving(every=500),
    watch=Watch(every=10),
)
