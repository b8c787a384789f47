"""The only place that knows about money: a table of prices, and what steps of a slice cost."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnihuman_jax.errors import InputError
from omnihuman_jax.planning.chips import CHIPS, Slice

TABLE = "prices.toml"
WAYS = ("on_demand", "committed", "spot")
HOUR = 3600.0


@dataclass(frozen=True)
class Price:
    """Of a chip and hour, in US dollars, by way of paying; what is not known is left out."""

    ways: Mapping[str, float]
    source: str
    date: str


def load(path: str | None, config: str) -> dict[str, Price]:
    """Prices by generation, of a file, or of the table beside the config (or in ./configs).

    Raises:
        InputError: no such file, or it says something else than prices.
    """
    beside = [Path(config).parent / TABLE, Path("configs") / TABLE]
    places = [Path(path)] if path is not None else beside
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise InputError(
            f"There is no table of prices {places[0]}; give --prices FILE, in the form of "
            "configs/prices.toml."
        )
    try:
        table = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as why:
        raise InputError(f"{file} is not a TOML file: {why}.") from why
    date = str(table.get("date", "no date"))
    groups = {name: group for name, group in table.items() if isinstance(group, dict)}
    return {name: _price(file, name, group, date) for name, group in groups.items()}


def _price(file: Path, name: str, group: Mapping[str, Any], date: str) -> Price:
    if name not in CHIPS:
        raise InputError(f"{file} has a price of {name}; chips are {', '.join(CHIPS)}.")
    ways = {}
    for way, value in group.items():
        if way == "source":
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if way not in WAYS or not number or not 0 <= value < math.inf:
            raise InputError(
                f"{file}: {name}.{way} = {value!r} is no price; give {', '.join(WAYS)} in dollars "
                "for a chip and hour, and a source."
            )
        ways[way] = float(value)
    return Price(ways, str(group.get("source", "not told")), date)


def cost(price: Price, slice_: Slice, seconds: float) -> dict[str, float]:
    """Dollars for a slice and that many seconds, by way of paying."""
    hours = slice_.chips * seconds / HOUR
    return {way: dollars * hours for way, dollars in price.ways.items()}


def reach(price: Price, slice_: Slice, credits: float, step_s: float) -> dict[str, float]:
    """Steps that so many dollars pay for, by way of paying; infinite where a chip costs nothing."""
    return {
        way: credits / dollars if dollars else math.inf
        for way, dollars in cost(price, slice_, step_s).items()
    }
