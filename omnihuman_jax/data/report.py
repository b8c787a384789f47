"""The only place that reads what `preprocess` noted of each clip, and says what came of all of them."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from omnihuman_jax import storage
from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.data import report_page
from omnihuman_jax.data.tally import Limits, Row, tally
from omnihuman_jax.errors import InputError

FOLDER, PAGE = "report", "index.html"

_FIELDS = {
    "id": str,
    "source": str,
    "kept": bool,
    "reason": str | None,
    "detail": str,
    "teaches": list,
    "scores": dict,
    "seconds": int | float,
    "bucket": str | None,
    "thumbnail": str,
}


def rows(folder: str) -> Iterator[dict[str, Any]]:
    """What `preprocess` noted of each clip, from the `report/*.jsonl` of a folder of records.

    A row at a time: with their pictures they may be more than memory holds.

    Raises:
        InputError: a line that is no row; the file and its number are named.
    """
    place = storage.join(folder, FOLDER)
    for name in storage.files(place, deep=False):
        if not name.endswith(".jsonl"):
            continue
        path = storage.join(place, name)
        for number, line in enumerate(storage.read_bytes(path).splitlines(), 1):
            yield _row(line, f"{path}, line {number},")


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError) as why:
        raise InputError(f"{where} is damaged: it is not JSON. Make that shard again.") from why
    for name, kind in _FIELDS.items():
        if not isinstance(row, dict) or name not in row or not isinstance(row[name], kind):
            raise InputError(f"{where} is no row of a report: its {name!r} is missing or wrong.")
    if not all(type(score) in (int, float) for score in row["scores"].values()):
        raise InputError(f"{where} is no row of a report: a score is not a number.")
    return row


def summary(rows: Iterable[Row]) -> dict[str, Any]:
    """How many clips and hours were kept and rejected, by reason and by condition; JSON."""
    total = tally(rows)
    return {
        "kept": total.kept,
        "rejected": total.rejected,
        "hours_kept": round(total.seconds_kept / 3600, 4),
        "hours_rejected": round(total.seconds_rejected / 3600, 4),
        "reasons": dict(total.reasons.most_common()),
        "conditions": {name: total.conditions[name] for name in STRENGTH},
        "buckets": dict(total.buckets.most_common()),
    }


def write(folder: str, limits: Limits | None = None) -> str:
    """Write `report/index.html` from the rows of a folder of records; returns its path.

    Args:
        limits: thresholds to draw into the spreads of the scores.

    Raises:
        InputError: there are no rows, or one is damaged.
    """
    total = tally(rows(folder))
    if not total.kept + total.rejected:
        raise InputError(f"There is nothing to report in {folder}: no clip was looked at there.")
    path = storage.join(folder, FOLDER, PAGE)
    storage.write_bytes(path, report_page.page(folder, total, limits or {}).encode())
    return path
