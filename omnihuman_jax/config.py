"""The only place that turns a file of configs/ and `a.b=c` into an Experiment."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnihuman_jax.errors import InputError
from omnihuman_jax.settings import override
from omnihuman_jax.training.distill.course import Course
from omnihuman_jax.training.experiment import Experiment

NAME = "experiment"  # what a config file calls it


def load(path: str, changes: Sequence[str] = ()) -> Experiment | Course:
    """The experiment, or course of experiments, that a config file builds, with some settings changed.

    Raises:
        InputError: no such file, it builds none, or a change that cannot be made.
    """
    experiment = built(path, NAME)
    if not isinstance(experiment, Experiment | Course):
        raise InputError(f"{path} builds no Experiment: it must set `{NAME} = Experiment(…)`.")
    return override(experiment, changes)


def built(path: str, name: str) -> Any:
    """What a Python file sets `name` to; None if it does not.

    Raises:
        InputError: no such file, or an error in it.
    """
    file = Path(path)
    if not file.is_file():
        near = sorted(file.parent.glob("*.py")) if file.parent.is_dir() else []
        have = f"; there are {', '.join(f.name for f in near)}" if near else ""
        raise InputError(f"There is no config {path}{have}.")
    spec = importlib.util.spec_from_file_location(f"omnihuman_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file; a config ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, NameError, ImportError, AttributeError, TypeError) as why:
        raise InputError(f"{path} cannot be read: {type(why).__name__}: {why}.") from why
    return getattr(module, name, None)
