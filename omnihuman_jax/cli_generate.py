"""The verb `generate` of the command line: its arguments, its progress bar, and what it prints."""

import argparse
import dataclasses
import functools
import json
import time
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnihuman_jax.errors import InputError

if TYPE_CHECKING:
    from omnihuman_jax.inference.generator import Generator, Progress, Request

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
        "built-in model (default: mini)",
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
    parser.add_argument("--quiet", action="store_true", help="no progress bars (default: shown)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, last (default: lines)"
    )


def _add_sampling(add: Callable[..., Any]) -> None:
    add("--steps", type=int, metavar="N", help="steps from noise to video (default: the model's)")
    add(
        "--sampler",
        default="unipc",
        metavar="NAME",
        help="unipc, dpm++, euler or heun (default: unipc)",
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
    import jax

    from omnihuman_jax.inference.generator import Generator
    from omnihuman_jax.inference.request import Wish, prepare
    from omnihuman_jax.models.building import PRECISIONS as KNOWN
    from omnihuman_jax.models.mini import find

    model = find(args.model)
    names = {field.name for field in dataclasses.fields(Wish)}
    common = {key: value for key, value in vars(args).items() if key in names}
    common["without"] = tuple(args.without)
    wishes = [(common, args.out)]
    if args.batch is not None:
        wishes = _manifest(args.batch, common, typing.get_type_hints(Wish))
    for _, out in wishes:
        if Path(out).suffix.lower() != ".mp4":
            raise InputError(f"--out is the .mp4 to write, got {out}.")
    # Everything is read and checked before the first video is made.
    requests = [(prepare(Wish(**wish), model), out) for wish, out in wishes]
    auto = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    precision = KNOWN[auto if args.precision == "auto" else args.precision]
    kept: dict[str, Any] | None = None if len(requests) == 1 else {}
    generator = Generator(model, precision, kept=kept, offload=args.offload == "blocks")
    made = [_one(generator, request, out, args) for request, out in requests]
    if args.json:
        print(json.dumps(made[0] if args.batch is None else {"videos": made}))


def _one(
    generator: "Generator", request: "Request", out: str, args: argparse.Namespace
) -> dict[str, Any]:
    """Make one video; what the JSON line says of it."""
    from omnihuman_jax.inference import results

    started = time.monotonic()
    notes = results.notes(generator.model, request)
    print(results.summary(args.model, request), *notes, sep="\n", flush=True)
    phases: dict[str, float] = {}
    saved = _kept(generator.model, request, out)
    with _bars(phases, shown=not args.quiet) as progress:
        frames = results.write(functools.partial(generator, request, progress, saved), request, out)
    if saved is not None:
        saved.remove()
    sheet = str(Path(out).with_suffix(".png"))
    seconds = time.monotonic() - started
    length = frames / request.fps
    print(f"Wrote {out} ({frames} frames, {length:.2f} s) and {sheet} in {seconds:.0f} s.")
    return dict(
        video=out, contact_sheet=sheet, frames=frames, fps=request.fps,
        height=request.grid.height, width=request.grid.width, steps=request.steps,
        sampler=request.sampler, seed=request.seed, model=args.model, notes=notes,
        seconds=round(seconds, 2), phases={name: round(spent, 2) for name, spent in phases.items()},
    )  # fmt: skip


def _kept(model: Any, request: "Request", out: str) -> Any:
    """Where the segments of a long video are kept beside it until it is whole; None for a short one."""
    from omnihuman_jax.inference.segments import Kept, fingerprint

    if (request.frames or 0) <= request.grid.frames:
        return None
    about = {"path": model.path, **model.manifest.provenance}
    return Kept(f"{out}.segments", fingerprint(request, about))


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
    if isinstance(value, tuple):  # a size, checked when it was read
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
