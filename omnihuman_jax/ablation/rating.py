"""The only place that knows the answers of human judges: the key to who is who, and the table they come to.

The table is that of OmniHuman-1 (Table 3): of all answers to a question, the share that chose a level. Judges
see pairs, the paper's saw all three levels at once; who could not decide abstained, there as here.
"""

import hashlib
import itertools
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnihuman_jax.ablation import jobs
from omnihuman_jax.ablation.study import Point, Study, Videos
from omnihuman_jax.errors import InputError

FORMAT = 1
QUESTIONS = {  # as the columns of Table 3
    "identity": "Which shows the person of the picture better?",
    "lip-sync": "In which do the lips fit the sound better?",
    "visual quality": "Which looks better, picture by picture?",
    "action diversity": "In which are the movements richer and more natural?",
    "overall": "Which is better, all in all?",
}
ABSTAINED = "abstained"


def new_key(study: Study, workdir: Path, salt: str | None = None) -> dict[str, Any]:
    """Codes for all videos that are compared, and for all pairs of them; the same for the same salt.

    A pair is a clip, made by two levels of a factor. Only videos that are there are asked about.
    """
    salt = salt or secrets.token_hex(16)
    videos: dict[str, dict[str, Any]] = {}
    pairs: dict[str, dict[str, Any]] = {}
    for factor in study.factors:
        if factor.noise:
            continue
        levels = list(zip(factor.levels, study.along(factor), strict=True))
        for made in study.videos:
            for clip in (jobs.ids(made) or ())[: made.rated]:
                found = []
                for level, point in levels:
                    file = _file(workdir, point, made, clip)
                    if file.is_file():
                        code = _code(salt, point.label, made.name, clip)
                        videos[code] = dict(
                            point=point.label,
                            set=made.name,
                            clip=clip,
                            file=file.relative_to(workdir).as_posix(),
                        )
                        found.append((level.shown, code))
                for (one, a), (other, b) in itertools.combinations(found, 2):
                    pair = _code(salt, factor.name, a, b)
                    pairs[pair] = dict(factor=factor.name, levels={a: one, b: other})
    return {"format": FORMAT, "study": study.title, "salt": salt, "videos": videos, "pairs": pairs}


def _file(workdir: Path, point: Point, videos: Videos, clip: str) -> Path:
    return jobs.folder(workdir, point, "videos", videos, videos.seeds[0]) / f"{clip}.mp4"


def _code(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def write_key(path: Path, key: Mapping[str, Any]) -> None:
    """Who is who; not for judges."""
    path.write_text(json.dumps(key, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_key(path: Path) -> dict[str, Any]:
    """Raises: InputError: there is none, or it is damaged."""
    if not path.is_file():
        raise InputError(f"There is no {path}; `ablate` writes it with the page for judges.")
    key = _read(path)
    if key.get("format") != FORMAT or not {"salt", "videos", "pairs"} <= key.keys():
        raise InputError(f"{path} is not the key of a page for judges.")
    return key


def read_answers(path: Path) -> dict[str, Any]:
    """What a judge saved.

    Raises:
        InputError: no such file, or not one of a page for judges.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path} of answers.")
    found = _read(path)
    answers = found.get("answers")
    if (
        found.get("format") != FORMAT
        or not isinstance(found.get("rater"), str)
        or not isinstance(answers, list)
    ):
        raise InputError(f"{path} is not what a page for judges saves.")
    for answer in answers:
        if not isinstance(answer, dict) or not {"pair", "question", "chosen"} <= answer.keys():
            raise InputError(f"{path} has an answer without pair, question or choice: {answer}.")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as why:
        raise InputError(f"{path} is no JSON: {' '.join(str(why).split())}.") from why
    if not isinstance(found, dict):
        raise InputError(f"{path} is no JSON object.")
    return found


def tally(
    study: Study, key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Counts and shares of all answers, by factor, level and question; shares are of 100.

    Of a judge who answered a question twice the later file counts. `left` of an answer, the video that
    was shown there, tells whether judges prefer a side.

    Raises:
        InputError: an answer to another page.
    """
    last: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for file in answers:
        for answer in file["answers"]:
            pair = key["pairs"].get(answer["pair"])
            if pair is None or answer["question"] not in QUESTIONS:
                raise InputError(
                    f"The answers of {file['rater']} are not to this page: it has no pair "
                    f"{answer['pair']} with the question {answer['question']!r}."
                )
            if answer["chosen"] is not None and answer["chosen"] not in pair["levels"]:
                raise InputError(
                    f"The answers of {file['rater']} choose {answer['chosen']} in pair "
                    f"{answer['pair']}, which does not show it."
                )
            last[file["rater"], answer["pair"], answer["question"]] = answer
    factors = {f.name: f for f in study.factors if not f.noise}
    counts: dict[str, dict[str, dict[str, int]]] = {
        name: {
            row: dict.fromkeys(QUESTIONS, 0)
            for row in (*(level.shown for level in factor.levels), ABSTAINED)
        }
        for name, factor in factors.items()
    }
    left = dict(left=0, right=0)
    for answer in last.values():
        pair, chosen = key["pairs"][answer["pair"]], answer["chosen"]
        row = ABSTAINED if chosen is None else pair["levels"][chosen]
        counts[pair["factor"]][row][answer["question"]] += 1
        if chosen is not None and answer.get("left") in pair["levels"]:
            left["left" if chosen == answer["left"] else "right"] += 1
    return {
        "format": FORMAT,
        "raters": len({rater for rater, _, _ in last}),
        "answers": len(last),
        "sides": left,
        "factors": {name: _shares(rows) for name, rows in counts.items() if _sum(rows)},
    }


def _sum(rows: Mapping[str, Mapping[str, int]]) -> int:
    return sum(sum(row.values()) for row in rows.values())


def _shares(rows: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Of each row and question its count and its share of all answers to the question; None without any."""
    total = {q: sum(row[q] for row in rows.values()) for q in QUESTIONS}
    return {
        name: {
            q: {"count": n, "share": 100 * n / total[q] if total[q] else None}
            for q, n in row.items()
        }
        for name, row in rows.items()
    }


def write_table(path: Path, table: Mapping[str, Any]) -> None:
    """As JSON."""
    path.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_table(path: Path) -> dict[str, Any] | None:
    """None if nobody was asked yet. Raises: InputError: it is damaged."""
    return _read(path) if path.is_file() else None


def markdown(table: Mapping[str, Any]) -> str:
    """The table as OmniHuman-1 prints its Table 3, with counts."""
    lines = [f"{table['answers']} answers of {table['raters']} judges."]
    for factor, rows in table["factors"].items():
        lines += [
            "",
            f"| {factor} | {' | '.join(QUESTIONS)} |",
            "| --- |" + " --- |" * len(QUESTIONS),
        ]
        for name, row in rows.items():
            lines.append(f"| {name} | {' | '.join(cell(row[q]) for q in QUESTIONS)} |")
    return "\n".join(lines)


def cell(found: Mapping[str, Any]) -> str:
    """A share with its count."""
    share = found["share"]
    return "–" if share is None else f"{share:.2f} ({found['count']})"
