"""The only place that says what a study is: a base config, factors with their levels, videos, metrics."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from omnihuman_jax import config
from omnihuman_jax.errors import InputError
from omnihuman_jax.training import stages
from omnihuman_jax.training.experiment import Experiment

NAME = "study"  # what a study file calls it
BASE = "base"
GIVEN = ("reference", "audio", "pose", "text")


@dataclass(frozen=True, kw_only=True)
class Level:
    """A value of a factor.

    Attributes:
        shown: how reports call it, such as "10 %".
        changes: of the base config, written "a.b=c" and made in this order; none: the base has this value.
    """

    shown: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Factor:
    """What is varied, with its levels in the order of reports.

    Attributes:
        name: of letters, digits and "_"; it names folders.
        asks: the question that it answers, for the report.
        noise: whether its levels differ by nothing that should matter (a training seed): how far they
            are apart is what a difference of other levels is worth.
    """

    name: str
    levels: tuple[Level, ...]
    asks: str = ""
    noise: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.name):
            raise InputError(f"A factor is named by letters, digits and _, got {self.name!r}.")
        names = [_slug(level.shown) for level in self.levels]
        if len(names) < 2 or len(set(names)) < len(names) or "" in names:
            raise InputError(
                f"Factor {self.name} needs 2 levels or more of different names, got "
                f"{', '.join(level.shown for level in self.levels)}."
            )


@dataclass(frozen=True, kw_only=True)
class Videos:
    """Videos that every point makes: those of a test set, from some of its conditions.

    Attributes:
        name: of letters, digits and "_"; it names folders.
        testset: folder made by `omnihuman testset`.
        given: conditions that the model gets; the others are left out.
        seeds: of the noise; every clip is made with each.
        metrics: of `omnihuman evaluate`.
        generate: further arguments of `omnihuman generate`, such as ("--steps", "12").
        rated: clips that human judges see, the first ones of the set, with the first seed.
    """

    name: str
    testset: str
    metrics: tuple[str, ...]
    given: tuple[str, ...] = ("text", "reference", "audio")
    seeds: tuple[int, ...] = (0,)
    generate: tuple[str, ...] = ()
    rated: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.name):
            raise InputError(f"Videos are named by letters, digits and _, got {self.name!r}.")
        if odd := [name for name in self.given if name not in GIVEN]:
            raise InputError(f"Videos can be given {', '.join(GIVEN)}, not {odd[0]!r}.")
        if not self.given or not self.metrics or self.rated < 0:
            raise InputError(
                f"Videos {self.name} need conditions, metrics and a number of rated clips from 0."
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"Videos {self.name} need different seeds from 0, got {self.seeds}.")


@dataclass(frozen=True, kw_only=True)
class Made:
    """Something that must be there first, and the command that makes it.

    Attributes:
        file: is there when it is done.
        command: words of a shell command, `omnihuman …` or `python -m …`.
    """

    file: str
    command: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One training of a study: a level of each factor.

    Attributes:
        label: its folder.
        levels: of each factor, as shown; those of the base where it says nothing else.
        changes: of the base config.
    """

    label: str
    levels: tuple[tuple[str, str], ...]
    changes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid of trainings and what is made and measured with each.

    Attributes:
        title: for the report.
        base: config file of the point that all others vary.
        factors: one at a time around the base, or all levels with all others (`cross`).
        first: what has to be there before any training, in order.
        videos: what each point makes.
        about: a paragraph for the report.
    """

    title: str
    base: str
    factors: tuple[Factor, ...]
    videos: tuple[Videos, ...]
    first: tuple[Made, ...] = ()
    cross: bool = False
    about: str = ""

    def __post_init__(self) -> None:
        for what, names in (
            ("factors", [factor.name for factor in self.factors]),
            ("videos", [videos.name for videos in self.videos]),
        ):
            if not names or len(set(names)) < len(names):
                raise InputError(f"A study needs {what} of different names, got {names}.")
        for factor in self.factors:
            own = [level.shown for level in factor.levels if not level.changes]
            if len(own) > 1 or (not own and not self.cross):
                raise InputError(
                    f"Exactly one level of factor {factor.name} is the base's and has no changes; "
                    f"got {len(own)}."
                )

    def points(self) -> tuple[Point, ...]:
        """All trainings; the base first, where it is one of them."""
        if self.cross:
            combined = itertools.product(*(factor.levels for factor in self.factors))
            found = [self._point(levels) for levels in combined]
        else:
            found = [self._point(levels) for levels in self._one_at_a_time()]
        found.sort(key=lambda point: point.label != BASE)
        return tuple(found)

    def along(self, factor: Factor) -> tuple[Point, ...]:
        """The points that differ from the base in no other factor, in the order of its levels."""
        base = [_own(other) for other in self.factors]
        place = self.factors.index(factor)
        return tuple(
            self._point((*base[:place], level, *base[place + 1 :])) for level in factor.levels
        )

    def _one_at_a_time(self) -> Iterator[tuple[Level, ...]]:
        base = tuple(_own(factor) for factor in self.factors)
        yield base
        for place, factor in enumerate(self.factors):
            for level in factor.levels:
                if level.changes:
                    yield (*base[:place], level, *base[place + 1 :])

    def _point(self, levels: tuple[Level, ...]) -> Point:
        pairs = list(zip(self.factors, levels, strict=True))
        names = [f"{f.name}-{_slug(level.shown)}" for f, level in pairs if level.changes]
        return Point(
            label="+".join(names) or BASE,
            levels=tuple((f.name, level.shown) for f, level in pairs),
            changes=tuple(change for _, level in pairs for change in level.changes),
        )

    def experiment(self, point: Point) -> Experiment:
        """The training of a point, resolved.

        Raises:
            InputError: no such config, a change that cannot be made, or a distillation.
        """
        made = config.load(self.base, point.changes)
        if not isinstance(made, Experiment):
            raise InputError(f"{self.base} is a distillation; `ablate` varies a training.")
        return made

    def steps(self, point: Point) -> int:
        """Updates of its training."""
        return stages.total(self.experiment(point).stages)


def _own(factor: Factor) -> Level:
    """The level that the base has; the first, where none is it."""
    return next((level for level in factor.levels if not level.changes), factor.levels[0])


def _slug(shown: str) -> str:
    """Letters, digits, points and "_" of a name, for a folder."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", shown).strip("_.")


def load(path: str) -> Study:
    """The study that a file builds.

    Raises:
        InputError: no such file, or it builds none.
    """
    study = config.built(path, NAME)
    if not isinstance(study, Study):
        raise InputError(f"{path} builds no Study: it must set `{NAME} = Study(…)`.")
    return study
