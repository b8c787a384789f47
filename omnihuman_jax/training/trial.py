"""The only place that evaluates a transformer while it is trained, by metrics on clips of a test set."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnihuman_jax import mesh, storage
from omnihuman_jax.errors import InputError
from omnihuman_jax.evaluation import asking, registry, run
from omnihuman_jax.geometry import Grid
from omnihuman_jax.inference.request import prepare
from omnihuman_jax.media import VideoWriter
from omnihuman_jax.models.directory import ModelDirectory
from omnihuman_jax.models.dit import DiTConfig
from omnihuman_jax.models.wav2vec2 import SAMPLE_RATE
from omnihuman_jax.testsets import open_testset
from omnihuman_jax.training.showing import film, generator_of
from omnihuman_jax.training.task import Params


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What intermediate models are evaluated on, and by what.

    Attributes:
        testset: a folder made by `omnihuman testset`.
        metrics: by name (evaluation/registry.py).
        clips: the first so many of the set.
        frames: of each video, at most; 4n+1, in one clip of the model.
        steps: of the sampler; None for the model's.
        weights: a folder of what metrics look through, as `evaluate --weights`.
    """

    testset: str
    metrics: tuple[str, ...] = ("puppet_lips", "puppet_look", "puppet_frechet")
    clips: int = 8
    frames: int = 49
    steps: int | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        Grid(self.frames, 16, 16)
        registry.named(self.metrics)
        if self.clips < 1 or not self.metrics:
            raise InputError(
                f"A trial has at least one clip and one metric, got {self.clips} and {self.metrics}."
            )


def evaluated(
    trial: Trial,
    model: ModelDirectory,
    config: DiTConfig,
    rebuild: Callable[[Params], Any],
    params: Params,
    folder: str,
) -> dict[str, float]:
    """Videos of the clips by a transformer with these parameters, written to `folder`, and their metrics.

    Metrics that cannot be computed are left out; `folder`/evaluation says why.

    Raises:
        InputError: no such test set, or weights that are damaged.
    """
    generator = generator_of(model, config, rebuild, params)
    ids = open_testset(trial.testset).ids.ids[: trial.clips]
    common = {"frames": trial.frames, "steps": trial.steps}
    for asked in asking.wishes(trial.testset, generator.model, common, ids):
        request = prepare(asked.wish, generator.model)
        frames = film(generator, request)
        path = Path(folder, asked.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(
            path,
            height=request.grid.height,
            width=request.grid.width,
            fps=request.fps,
            sound=request.audio,
            rate=SAMPLE_RATE,
        ) as out:
            out.append(frames)
    settings = run.Settings(
        videos=folder,
        testset=trial.testset,
        out=storage.join(folder, "evaluation"),
        weights=trial.weights,
        metrics=trial.metrics,
        ids=ids,
    )
    with mesh.here():
        made = run.evaluate(settings, say=lambda line: None)
    return {name: each.value for name, each in made.metrics.items() if each.value is not None}
