"""OmniHuman-1's ablations of ratios (its Table 3, Figs. 4 to 6), on puppets with the built-in model.

    omnihuman ablate configs/ablate_ratios.py --workdir runs/ablate/study

One ratio at a time is varied around the base: audio 50 %, of which half with a pose, reference 70 %. Held-out
puppets have voices and identities that nothing was trained on. A point that differs from the base by its
training seed alone tells what a difference is worth.

Hardware: 2 CPU cores, two hours with other work beside it. What came out: docs/ablation.md.
"""

from omnihuman_jax.ablation.study import Factor, Level, Made, Study, Videos

STAGES = ("clips", "longer")
RUNS = "runs/ablate"
RECORDS = ("python", "-m", "omnihuman_jax.puppet_records", f"{RUNS}/puppets")
DRAWN = ("omnihuman", "puppets", "--size", "64x64", "--quiet")


def ratios(*changes: str) -> tuple[str, ...]:
    """Changes of the ratios of all stages, in this order: each has to be allowed where it is made."""
    return tuple(f"stages.{stage}.ratios.{change}" for stage in STAGES for change in changes)


study = Study(
    title="Ratios of conditions, on puppets",
    about="""Each point learns to hear and to be posed for the same number of updates on the same records,
from the same weights: the built-in model without its inputs for sound and pose. Only how often a condition is
given differs. Videos are of puppets whose voices and looks were never trained on.

Audio is a ratio of the data: that share of samples comes from clips whose sound can be learned from, and all
others are drawn from all clips without their sound. Pose is a ratio of all samples, each of which has sound
too; the levels 20, 50 and 80 % are of the samples with sound, so 10, 25 and 40 % of all.""",
    base="configs/mini_ratios.py",
    first=(
        Made(
            file=f"{RUNS}/silent/model.json",
            command=("python", "-m", "omnihuman_jax.models.joining", f"{RUNS}/silent", "mini",
                     "--without", "audio", "pose"),
        ),
        Made(
            file=f"{RUNS}/puppets/puppet-00268.json",
            command=(*DRAWN, f"{RUNS}/puppets", "--clips", "269", "--seconds", "3"),
        ),
        Made(
            file=f"{RUNS}/clips/dataset.json",
            command=(*RECORDS, f"{RUNS}/clips", "--cut", "25x3"),
        ),
        Made(
            file=f"{RUNS}/longer/dataset.json",
            command=(*RECORDS, f"{RUNS}/longer", "--cut", "49x2"),
        ),
        Made(
            file=f"{RUNS}/held/puppet-50095.json",
            command=(*DRAWN, f"{RUNS}/held", "--start", "50000", "--clips", "96", "--seconds", "1.96"),
        ),
        Made(
            file=f"{RUNS}/held_long/puppet-51039.json",
            command=(*DRAWN, f"{RUNS}/held_long", "--start", "51008", "--clips", "32", "--seconds", "9"),
        ),
        Made(
            file=f"{RUNS}/talk/puppets/1.0.0/ids.json",
            command=("omnihuman", "testset", "puppets", f"{RUNS}/talk", "--source", f"{RUNS}/held",
                     "--seconds", "1.96", "--quiet"),
        ),
        Made(
            file=f"{RUNS}/long/puppets/1.0.0/ids.json",
            command=("omnihuman", "testset", "puppets", f"{RUNS}/long", "--source", f"{RUNS}/held_long",
                     "--seconds", "9", "--count", "10", "--quiet"),
        ),
    ),
    factors=(
        Factor(
            name="audio_ratio",
            asks="Table 3: judges found 50 % audio best of 10, 50 and 100 %, in lips and on the whole.",
            levels=(
                Level(shown="10 %", changes=ratios("pose=0.05", "audio=0.1")),
                Level(shown="50 %"),
                Level(shown="100 %", changes=ratios("unordered=true", "audio=1.0", "pose=0.5")),
            ),
        ),
        Factor(
            name="reference_ratio",
            asks="Fig. 6: with a reference ratio of 30 %, below that of sound, long videos drift.",
            levels=(
                Level(shown="30 %", changes=ratios("unordered=true", "reference=0.3")),
                Level(shown="70 %"),
            ),
        ),
        Factor(
            name="pose_ratio",
            asks="Figs. 4 and 5: given sound alone, a low pose ratio moves much, a high one hardly at all.",
            levels=(
                Level(shown="20 %", changes=ratios("pose=0.1")),
                Level(shown="50 %"),
                Level(shown="80 %", changes=ratios("pose=0.4")),
            ),
        ),
        Factor(
            name="training_seed",
            asks="The base once more with other noise and another order of the data: nothing should differ.",
            levels=(Level(shown="0"), Level(shown="1", changes=("seed=1",))),
            noise=True,
        ),
    ),
    videos=(
        Videos(
            name="talk",
            testset=f"{RUNS}/talk",
            seeds=(0, 1),
            metrics=("puppet_lips", "puppet_motion", "puppet_gestures", "puppet_identity",
                     "puppet_look", "puppet_frechet"),
            generate=("--together", "8"),
            rated=6,
        ),
        Videos(
            name="long",
            testset=f"{RUNS}/long",
            metrics=("puppet_lips", "puppet_motion", "puppet_drift", "puppet_look"),
            generate=("--together", "4"),
        ),
    ),
)  # fmt: skip
