"""The only place that adds up what became of all clips, in one pass and without keeping them."""

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import google_crc32c

SHOWN = 12  # clips of each reason on the page, and twice as many that were kept

Row = Mapping[str, Any]
# Thresholds by score: least and most with which a clip is kept; None where there is none.
Limits = Mapping[str, tuple[float | None, float | None]]


@dataclass
class Spread:
    """The values of one score, of clips that were kept and that were rejected."""

    kept: array = field(default_factory=lambda: array("d"))
    rejected: array = field(default_factory=lambda: array("d"))


@dataclass
class Tally:
    """All that the page shows, gathered in one pass.

    Attributes:
        reasons: rejected clips by reason.
        conditions: kept clips that may teach each condition.
        buckets: kept clips by size.
        spreads: values by score. A clip without a number for a score is in none of its lists.
        examples: rows to show by reason, None for kept: those with the smallest checksums of their
            ids, which is a fair choice and the same in every run.
    """

    kept: int = 0
    rejected: int = 0
    seconds_kept: float = 0.0
    seconds_rejected: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    conditions: Counter[str] = field(default_factory=Counter)
    buckets: Counter[str] = field(default_factory=Counter)
    spreads: dict[str, Spread] = field(default_factory=dict)
    examples: dict[str | None, list[tuple[int, int, Row]]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Count a clip."""
        if row["kept"]:
            self.kept += 1
            self.seconds_kept += row["seconds"]
            self.conditions.update(row["teaches"])
            self.buckets[row["bucket"] or "?"] += 1
        else:
            self.rejected += 1
            self.seconds_rejected += row["seconds"]
            self.reasons[row["reason"] or "?"] += 1
        for name, score in row["scores"].items():
            if math.isfinite(score):
                spread = self.spreads.setdefault(name, Spread())
                (spread.kept if row["kept"] else spread.rejected).append(score)
        self._perhaps_show(row)

    def chosen(self, reason: str | None) -> list[Row]:
        """The examples of a reason, by id."""
        return sorted((entry[2] for entry in self.examples[reason]), key=lambda row: row["id"])

    def _perhaps_show(self, row: Row) -> None:
        reason = None if row["kept"] else row["reason"] or "?"
        heap = self.examples.setdefault(reason, [])
        # Largest checksum first out; the count of clips settles equals, rows cannot be compared.
        entry = (-google_crc32c.value(row["id"].encode()), self.kept + self.rejected, row)
        if len(heap) < (2 * SHOWN if reason is None else SHOWN):
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)


def tally(rows: Iterable[Row]) -> Tally:
    """Everything of all rows added up."""
    total = Tally()
    for row in rows:
        total.add(row)
    return total
