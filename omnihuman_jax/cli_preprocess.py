"""The verb `preprocess`: its arguments, how the parts are put together, what it prints."""

import argparse
import dataclasses
import functools
import json
import logging
import shlex
from collections.abc import Callable
from typing import Any

from omnihuman_jax.errors import InputError
from omnihuman_jax.settings import override

DESCRIPTION = "Turn raw videos into filtered, encoded records with an index and a report."
EPILOG = """\
Beside a video NAME.mp4 a file NAME.json may give caption, speaker, transcript, pose and scores; what it gives
is not detected (docs/preprocess.md, where Dataflow is described as well). A run that was interrupted goes on
where it stopped."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `omnihuman preprocess`."""
    parser.epilog = EPILOG
    parser.add_argument("raw", help="folder of raw videos, local or gs://")
    parser.add_argument("out", help="folder for the records, local or gs://")
    parser.add_argument(
        "--model", default="mini", help="model whose networks encode (default: %(default)s)"
    )
    parser.add_argument(
        "--name", default="clips", help="start of every file's name (default: %(default)s)"
    )
    parser.add_argument("--fps", type=float, help="frames a second (default: the model's)")
    parser.add_argument(
        "--frames",
        type=_numbers,
        metavar="N[,N…]",
        help="lengths of clips, 4n+1, the longest that fits is cut (default: the model's)",
    )
    parser.add_argument(
        "--area",
        type=_numbers,
        metavar="N[,N…]",
        help="most pixels of a frame; of several, the largest that needs no great enlarging "
        "(default: the model's)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="changes",
        help="change a setting or threshold, such as thresholds.audio.sync_c=2.5; a wrong name lists all "
        "(default: the published values, docs/preprocess.md)",
    )
    parser.add_argument(
        "--scorer",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="weights of an optional scorer: syncnet=FILE, qalign=FOLDER (default: none; not scored)",
    )
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of text and audio encoder (default: %(default)s)",
    )
    parser.add_argument(
        "--batch", type=int, default=4, help="clips encoded at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--videos-per-shard", type=int, default=16, help="raw videos a file (default: %(default)s)"
    )
    parser.add_argument(
        "--at-once",
        type=int,
        help="shards in one Beam pipeline (default: 1 on this machine, all elsewhere)",
    )
    parser.add_argument(
        "--beam",
        default="",
        metavar="FLAGS",
        help='flags for Beam, such as "--runner=DataflowRunner --project=P" (default: this machine)',
    )
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="this is one process of several, as Cloud TPU, GKE or Slurm know, and makes its own shards; "
        "elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (default: alone)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start again in OUT (default: go on there)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar (default: shown)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, last (default: lines)"
    )


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for.

    Raises:
        InputError: see `data.job.run`; or a setting that cannot work.
    """
    logging.getLogger().addFilter(_is_news)
    from omnihuman_jax import processes

    with processes.joined(everywhere=args.distributed):
        _run(args)


def _run(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from omnihuman_jax import processes
    from omnihuman_jax.data import job

    task = _job(args)
    number, _ = processes.place()
    with tqdm(unit="shard", disable=args.quiet) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)
            bar.refresh()

        summary = job.run(task, show)
    if number > 0:
        return
    kept, rejected = summary["kept"], summary["rejected"]
    print(f"Wrote {args.out}: {kept} clips kept, {rejected} rejected.")
    for title in ("reasons", "conditions"):
        if summary[title]:
            listed = ", ".join(f"{name} {count}" for name, count in summary[title].items())
            print(f"  {title}: {listed}")
    print(f"  report: {args.out.rstrip('/')}/report/index.html")
    if args.json:
        print(json.dumps({"out": args.out, **summary}))


def _job(args: argparse.Namespace) -> Any:
    from omnihuman_jax import encoding
    from omnihuman_jax.data import beam_pipeline, job
    from omnihuman_jax.models import mini

    model = mini.find(args.model)
    encoding.encoder(args.model, args.precision, args.batch)  # says now what is missing
    for scorer in args.scorer:
        _scorer(scorer, None)  # says now what is wrong with it
    settings = _settings(args, model.manifest.sampling)
    flags = shlex.split(args.beam)
    here = not any("runner" in flag and "Direct" not in flag for flag in flags)
    if args.distributed and not here:
        raise InputError(
            "--distributed shares shards between processes of ours, and --beam names a runner with workers "
            "of its own; give one of the two."
        )
    steps = beam_pipeline.Steps(
        prepare=functools.partial(_prepare, args.raw, settings, tuple(sorted(args.scorer))),
        encode=functools.partial(encoding.encoder, args.model, args.precision, args.batch),
        batch=args.batch,
    )
    return job.Job(
        raw=args.raw,
        out=args.out,
        name=args.name,
        steps=steps,
        settings={
            **json.loads(json.dumps(dataclasses.asdict(settings))),
            "precision": args.precision,
            "batch": args.batch,
            "scorers": sorted(s.partition("=")[0] for s in args.scorer),
        },
        fps=settings.fps,
        channels=model.config("vae").channels,
        fingerprints=encoding.fingerprints(model),
        limits=settings.thresholds.limits(),
        videos_per_shard=args.videos_per_shard,
        at_once=args.at_once or (1 if here else 10**9),
        flags=flags,
        overwrite=args.overwrite,
    )


def _settings(args: argparse.Namespace, sampling: Any) -> Any:
    from omnihuman_jax.data import preprocess

    settings = preprocess.Settings(
        fps=float(sampling["fps"] if args.fps is None else args.fps),
        lengths=tuple(args.frames or (sampling.get("frames", 81),)),
        areas=tuple(args.area or (int(sampling.get("area", 480 * 832)),)),
    )
    return override(settings, args.changes)


def _prepare(raw: str, settings: Any, scorers: tuple[str, ...]) -> Any:
    """Made in every worker: the function from a video's name to its clips and rejections."""
    from omnihuman_jax import storage
    from omnihuman_jax.data import preprocess

    signals = _signals(scorers)

    def prepare(source: str) -> Any:
        return preprocess.prepare(storage.join(raw, source), source, settings, signals)

    return prepare


