"""The only place that knows `ids.json` and the rule by which clips are drawn, so that a set repeats."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnihuman_jax.errors import InputError

FILE = "ids.json"
SCHEMA = 1
RULE = "ids in the order of sha256('SEED:ID'); the first COUNT that are there and can be used"


@dataclass(frozen=True, kw_only=True)
class IdList:
    """Which clips a set has, and all that decided it.

    Attributes:
        set: "celebv_hq", ….
        size: "HxW" or "native".
        ids: of the clips, in the order of the set.
        sources: for every id its files (path below the source → sha256 of the content), `start` and
            `end` in seconds of the video, and how many frames were cut.
        missing: ids that came before the last one, of clips that were not there.
        passed_over: ids that came before the last one, of clips that could not be used → why.
        changed: ids whose files had other content than in the list that the set was built from.
    """

    schema: int = SCHEMA
    set: str
    licence: str
    rule: str = RULE
    seed: int
    count: int
    seconds: float
    fps: float
    size: str
    ids: tuple[str, ...]
    sources: Mapping[str, Mapping[str, Any]]
    missing: tuple[str, ...] = ()
    passed_over: Mapping[str, str]
    changed: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Into `folder`."""
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", "utf-8")


def read_ids(path: Path) -> IdList:
    """An id list. Raises InputError: it is not there, not an id list, or of a newer version."""
    try:
        stored = json.loads(path.read_bytes())
    except OSError as why:
        raise InputError(f"There is no id list {path}: {why.strerror}.") from why
    except (ValueError, RecursionError) as why:
        raise InputError(f"{path} is no JSON: {' '.join(str(why).split())}.") from why
    names = {f.name for f in dataclasses.fields(IdList)}
    schema = stored.get("schema") if isinstance(stored, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise InputError(
            f"{path} has schema {schema}, this program reads {SCHEMA}; update omnihuman_jax."
        )
    if schema != SCHEMA or stored.keys() != names:
        raise InputError(f"{path} is not an id list; it is the {FILE} of a test set.")
    kinds = {
        "ids": list,
        "changed": list,
        "missing": list,
        "sources": dict,
        "passed_over": dict,
        "set": str,
    }
    wrong = [name for name, kind in kinds.items() if not isinstance(stored[name], kind)]
    if wrong or not all(isinstance(name, str) for name in stored["ids"]):
        raise InputError(f"{path} is damaged: its {(wrong or ['ids'])[0]} cannot be.")
    lists = {name: tuple(stored[name]) for name in ("ids", "missing", "changed")}
    return IdList(**{**stored, **lists})


def drawn(ids: Iterable[str], seed: int) -> list[str]:
    """The ids in the order in which they are tried.

    Each id's place follows from itself and the seed alone: one that is added or gone leaves the others
    in their order, and no version of a library has a say.
    """
    return sorted(
        set(ids), key=lambda name: (hashlib.sha256(f"{seed}:{name}".encode()).digest(), name)
    )


def sha256(path: Path) -> str:
    """Of the content of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
