"""The only place that plans generation: whether videos can be made on a slice, how fast, and for what."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from omnihuman_jax import config
from omnihuman_jax import mesh as meshes
from omnihuman_jax.diffusion import samplers
from omnihuman_jax.diffusion.guidance import Constant, Guidance
from omnihuman_jax.geometry import Grid
from omnihuman_jax.inference.request import scales
from omnihuman_jax.models.manifest import SAMPLING
from omnihuman_jax.planning import answers, compiler, estimate, plan, prices, program
from omnihuman_jax.planning.chips import GIB, Slice
from omnihuman_jax.planning.compiler import Job
from omnihuman_jax.planning.prices import Price

GIVEN = ("text", "reference", "audio")  # what a video is made of


@dataclass(frozen=True, kw_only=True)
class Making:
    """One slice's answer about videos that are made side by side.

    Attributes:
        evaluations: of the network for a video: steps by guidance passes.
        call_s: of one evaluation for all videos side by side, estimated; by part in `parts`.
        seconds: denoising of all of them. Encoding and decoding are not in it.
        per_video: dollars of a video's denoising, by way of paying.
        reach: videos that the credits pay for.
    """

    slice: str
    chips: int
    hosts: int
    fits: bool
    mesh: Mapping[str, int]
    videos: int
    evaluations: int
    peak: int
    room: int
    largest: tuple[int, str] | None
    why: str | None
    call_s: float | None = None
    parts: Mapping[str, float] | None = None
    seconds: float | None = None
    per_video: Mapping[str, float] | None = None
    reach: Mapping[str, float] | None = None
    price: str | None = None


class Maker:
    """Plans of one request, a slice at a time.

    Args:
        videos: side by side, as `omnihuman generate --batch` makes them.
        steps: of the sampler; None for the model's own.
    """

    def __init__(
        self,
        request: plan.Request,
        videos: int = 1,
        steps: int | None = None,
        ask: plan.Ask | None = None,
        say: plan.Say = lambda line: None,
    ) -> None:
        self.request, self.videos, self.say = request, videos, say
        self.ask: plan.Ask = ask or compiler.ask
        experiment = program.phase_of(config.load(request.config, request.changes), request.phase)
        self.name = experiment.name
        self.network = program.sizes(experiment)
        self.grid: Grid = request.size or plan.usual(experiment)
        self.evaluations = evaluations({**SAMPLING, **experiment.task.sampling}, steps)

    def __call__(self, slice_: Slice) -> Making:
        """The plan for a slice.

        Raises:
            InputError: the videos cannot be laid out over it.
            StoppedError: the compiler failed.
        """
        mesh = meshes.sizes_for_videos(self.videos, slice_.devices)
        size = (self.grid.frames, self.grid.height, self.grid.width)
        job = Job(
            self.request.config,
            self.request.changes,
            slice_.name,
            size,
            "",
            self.request.phase,
            videos=self.videos,
        )
        self.say(f"{slice_.name}: asking the compiler")
        answer, known = answers.answer(job, self.ask)
        took = "known from before" if known else f"{answer.seconds:.0f} s"
        verdict = "fits" if answer.fits else "does not fit"
        self.say(f"{slice_.name}: {verdict}, {answer.peak / GIB:.1f} GiB ({took})")
        found = Making(
            slice=slice_.name,
            chips=slice_.chips,
            hosts=slice_.hosts,
            fits=answer.fits,
            mesh=mesh,
            videos=self.videos,
            evaluations=self.evaluations,
            peak=answer.peak,
            room=answer.room or int(slice_.chip.hbm * slice_.chip.used),
            largest=answer.largest,
            why=answer.words,
        )
        if answer.reading is None:
            return found
        call = estimate.of_program(answer.reading, slice_)
        seconds = self.evaluations * call.step
        price = self.request.prices.get(slice_.chip.name, Price({}, "none known", ""))
        each = seconds / self.videos
        credits = self.request.credits
        return dataclasses.replace(
            found,
            call_s=call.step,
            parts=call.parts(),
            seconds=seconds,
            per_video=prices.cost(price, slice_, each),
            reach=None if credits is None else prices.reach(price, slice_, credits, each),
            price=f"{price.source} ({price.date})",
        )


def evaluations(sampling: Mapping[str, object], steps: int | None) -> int:
    """Of the network for a video with text, reference and audio, by a model's sampling defaults."""
    sampler = samplers.make(str(sampling.get("sampler", "unipc")))
    count = int(str(sampling["steps"])) if steps is None else steps
    calls = sampler.calls(sampler.schedule(count, float(str(sampling["shift"]))))
    text, audio = scales(sampling)
    guidance = Guidance(text=Constant(text), audio=Constant(audio))
    times, progress = np.asarray(calls.time), np.asarray(calls.progress)
    return guidance.plan(GIVEN, times, progress).evaluations
