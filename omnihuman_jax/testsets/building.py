"""The only place that builds a test set: draws clips, cuts them, and lets the set appear when it is whole."""

import contextlib
import io
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError
from omnihuman_jax.testsets import celebv_hq, half_body, puppets, ravdess
from omnihuman_jax.testsets.clips import Clip, Collection, Missing, Unusable
from omnihuman_jax.testsets.cutting import Form, cut
from omnihuman_jax.testsets.id_list import RULE, IdList, drawn, read_ids, sha256
from omnihuman_jax.testsets.reading import load_tfds

SETS = {"celebv_hq": celebv_hq, "ravdess": ravdess, "half_body": half_body, "puppets": puppets}
COUNT, SEED, SECONDS, FPS = 100, 0, 5.0, 25.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to build. None: as in the id list, or else the default.

    Attributes:
        out: a folder of TensorFlow Datasets; the set becomes `out/name/1.0.0`.
        source: the user's copy of the videos.
        count: how many clips to draw, at most.
        size: "HxW" or "native" (default).
        ids: the `ids.json` of a set to build again.
        allow_missing: build without clips of `ids` that are not there or cannot be used.
        allow_changed: build although files are not the same as when `ids` was written.
        overwrite: replace a set of that name in `out`.
    """

    name: str
    out: str
    source: str
    count: int | None = None
    seed: int | None = None
    seconds: float | None = None
    fps: float | None = None
    size: str | None = None
    ids: str | None = None
    allow_missing: bool = False
    allow_changed: bool = False
    overwrite: bool = False


def build(settings: Settings, *, progress: bool = False) -> tuple[Path, IdList]:
    """Build a test set; its folder, and what is in it. Nothing is downloaded.

    Raises:
        InputError: no such source, nothing usable in it, settings that cannot be, a clip of an id list
            that is missing or has changed, a set that is there already.
    """
    if settings.name not in SETS:
        raise InputError(f"There is no test set {settings.name!r}; there are {', '.join(SETS)}.")
    if storage.is_remote(settings.out):
        raise InputError(
            f"array_record is written to disks only, got {settings.out}; copy it there later."
        )
    given = None if settings.ids is None else read_ids(Path(settings.ids))
    plan = _plan(settings, given)
    target = Path(settings.out, settings.name)
    if target.exists() and not settings.overwrite:
        raise InputError(f"There is a set {target} already; --overwrite replaces it.")
    run = _Run(SETS[settings.name].collection(settings.source), plan, given, settings, progress)
    if given is not None:
        run.check_all_there()
    with _unfinished(Path(settings.out), settings.name) as folder:
        version = _write(settings.name, folder, run)
        result = run.result()
        result.write(version)
        storage.replace_folder(str(folder / settings.name), str(target))
    return target / version.name, result


def _plan(settings: Settings, given: IdList | None) -> IdList:
    """What is asked for: an id list whose ids, if it is not `given`, are still to be drawn."""
    if given is not None and given.set != settings.name:
        raise InputError(f"{settings.ids} is of the set {given.set}, not {settings.name}.")
    if given is not None and (settings.count is not None or settings.seed is not None):
        raise InputError("--count and --seed draw new clips; leave them out with --ids.")

    def value(name: str, usual: Any) -> Any:
        mine = getattr(settings, name)
        return mine if mine is not None else getattr(given, name) if given is not None else usual

    plan = IdList(
        set=settings.name,
        licence=SETS[settings.name].LICENCE,
        rule=given.rule if given is not None else RULE,
        seed=value("seed", SEED),
        count=value("count", COUNT),
        seconds=float(value("seconds", SECONDS)),
        fps=float(value("fps", FPS)),
        size=value("size", "native"),
        ids=given.ids if given is not None else (),
        sources={},
        passed_over={},
    )
    if plan.count < 1:
        raise InputError(f"A test set has at least 1 clip, got --count {plan.count}.")
    if not 1 <= plan.fps <= 240:
        raise InputError(f"A video has a frame rate from 1 to 240, got --fps {plan.fps:g}.")
    if not 0 < plan.seconds <= 3600:
        raise InputError(f"A clip lasts up to 3600 seconds, got --seconds {plan.seconds:g}.")
    parse_size(plan.size)
    return plan


def parse_size(text: str) -> tuple[int, int] | None:
    """ "512x512" → height and width; "native" → None. Raises InputError: anything else."""
    if text == "native":
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() for side in sides):
        raise InputError(f"A size is HEIGHTxWIDTH, such as 512x512, or native; got {text!r}.")
    height, width = map(int, sides)
    for side in (height, width):
        if side % 2 or not 16 <= side <= 8192:
            raise InputError(f"Height and width are even, from 16 to 8192; got {text}.")
    return height, width


@dataclass
class _Run:
    """One build: which clips were used, and why others were not."""

    collection: Collection
    plan: IdList
    given: IdList | None
    settings: Settings
    progress: bool
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    passed_over: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    sums: dict[Path, str] = field(
        default_factory=dict
    )  # all clips of CelebV-HQ share one large list

    def check_all_there(self) -> None:
        """Before anything is cut: what the id list names and this copy lacks, in one line."""
        missing = {}
        for name in self.plan.ids:
            try:
                self.collection.clip(name)
            except Missing as why:
                missing[name] = str(why)
            except Unusable:
                pass  # is told when its turn comes
        if missing and not self.settings.allow_missing:
            raise InputError(
                f"{len(missing)} of {len(self.plan.ids)} clips of {self.settings.ids} are missing: "
                f"{_named(missing)}. Get them, or build without them by --allow-missing."
            )

    def examples(self) -> Iterator[dict[str, Any]]:
        """The clips of the set, cut, in order."""
        given, plan = self.given, self.plan
        order = plan.ids if given is not None else drawn(self.collection.ids, plan.seed)
        form = Form(seconds=plan.seconds, fps=plan.fps, size=parse_size(plan.size))
        total = len(order) if given is not None else min(plan.count, len(order))
        with tqdm(total=total, desc=plan.set, unit="clip", disable=not self.progress) as bar:
            for name in order:
                if given is None and len(self.sources) == plan.count:
                    break
                try:
                    clip = self.collection.clip(name)
                    example = cut(clip, form, needs_sound=self.collection.needs_sound)
                except Missing:
                    self.missing.append(name)
                    continue
                except Unusable as why:
                    self._pass_over(name, str(why))
                    continue
                self._note(clip, example)
                yield example
                bar.update()
        if not self.sources:
            raise InputError(
                f"Not one clip of {self.settings.source} can be used: "
                f"{_named(self.passed_over) or 'its videos are not there'}."
            )

    def result(self) -> IdList:
        """What ids.json will say."""
        return IdList(
            **{name: getattr(self.plan, name) for name in _KEPT},
            ids=tuple(self.sources),
            sources=self.sources,
            missing=tuple(self.missing),
            passed_over=self.passed_over,
            changed=tuple(self.changed),
        )

    def _pass_over(self, name: str, why: str) -> None:
        if self.given is not None and not self.settings.allow_missing:
            raise InputError(f"Clip {name} of {self.settings.ids} cannot be used: {why}.")
        self.passed_over[name] = why

    def _note(self, clip: Clip, example: dict[str, Any]) -> None:
        files = [clip.video, *([clip.sound] if clip.sound else []), *clip.files]
        for file in files:
            if file not in self.sums:
                self.sums[file] = sha256(file)
        sums = {_below(file, self.collection.root): self.sums[file] for file in files}
        then = (
            self.given.sources.get(clip.id, {}).get("files", {}) if self.given is not None else sums
        )
        if sorted(then.values()) != sorted(sums.values()):
            if not self.settings.allow_changed:
                raise InputError(
                    f"Clip {clip.id}: {', '.join(sums)} differs from what {self.settings.ids} was made "
                    "from, by sha256. Get the same files, or accept these by --allow-changed."
                )
            self.changed.append(clip.id)
        seconds = example["frames"] / example["fps"]
        self.sources[clip.id] = {
            "files": sums,
            "start": clip.start,
            "end": clip.start + seconds,
            "frames": example["frames"],
        }


_KEPT = ("set", "licence", "rule", "seed", "count", "seconds", "fps", "size")


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _named(reasons: dict[str, str], most: int = 3) -> str:
    """Some of the ids with their reasons, and how many more."""
    named = [f"{name} ({why})" for name, why in list(reasons.items())[:most]]
    return ", ".join(named) + (f" and {len(reasons) - most} more" if len(reasons) > most else "")


def _write(name: str, folder: Path, run: _Run) -> Path:
    """Write the data set below `folder`; the folder of its version."""
    tfds = load_tfds()
    from omnihuman_jax.testsets.builders import BUILDERS

    tfds.disable_progress_bar()  # ours counts clips
    builder = BUILDERS[name](run.examples, data_dir=str(folder))
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of downloading, which nothing does
        builder.download_and_prepare()
    return Path(builder.data_dir)


@contextlib.contextmanager
def _unfinished(out: Path, name: str) -> Iterator[Path]:
    """A folder inside `out` that goes, with what is still in it, when the block ends; `out` is made."""
    folder = out / f".{name}.{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as why:
        raise InputError(f"The test set cannot be made: {why}.") from why
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # unless there is something in it
            out.rmdir()