@functools.cache
def _signals(scorers: tuple[str, ...]) -> Any:
    """The detectors, once a process; the landmark models are fetched when a video needs them."""
    from omnihuman_jax.data import preprocess, speech
    from omnihuman_jax.landmarks import Landmarker

    watch = functools.cache(Landmarker)

    def landmarks(frames: Any, fps: float) -> Any:
        return watch()(frames, fps)

    return preprocess.Signals(
        landmarks=landmarks,
        speech=speech.speech_ratio,
        lips=speech.lip_correlation,
        people=lambda frames: watch().count_people(frames),
        scorers=tuple(_scorer(each, landmarks) for each in scorers),
    )


def _scorer(given: str, landmarks: Any) -> Any:
    """An optional scorer by what --scorer says: NAME=PATH of its weights."""
    from omnihuman_jax.data.scorers import QAlign
    from omnihuman_jax.models.syncnet import SyncNet, SyncNetScorer

    kinds: dict[str, Callable[[str], Any]] = {
        "syncnet": lambda path: SyncNetScorer(SyncNet.load(path), landmarks),
        "qalign": QAlign,
    }
    name, _, path = given.partition("=")
    if name not in kinds or not path:
        raise InputError(f"--scorer is NAME=PATH with {' or '.join(kinds)}, got {given!r}.")
    return kinds[name](path)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as why:
        raise argparse.ArgumentTypeError(f"numbers with commas between, got {text!r}") from why


def _is_news(record: logging.LogRecord) -> bool:
    """Beam says at import that parts for Google's other services are missing; they are not needed."""
    said = record.getMessage()
    return "apitools not found" not in said and "Resource module is not available" not in said
