"""The only place that writes tables of runs: markdown, LaTeX and HTML, with published figures apart."""

import importlib.resources
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from omnihuman_jax.evaluation import look
from omnihuman_jax.evaluation.comparing import Cell, Comparison

HEADS = {
    "iqa": "IQA", "ase": "ASE", "sync_c": "Sync-C", "sync_d": "Sync-D", "fid": "FID",
    "fvd": "FVD", "fvd_resnet3d": "FVD (3D-ResNet-50)", "fvd_i3d": "FVD (I3D)", "hkv": "HKV",
    "hkc": "HKC", "csim": "CSIM", "lpips": "LPIPS", "ssim": "SSIM", "psnr": "PSNR",
}  # fmt: skip
UP, DOWN = ("iqa", "ase", "sync_c", "hkv", "hkc"), ("fid", "fvd")  # of published columns
PORTRAIT = ("iqa", "ase", "sync_c", "fid", "fvd_resnet3d", "fvd_i3d")
LAYOUTS = {"portrait": PORTRAIT, "body": (*PORTRAIT, "hkv", "hkc")}
MARK = "†"
LEGEND = (
    f"Bold: best. {MARK}: surely differs from the best (95 %, paired bootstrap over clips). "
    "–: not computed. Brackets: 95 % interval."
)
ARROW = {"higher": " ↑", "lower": " ↓", None: ""}


@dataclass(frozen=True)
class Table:
    """Rows of text; `bold[row][column]` marks the best."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: tuple[tuple[bool, ...], ...]
    note: str = ""


def computed(found: Comparison, layout: str) -> list[Table]:
    """The runs in the columns of the paper's table, and what else was computed in a second one."""
    columns = list(LAYOUTS.get(layout, ()))
    others = [
        name
        for name, cells in found.cells.items()
        if name not in columns and any(cell.value is not None for cell in cells)
    ]
    tables = []
    for title, names in (("Computed", columns), ("Computed: other metrics", others)):
        if names:
            plain = title if columns else "Computed"
            tables.append(_table(f"{plain} on {found.testset}", found, names))
    return tables


def _table(title: str, found: Comparison, names: Sequence[str]) -> Table:
    blank = [Cell(None)] * len(found.runs)
    columns = [found.cells.get(name, blank) for name in names]
    heads = [f"{HEADS.get(n, n)}{ARROW[_better(found, n)]}" for n in names]
    rows = [
        (run, str(found.clips[k]), *(_told(column[k]) for column in columns))
        for k, run in enumerate(found.runs)
    ]
    bold = [(False, False, *(column[k].best for column in columns)) for k in range(len(rows))]
    return Table(title, ("run", "clips", *heads), tuple(rows), tuple(bold), LEGEND)


def _better(found: Comparison, name: str) -> str | None:
    if name in found.better:
        return found.better[name]
    return "higher" if name in UP else "lower"


def _told(cell: Cell) -> str:
    if cell.value is None:
        return "–"
    mark = MARK if cell.differs else ""
    spread = (
        "" if cell.low is None else f" [{look.number(cell.low, 3)}, {look.number(cell.high, 3)}]"
    )
    return f"{look.number(cell.value)}{mark}{spread}"


def published(layout: str) -> list[Table]:
    """The papers' figures, as reported; for all layouts if it is none of the paper's."""
    file = importlib.resources.files("omnihuman_jax.evaluation") / "published.json"
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    tables = []
    for each in content["tables"]:
        if layout in LAYOUTS and each["layout"] != layout:
            continue
        heads = [f"{HEADS[n]}{ARROW['higher' if n in UP else 'lower']}" for n in each["columns"]]
        rows = [(name, *(v or "–" for v in values)) for name, values in each["rows"].items()]
        tables.append(
            Table(
                f"As reported: {each['title']} ({each['source']})",
                ("method", *heads),
                tuple(rows),
                tuple(_best(row, each["columns"], rows) for row in rows),
                f"{content['about']} {each['note']}",
            )
        )
    return tables


def _best(
    row: tuple[str, ...], columns: Sequence[str], rows: Sequence[tuple[str, ...]]
) -> tuple[bool, ...]:
    found = [False]
    for k, name in enumerate(columns, 1):
        values = [float(other[k]) for other in rows if other[k] != "–"]
        best = max(values) if name in UP else min(values)
        found.append(row[k] != "–" and float(row[k]) == best)
    return tuple(found)


def markdown(tables: Sequence[Table]) -> str:
    """All tables, one below the other."""
    text = []
    for table in tables:
        cell = lambda value, bold: f"**{value}**" if bold else value
        safe = lambda value: value.replace("|", "\\|")
        lines = [
            f"## {table.title}",
            "",
            _row(map(safe, table.heads)),
            _row(["---"] * len(table.heads)),
            *(
                _row(map(cell, map(safe, r), b))
                for r, b in zip(table.rows, table.bold, strict=True)
            ),
            "",
            table.note,
            "",
        ]
        text.append("\n".join(lines))
    return "\n".join(text)


def _row(values: Any) -> str:
    return f"| {' | '.join(values)} |"


def latex(tables: Sequence[Table]) -> str:
    """All tables for the package booktabs."""
    text = ["% \\usepackage{booktabs}"]
    for table in tables:
        lines = [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{_tex(table.title)}. {_tex(table.note)}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(table.heads) - 1)}}}",
            "\\toprule",
            " & ".join(map(_tex, table.heads)) + " \\\\",
            "\\midrule",
            *(
                " & ".join(
                    f"\\textbf{{{_tex(v)}}}" if b else _tex(v) for v, b in zip(r, m, strict=True)
                )
                + " \\\\"
                for r, m in zip(table.rows, table.bold, strict=True)
            ),
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
        text.append("\n".join(lines))
    return "\n\n".join(text) + "\n"


def _tex(text: str) -> str:
    special = {
        "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{",
        "}": "\\}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "↑": "$\\uparrow$",
        "↓": "$\\downarrow$", "–": "--", MARK: "$^\\dagger$",
    }  # fmt: skip
    return "".join(special.get(letter, letter) for letter in text)


def html(tables: Sequence[Table]) -> str:
    """All tables as a page."""
    sections = []
    for table in tables:
        head = "".join(f"<th>{escape(each)}</th>" for each in table.heads)
        rows = "".join(
            "<tr>"
            + "".join(
                f"<td{' class=best' if b else ''}>{escape(v)}</td>"
                for v, b in zip(r, m, strict=True)
            )
            + "</tr>"
            for r, m in zip(table.rows, table.bold, strict=True)
        )
        sections.append(
            f"<section><h2>{escape(table.title)}</h2><table><tr>{head}</tr>{rows}</table>"
            f'<p class="soft">{escape(table.note)}</p></section>'
        )
    return look.document("Comparison of runs", ["<h1>Comparison of runs</h1>", *sections])


FORMS: dict[str, Callable[[Sequence[Table]], str]] = {
    "table.md": markdown,
    "table.tex": latex,
    "table.html": html,
}
