"""The only place that decides which records make up which batch: a pure function of (seed, batch number).

Three questions, each answered by a sequence without end that can be read anywhere:

    batch n            -> its bucket, and the how-manieth batch of that bucket it is   (Interleaving)
    slot of a bucket   -> its group, and the how-manieth slot of that stream it is     (Interleaving)
    slot of a stream   -> epoch and record: permutations of the stream, one after the other

A stream is what one bucket holds for one group. Nothing depends on hosts, threads or what was read
before. Only raw Philox bits and whole numbers are used: numpy keeps those the same for ever, which it
does not promise of `shuffle` or `choice`, and a run must go on in the same order after an upgrade.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Bool, Int, Int64

from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.errors import InputError

DRIVERS = ("audio", "pose")  # a clip may show these, but a mix decides whether they are used
BLOCK = 1024  # entries of an Interleaving in which every share is met to within one
_BITS = 40  # of a share
_BUCKETS, _GROUPS, _RECORDS = range(3)  # what a random stream is for

Mix = Mapping[frozenset[str], float]


@dataclass(frozen=True)
class Rows:
    """What is in a batch, a row each: all of one bucket.

    Attributes:
        bucket: number of the bucket.
        records: number of the record in the data set.
        present: whether the condition is given to the model, a column for each of STRENGTH.
        groups: number of the group of the mix that the slot was drawn for.
        epochs: how often the stream had been read to its end before.
    """

    bucket: int
    records: Int64[np.ndarray, "B"]
    present: Bool[np.ndarray, "B 4"]
    groups: Int64[np.ndarray, "B"]
    epochs: Int64[np.ndarray, "B"]

    def part(self, rows: slice) -> "Rows":
        """Some of the rows."""
        return Rows(
            self.bucket,
            self.records[rows],
            self.present[rows],
            self.groups[rows],
            self.epochs[rows],
        )


class Plan:
    """Which records make up batch n, for every n >= 0.

    `mix` gives the share of samples drawn from the clips that can teach at least a set of conditions,
    so that a stage's ratios (OmniHuman-1, section 3.3: text > reference > audio > pose) are met
    whatever the data set holds, and clips that a strong condition's filter rejected still train the
    weaker ones (principle 1):

        {frozenset(): 0.5, frozenset({"audio"}): 0.25, frozenset({"audio", "pose"}): 0.25}

    A sample is a group by its share, then any record that teaches the group's set, all alike. Of audio
    and pose, those that the mix names anywhere are given only to samples of groups that have them.
    Without a mix every record is drawn alike and given all that it teaches.

    Raises:
        InputError: no records, no rows, a negative seed, shares that are none or do not add up to 1, a
            condition that does not exist, a group that no record can serve.
    """

    def __init__(
        self,
        bucket: Int[np.ndarray, "N"],
        teaches: Bool[np.ndarray, "N 4"],
        *,
        seed: int,
        batch: int,
        mix: Mix | None = None,
    ) -> None:
        for name, value, least in (("batch size", batch, 1), ("seed", seed, 0)):
            if value < least:
                raise InputError(f"The {name} is a whole number from {least}, got {value}.")
        if not len(bucket):
            raise InputError("The data set has no records; preprocess some clips first.")
        self.seed, self.batch = seed, batch
        self.mix = _checked(mix)
        self._teaches = teaches
        self._groups = [group for group in _ordered(self.mix) if self.mix[group] > 0]
        named = frozenset().union(*self.mix) & frozenset(DRIVERS)
        self._allowed = np.array(
            [[c in group or c not in named for c in STRENGTH] for group in self._groups]
        )
        # (bucket, group) -> the records of that stream; streams without records are left out.
        self._streams: dict[tuple[int, int], Int64[np.ndarray, "n"]] = {}
        shares: dict[int, dict[int, Fraction]] = {}
        for number, group in enumerate(self._groups):
            members = _members(group, bucket, teaches)
            share = Fraction(self.mix[group]) / sum(len(m) for m in members.values())
            for b, records in members.items():
                self._streams[b, number] = records
                shares.setdefault(b, {})[number] = share * len(records)
        sums = {b: sum(of_group.values(), Fraction()) for b, of_group in shares.items()}
        self._of_batch = Interleaving(seed, (_BUCKETS,), sums)
        self._of_slot = {b: Interleaving(seed, (_GROUPS, b), s) for b, s in shares.items()}
        self._order = functools.lru_cache(2 * len(self._streams))(self._drawn)

    @property
    def buckets(self) -> list[int]:
        """Numbers of the buckets that are ever read."""
        return sorted(self._of_slot)

    def __getitem__(self, n: int) -> Rows:
        """The rows of batch `n`, of all hosts together."""
        buckets, ranks = self._of_batch[n : n + 1]
        bucket, first = int(buckets[0]), int(ranks[0]) * self.batch
        groups, places = self._of_slot[bucket][first : first + self.batch]
        records, epochs = np.zeros((2, self.batch), np.int64)
        for group in np.unique(groups):
            size = len(self._streams[bucket, int(group)])
            for epoch in np.unique(places[groups == group] // size):
                here = (groups == group) & (places // size == epoch)
                order = self._order(bucket, int(group), int(epoch))
                records[here], epochs[here] = order[places[here] % size], epoch
        present = self._teaches[records] & self._allowed[groups]
        return Rows(bucket, records, present, groups, epochs)

    def identity(self) -> dict[str, Any]:
        """Numbers that differ when the plan does, apart from the data set; JSON."""
        probe = google_crc32c.value(self[0].records.astype("<i8").tobytes())
        shares = {"+".join(_named(group)) or "any": self.mix[group] for group in _ordered(self.mix)}
        return {"seed": self.seed, "batch": self.batch, "mix": shares, "first": probe}

    def _drawn(self, bucket: int, group: int, epoch: int) -> Int64[np.ndarray, "n"]:
        records = self._streams[bucket, group]
        bits = _philox(self.seed, _RECORDS, bucket, group, epoch).random_raw(len(records))
        return records[np.argsort(bits, kind="stable")]


class Interleaving:
    """An endless sequence of categories, each as often as its share says, that can be read anywhere.

    It comes in blocks of 1024. How often a category comes in a block is its share of 1024, rounded up
    or down by one random offset a block (systematic sampling), so that it is exact on average. Within
    a block each category is spread evenly, with jitter: any stretch of it has about the right shares.
    """

    def __init__(self, seed: int, key: tuple[int, ...], shares: Mapping[int, Fraction]) -> None:
        self._seed, self._key = seed, key
        self._categories = np.array(sorted(shares), np.int64)
        total, sums = sum(shares.values()), [Fraction(0)]
        for category in sorted(shares):
            sums.append(sums[-1] + shares[category])
        self._bounds = np.array([round(s / total * 2**_BITS) for s in sums], np.int64)
        self._before = np.zeros((1, len(shares)), np.int64)

    def __getitem__(self, wanted: slice) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
        """Entries `wanted.start` to `wanted.stop`: category, and how often it has come before."""
        blocks = range(wanted.start // BLOCK, (wanted.stop - 1) // BLOCK + 1)
        parts = [self._block(block) for block in blocks]
        categories, ranks = (np.concatenate(column) for column in zip(*parts, strict=True))
        start = blocks.start * BLOCK
        inside = slice(wanted.start - start, wanted.stop - start)
        return categories[inside], ranks[inside]

    def _block(self, block: int) -> tuple[Int64[np.ndarray, "1024"], Int64[np.ndarray, "1024"]]:
        before = self._before
        if len(before) < block + 2:
            # As many again, so that reading on costs nothing. Threads may do this at once: all get
            # the same numbers.
            before = self._before = self._counted(2 * (block + 2))
        counts = before[block + 1] - before[block]
        which = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(BLOCK) - (np.cumsum(counts) - counts)[which]
        jitter = _philox(self._seed, *self._key, 1 + block).random_raw(BLOCK) * 2.0**-64
        # Ordered by (place + jitter) / count; of one category the first stays the first.
        order = np.argsort((place + jitter) / counts[which], kind="stable")
        return self._categories[which[order]], (before[block, which] + place)[order]

    def _counted(self, blocks: int) -> Int64[np.ndarray, "bounds categories"]:
        """How often each category has come before each block."""
        offset = _philox(self._seed, *self._key, 0).random_raw(blocks) >> np.uint64(64 - _BITS)
        ends = (BLOCK * self._bounds + offset.astype(np.int64)[:, None]) >> _BITS
        counts = np.diff(ends, axis=1)
        return np.concatenate([np.zeros_like(counts[:1]), np.cumsum(counts, axis=0)])


def _philox(seed: int, *key: int) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence(seed, spawn_key=key))


def _checked(mix: Mix | None) -> Mix:
    if mix is None:
        return {frozenset(): 1.0}
    for group, share in mix.items():
        for name in group:
            if name not in STRENGTH:
                raise InputError(f"The mix names {name!r}; conditions are {', '.join(STRENGTH)}.")
        if not 0 <= share <= 1:  # also refuses NaN
            raise InputError(f"A share of the mix is from 0 to 1, got {share} for {_words(group)}.")
    if not math.isclose(sum(mix.values()), 1, abs_tol=1e-6):
        raise InputError(f"The shares of the mix add up to {sum(mix.values()):g}, not to 1.")
    return mix


def _ordered(mix: Mix) -> list[frozenset[str]]:
    """The groups in an order that does not depend on how the mix was written."""
    return sorted(mix, key=lambda group: (len(group), [STRENGTH.index(n) for n in _named(group)]))


def _named(group: frozenset[str]) -> Sequence[str]:
    return [name for name in STRENGTH if name in group]


def _words(group: frozenset[str]) -> str:
    return " and ".join(_named(group)) or "any clip"


def _members(
    group: frozenset[str], bucket: Int[np.ndarray, "N"], teaches: Bool[np.ndarray, "N 4"]
) -> dict[int, Int64[np.ndarray, "n"]]:
    """The records that can teach the whole group, by bucket."""
    wanted = [STRENGTH.index(name) for name in _named(group)]
    records = np.flatnonzero(teaches[:, wanted].all(axis=1))
    if not len(records):
        counts = ", ".join(
            f"{count} teach {name}"
            for name, count in zip(STRENGTH, teaches.sum(axis=0), strict=True)
        )
        raise InputError(
            f"The mix asks for clips that teach {_words(group)}, and none does: of {len(teaches)} "
            f"records {counts}. Set that share to 0, or preprocess clips that do."
        )
    records = records[np.argsort(bucket[records], kind="stable")]
    found, starts = np.unique(bucket[records], return_index=True)
    parts = np.split(records, starts[1:])
    return {int(b): part for b, part in zip(found, parts, strict=True)}
