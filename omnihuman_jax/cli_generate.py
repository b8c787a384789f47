"""The verb `generate` of the command line: its arguments, its progress bar, and what it prints."""

import argparse
import dataclasses
import functools
import json
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnihuman_jax.errors import InputError

if TYPE_CHECKING:
    from omnihuman_jax.inference.generator import Progress, Request
    from omnihuman_jax.inference.pipeline import Pipeline
    from omnihuman_jax.inference.request import Wish
    from omnihuman_jax.inference.segments import Kept

DESCRIPTION = "Make a video of a person from a picture, a voice, a pose, a text, or any of them."
EPILOG = """examples:
  omnihuman generate                                      the built-in portrait and speech
  omnihuman generate --reference me.jpg --audio hello.mp3 --out hello.mp4
  omnihuman generate --model models/wan-1.3b --text "a singer on a stage" --size 480x832 --frames 81
"""
DRIVES = ("auto", "text", "audio", "pose", "audio+pose")  # inference/activation.py, `Drive`
PRECISIONS = ("auto", "float32", "bfloat16", "int8", "float8")  # models/building.py


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `omnihuman generate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add = parser.add_argument
    add(
        "--model",
        default="mini",
        metavar="DIR_OR_NAME",
        help="a model directory (made by `omnihuman convert` or training), local or gs://, or the "
        "built-in model: mini, or mini-1step, which was distilled to one or two steps (default: mini)",
    )
    add(
        "--out",
        default="out.mp4",
        metavar="OUT.mp4",
        help="the video to write, with a contact sheet .png beside it (default: out.mp4)",
    )
    add(
        "--batch",
        metavar="MANIFEST.jsonl",
        help='many videos: a line each, {"reference": "a.jpg", "out": "a.mp4", ...}, with the names '
        "of the settings below; a line overrides them (default: one video)",
    )
    add(
        "--testset",
        metavar="DIR",
        help="a video for each clip of a test set made by `omnihuman testset`, driven by its sound (or as "
        "--drive says): --out is then a folder, for `omnihuman evaluate` (default: one video)",
    )
    given = parser.add_argument_group("conditions", "any of them; without one, built-in examples")
    add = given.add_argument
    add("--reference", metavar="IMAGE", help="who: a picture, any size and common format")
    add("--audio", metavar="FILE", help="what is said or sung: any audio, or a video with sound")
    add("--pose", metavar="FILE", help="how to move: keypoints, .json or .npz")
    add("--text", metavar="STR", help="what is seen and done")
    add("--negative-text", metavar="STR", help="what to stay away from (default: the model's)")
    add(
        "--drive",
        choices=DRIVES,
        default="auto",
        help="what drives the video: weaker conditions come along, stronger ones stay off; pose alone "
        "turns audio off (default: auto, all that is given)",
    )
    add(
        "--without",
        action="append",
        default=[],
        metavar="NAME",
        help="leave a condition out though it is given: text, reference, audio or pose (default: none)",
    )
    shape = parser.add_argument_group("size and length")
    add = shape.add_argument
    add(
        "--seconds",
        type=float,
        metavar="S",
        help="length; longer than the model's clip is made in segments (default: that of the audio "
        "or pose, else one clip)",
    )
    add(
        "--frames",
        type=int,
        metavar="N",
        help="length in frames; 4n+1 in one clip (default: by --seconds)",
    )
    add(
        "--size",
        type=_size,
        metavar="HxW",
        help="height x width, multiples of 16 (default: the reference's shape at the model's area)",
    )
    add("--fps", type=float, metavar="N", help="frames a second (default: the model's)")
    _add_sampling(parser.add_argument_group("sampling").add_argument)
    where = parser.add_argument_group("devices")
    add = where.add_argument
    add(
        "--mesh",
        type=_mesh,
        metavar="AXIS=N,...",
        help="how devices share the work: data (videos side by side), context (the tokens of one), tensor, "
        "fsdp (default: all of them share a video, or --batch its videos; on a CPU only one is used)",
    )
    add(
        "--distributed",
        action="store_true",
        help="this process is one of several, as the machines around say (default: only if "
        "JAX_COORDINATOR_ADDRESS is set); the first writes the videos",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars (default: shown)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, last (default: lines)"
    )


def _add_sampling(add: Callable[..., Any]) -> None:
    add("--steps", type=int, metavar="N", help="steps from noise to video (default: the model's)")
    add(
        "--sampler",
        metavar="NAME",
        help="unipc, dpm++, euler, heun, or consistency for a distilled model (default: the model's, else "
        "unipc)",
    )
    add("--shift", type=float, metavar="X", help="time shift towards noise (default: the model's)")
    add(
        "--text-guidance",
        type=float,
        metavar="X",
        help="scale of text guidance, 1 for none (default: the model's)",
    )
    add(
        "--audio-guidance",
        type=float,
        metavar="X",
        help="scale of audio guidance (default: the model's, or that of --text-guidance, which saves a pass)",
    )
    add(
        "--anneal",
        choices=["constant", "linear", "cosine"],
        default="constant",
        help="how guidance goes to --guidance-end over the steps (default: constant)",
    )
    add(
        "--guidance-end",
        type=float,
        metavar="X",
        help="both scales at the last step, with --anneal (default: none)",
    )
    add(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="flow times between which there is guidance; 1 is noise, 0 the video (default: 0 1)",
    )
    add(
        "--anchor",
        type=float,
        default=0.0,
        metavar="X",
        help="draw the colours of each segment of a long video back to those of the first, 0 to 1 "
        "(default: 0, not at all)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the noise (default: 0)")
    add(
        "--offload",
        choices=["none", "blocks"],
        default="none",
        help="blocks: the transformer's blocks stay in the host's memory and a layer at a time is copied "
        "to a device that is too small for all; the same video, slower (default: none)",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of weights and matmuls; auto is float32 on CPU, else bfloat16; int8 and float8 are "
        "bfloat16 with the transformer's linear layers in 8 bits (default: auto)",
    )


def run(args: argparse.Namespace) -> None:
    """Do what the arguments ask for. Raises InputError as `request.prepare` and `Generator` do."""
    # Imported here: `--help` answers at once.
    from omnihuman_jax import processes

    with processes.joined(everywhere=args.distributed):
        _run(args)


def _run(args: argparse.Namespace) -> None:
    from omnihuman_jax import health, mesh
    from omnihuman_jax.inference.pipeline import Pipeline, precision_of
    from omnihuman_jax.inference.request import Wish, prepare
    from omnihuman_jax.models.mini import find

    model = find(args.model)
    names = {field.name for field in dataclasses.fields(Wish)}
    common = {key: value for key, value in vars(args).items() if key in names}
    common["without"] = tuple(args.without)
    wishes = [(Wish(**common), args.out)]
    if args.testset is not None:
        wishes = _testset(args, model, common)
    elif args.batch is not None:
        lines = _manifest(args.batch, common, typing.get_type_hints(Wish))
        wishes = [(Wish(**line), out) for line, out in lines]
    for _, out in wishes:
        if Path(out).suffix.lower() != ".mp4":
            raise InputError(f"--out is the .mp4 to write, got {out}.")
    # Everything is read and checked before the first video is made.
    requests = [(prepare(wish, model), out) for wish, out in wishes]
    devices = mesh.for_videos(len(requests), args.mesh)
    precision = precision_of(args.precision)
    kept: dict[str, Any] | None = None if len(requests) == 1 else {}
    offload = args.offload == "blocks"
    pipe = Pipeline(model, precision=precision, mesh=devices, kept=kept, offload=offload)
    made: dict[int, dict[str, Any]] = {}
    with health.watched(len(requests)) as watched:
        for group in pipe.groups([request for request, _ in requests]):
            made |= dict(zip(group, _make(pipe, [requests[i] for i in group], args), strict=True))
            watched(len(made))
    if args.json and pipe.first:
        results = [made[i] for i in range(len(requests))]
        one = args.batch is None and args.testset is None
        print(json.dumps(results[0] if one else {"videos": results}))


def _make(
    pipe: "Pipeline", work: Sequence[tuple["Request", str]], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Make videos that are alike, together; what the JSON line says of each."""
    from omnihuman_jax.inference import results

    started = time.monotonic()
    requests, outs = [request for request, _ in work], [out for _, out in work]
    notes = [results.notes(pipe.model, request) for request in requests]
    told = [results.summary(args.model, requests[0]), *notes[0]]
    if len(work) > 1:
        told.append(f"{len(work)} videos at once: {', '.join(outs)}.")
    say = functools.partial(print, flush=True) if pipe.first else lambda *_, **__: None
    say(*told, sep="\n")
    phases: dict[str, float] = {}
    saved = [_kept(pipe, request, out) for request, out in work] if _resumes(requests[0]) else None
    with _bars(phases, shown=not args.quiet and pipe.first) as progress:
        frames = pipe.write(requests, outs, progress, saved)
    for one in saved or ():
        one.remove()
    seconds, rate = time.monotonic() - started, requests[0].fps
    sheets = [str(Path(out).with_suffix(".png")) for out in outs]
    for out, sheet in zip(outs, sheets, strict=True):
        say(f"Wrote {out} ({frames} frames, {frames / rate:.2f} s) and {sheet} in {seconds:.0f} s.")
    return [
        dict(
            video=out, contact_sheet=sheet, frames=frames, fps=rate,
            height=request.grid.height, width=request.grid.width, steps=request.steps,
            sampler=request.sampler, seed=request.seed, model=args.model, notes=own,
            evaluations=results.evaluations(request), together=len(work), seconds=round(seconds, 2),
            phases={name: round(spent, 2) for name, spent in phases.items()},
        )
        for request, out, sheet, own in zip(requests, outs, sheets, notes, strict=True)
    ]  # fmt: skip


def _resumes(request: "Request") -> bool:
    """Whether finished segments are kept: of long videos, and not where several processes would have to
    agree on what is there."""
    import jax

    return request.length > request.grid.frames and jax.process_count() == 1


def _kept(pipe: "Pipeline", request: "Request", out: str) -> "Kept":
    """Where the segments of a long video are kept beside it until it is whole."""
    from omnihuman_jax.inference.segments import Kept, fingerprint

    model = pipe.model
    about = {"path": model.path, "precision": str(pipe.precision), **model.manifest.provenance}
    return Kept(f"{out}.segments", fingerprint(request, about))


def _testset(
    args: argparse.Namespace, model: Any, common: dict[str, Any]
) -> list[tuple["Wish", str]]:
    """A wish and its output for every clip of a test set."""
    from omnihuman_jax.evaluation.asking import wishes

    given = [n for n in ("batch", "reference", "audio", "pose", "text") if getattr(args, n)]
    if given:
        raise InputError(f"--testset says what is given; leave --{given[0]} out.")
    if Path(args.out).suffix:
        raise InputError(f"With --testset, --out is a folder for the videos, got {args.out}.")
    return [
        (each.wish, str(Path(args.out, each.file))) for each in wishes(args.testset, model, common)
    ]


def _manifest(
    path: str, common: dict[str, Any], settings: dict[str, Any]
) -> list[tuple[dict[str, Any], str]]:
    """A wish and its output for every line of a .jsonl file; a line overrides the other arguments."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as why:
        raise InputError(f"--batch {path} cannot be read ({why}).") from why
    wishes: list[tuple[dict[str, Any], str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            given = dict(json.loads(line))
            if "size" in given:
                given["size"] = _size(str(given["size"]))
            if "guidance_interval" in given:
                given["guidance_interval"] = tuple(map(float, given["guidance_interval"]))
            if "without" in given:
                given["without"] = tuple(map(str, given["without"]))
        except (ValueError, TypeError, argparse.ArgumentTypeError) as why:
            raise InputError(
                f"{path}, line {number}: not a JSON object of settings ({why})."
            ) from why
        out = given.pop("out", None)
        if odd := sorted(given.keys() - settings):
            known = ", ".join(sorted({*settings, "out"}))
            raise InputError(
                f"{path}, line {number}: no setting {', '.join(odd)}; there are {known}."
            )
        for name, value in given.items():
            if not _fits(value, settings[name]):
                raise InputError(f"{path}, line {number}: {name} cannot be {value!r}.")
        if not isinstance(out, str) or out in (taken for _, taken in wishes):
            raise InputError(f'{path}, line {number}: needs an "out" of its own, got {out!r}.')
        wishes.append((common | given, out))
    if not wishes:
        raise InputError(f"--batch {path} has no line.")
    return wishes


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a JSON line is one that the setting may have."""
    options = typing.get_args(hint) or (hint,)
    if isinstance(value, tuple):  # a size or an interval, checked when it was read
        return True
    if isinstance(value, int) and not isinstance(value, bool) and float in options:
        return True
    kinds = tuple(option for option in options if isinstance(option, type))
    return value in options or (isinstance(value, kinds) and not isinstance(value, bool))


@contextmanager
def _bars(phases: dict[str, float], shown: bool) -> Iterator["Progress"]:
    """A bar a phase with the time left; `phases` gets the seconds that each took."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}
    bar, began, before = None, 0.0, 0.0

    def report(phase: str, done: int, total: int) -> None:
        nonlocal bar, began, before
        if bar is None or bar.desc != phase:
            began, before = time.monotonic(), phases.get(phase, 0.0)
            bar = bars.get(phase)
            if bar is None:
                bar = bars[phase] = tqdm(total=total, desc=phase, disable=not shown, leave=True)
                bar.desc = phase
        bar.update(done - bar.n)
        phases[phase] = before + time.monotonic() - began

    try:
        yield report
    finally:
        for one in bars.values():
            one.close()


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = map(int, text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"a size is height x width such as 480x832, got {text!r}"
        ) from None
    return height, width


def _mesh(text: str) -> dict[str, int]:
    from omnihuman_jax.mesh import AXES

    try:
        pairs = [part.split("=") for part in text.split(",")]
        sizes = {name: int(number) for name, number in pairs}
    except ValueError:
        sizes = {}
    if not sizes or sizes.keys() - set(AXES) or min(sizes.values()) < 1:
        raise argparse.ArgumentTypeError(
            f"a mesh is sizes of {', '.join(AXES)}, such as data=2,context=4, got {text!r}"
        )
    return sizes
