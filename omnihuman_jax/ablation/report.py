"""The only place that knows how the report of a study looks: tables, figures, videos, judges' answers."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from omnihuman_jax.ablation import jobs, rating
from omnihuman_jax.ablation.results import Estimate, Found, Metric
from omnihuman_jax.ablation.sheet import TRUTH
from omnihuman_jax.ablation.study import Factor, Point, Study, Videos

SHOWN = 8  # clips of a set whose videos are shown, if judges see fewer
WIDTH, ROW, LEFT, RIGHT = 360, 18, 110, 12  # of a figure, in its own units


def page(study: Study, workdir: Path, found: Found, ratings: Mapping[str, Any] | None) -> str:
    """The whole page; it shows videos of `workdir` by relative paths."""
    sections = [
        f"<header><h1>{escape(study.title)}</h1>{_paragraphs(study.about)}{_state(study, found)}</header>",
        *(_factor(study, factor, found) for factor in study.factors),
        _judged(ratings),
        *(_videos(study, workdir, videos, found) for videos in study.videos),
        _definitions(found),
        _commands(study, workdir),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(study.title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip())


def _state(study: Study, found: Found) -> str:
    rows = "".join(
        f"<tr><th>{escape(p.label)}</th><td>{found.updates[p.label]:,}</td>"
        f"<td>{escape(', '.join(f'{name} {shown}' for name, shown in p.levels))}</td>"
        f"<td>{escape(found.missing.get(p.label, 'whole'))}</td></tr>"
        for p in study.points()
    )
    return (
        "<details><summary>"
        f"{len(found.points)} of {len(study.points())} points are whole.</summary><table>"
        f"<tr><th>point</th><th>updates</th><th>levels</th><th>state</th></tr>{rows}</table></details>"
    )


def _factor(study: Study, factor: Factor, found: Found) -> str:
    """A table and a figure a metric: a level's value, and how far it is from the base."""
    points = study.along(factor)
    head = "".join(
        f"<th>{escape(level.shown)}{'' if level.changes else ' (base)'}</th>"
        for level in factor.levels
    )
    rows = []
    for videos, metrics in found.metrics.items():
        for metric in metrics:
            if not any(metric.of(p.label) for p in points):
                rows.append(
                    f"<tr><th>{escape(metric.name)}<small>{escape(videos)}</small></th>"
                    f'<td colspan="{len(points) + 1}">not computed: {escape(metric.why or "no clip has it")}'
                    "</td></tr>"
                )
                continue
            cells = "".join(f"<td>{_cell(metric, p.label)}</td>" for p in points)
            rows.append(
                f"<tr><th>{escape(metric.name)}{_arrow(metric)}<small>{escape(videos)}</small></th>{cells}"
                f"<td>{figure(metric, factor, points)}</td></tr>"
            )
    asks = f"<p>{escape(factor.asks)}</p>" if factor.asks else ""
    return (
        f"<section><h2>{escape(factor.name.replace('_', ' '))}</h2>{asks}"
        '<p class="hint">Mean over clips with its 95 % bootstrap interval; below it the difference from the '
        "base over the same clips, <b>bold</b> where its paired interval leaves out 0.</p>"
        f"<table><tr><th>metric</th>{head}<th></th></tr>{''.join(rows)}</table></section>"
    )


def _arrow(metric: Metric) -> str:
    return {"higher": " ↑", "lower": " ↓"}.get(metric.better or "", "")


def _cell(metric: Metric, label: str) -> str:
    own = metric.of(label)
    if own is None:
        return "–"
    text = f"{number(own.value)} {interval(own)}"
    apart = metric.apart.get(label)
    if apart is not None:
        told = f"{apart.value:+.3g} {interval(apart)}"
        text += f"<br><small>{f'<b>{told}</b>' if apart.sure else told}</small>"
    return text


def number(value: float) -> str:
    """With three digits that count."""
    return f"{value:.3g}"


def interval(found: Estimate) -> str:
    """Its ends; nothing where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f"[{number(found.low)}, {number(found.high)}]"


def figure(metric: Metric, factor: Factor, points: Sequence[Point]) -> str:
    """A dot and an interval a level, as SVG."""
    marks, height = _marks(metric, factor, points)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(metric.name)}">{marks}</svg>'
    )


def _marks(metric: Metric, factor: Factor, points: Sequence[Point]) -> tuple[str, int]:
    """What the figure has inside, and its height; all levels share a scale."""
    there = [
        (level.shown, own)
        for level, point in zip(factor.levels, points, strict=True)
        if (own := metric.of(point.label)) is not None
    ]
    ends = [v for _, e in there for v in (e.value, e.low, e.high) if v is not None]
    low, high = min(ends), max(ends)
    room = (high - low) or abs(high) or 1.0
    at = lambda v: LEFT + (v - low) / room * (WIDTH - LEFT - RIGHT)
    marks = []
    for row, (shown, own) in enumerate(there):
        y = row * ROW + ROW / 2
        marks.append(f'<text x="0" y="{y + 4:.0f}">{escape(shown)} {number(own.value)}</text>')
        if own.low is not None and own.high is not None:
            marks.append(f'<path d="M{at(own.low):.1f} {y}H{at(own.high):.1f}"/>')
        marks.append(f'<circle cx="{at(own.value):.1f}" cy="{y}" r="3.5"/>')
    return "".join(marks), len(there) * ROW


def figures(study: Study, found: Found) -> str:
    """All of them in one SVG file: a column a factor, a row a metric."""
    parts, tall = [], 0
    for column, factor in enumerate(study.factors):
        points, y = study.along(factor), ROW
        x = column * (WIDTH + ROW)
        parts.append(f'<text class="head" x="{x}" y="{y}">{escape(factor.name)}</text>')
        for videos, metrics in found.metrics.items():
            for metric in metrics:
                if not any(metric.of(p.label) for p in points):
                    continue
                marks, height = _marks(metric, factor, points)
                title = f"{metric.name}{_arrow(metric)}, {videos}"
                parts.append(f'<text class="head" x="{x}" y="{y + 2 * ROW}">{escape(title)}</text>')
                parts.append(f'<g transform="translate({x} {y + 2.4 * ROW:.0f})">{marks}</g>')
                y += height + 2 * ROW
        tall = max(tall, y + ROW)
    wide = len(study.factors) * (WIDTH + ROW)
    style = "text{font:12px sans-serif}.head{font-weight:bold}path{stroke:#23568c;stroke-width:2}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 0 {wide} {tall}" width="{wide}" '
        f'height="{tall}"><style>{style}circle{{fill:#23568c}}</style>'
        f'<rect x="-8" width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _judged(ratings: Mapping[str, Any] | None) -> str:
    if ratings is None:
        return (
            "<section><h2>Judges</h2><p>Nobody was asked yet: open rating.html, save answers, and give the "
            "files to <code>--ratings</code>.</p></section>"
        )
    tables = []
    for factor, rows in ratings["factors"].items():
        head = "".join(f"<th>{escape(q)}</th>" for q in rating.QUESTIONS)
        body = "".join(
            f"<tr><th>{escape(name)}</th>"
            + "".join(f"<td>{rating.cell(row[q])}</td>" for q in rating.QUESTIONS)
            + "</tr>"
            for name, row in rows.items()
        )
        tables.append(f"<table><tr><th>{escape(factor)}</th>{head}</tr>{body}</table>")
    sides = ratings["sides"]
    return (
        "<section><h2>Judges</h2>"
        f"<p>{ratings['answers']} answers of {ratings['raters']} judges, as OmniHuman-1's Table 3: of all "
        "answers to a question the share in percent that chose a level (and how many). The left video was "
        f"chosen {sides['left']} times, the right one {sides['right']} times.</p>{''.join(tables)}</section>"
    )


def _videos(study: Study, workdir: Path, videos: Videos, found: Found) -> str:
    """A row a clip, a column a point."""
    clips = (jobs.ids(videos) or ())[: max(videos.rated, SHOWN)]
    points = [p for p in study.points() if p.label in found.points]
    head = "".join(f"<th>{escape(p.label)}</th>" for p in points)
    rows = []
    for clip in clips:
        truth = workdir / TRUTH / videos.name / f"{clip}.mp4"
        cells = [_player(truth.relative_to(workdir)) if truth.is_file() else ""]
        for point in points:
            file = jobs.folder(workdir, point, "videos", videos, videos.seeds[0]) / f"{clip}.mp4"
            numbers = " ".join(
                f"{metric.name} {number(value)}"
                for metric in found.metrics.get(videos.name, ())
                if (value := metric.clips.get(point.label, {}).get(clip)) is not None
            )
            shown = _player(file.relative_to(workdir)) if file.is_file() else "–"
            cells.append(f"{shown}<small>{escape(numbers)}</small>")
        rows.append(
            f"<tr><th>{escape(clip)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        )
    return (
        f"<section><h2>Videos: {escape(videos.name)}</h2><p>Given {escape(', '.join(videos.given))}; seed "
        f'{videos.seeds[0]}.</p><div class="wide"><table class="videos">'
        f"<tr><th>clip</th><th>truth</th>{head}</tr>{''.join(rows)}</table></div></section>"
    )


def _player(path: Path) -> str:
    return f'<video controls loop playsinline preload="metadata" src="{escape(path.as_posix())}"></video>'


def _definitions(found: Found) -> str:
    told = {m.name: m.definition for each in found.metrics.values() for m in each if m.definition}
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in told.items())
    return f"<section><h2>What the metrics are</h2><dl>{rows}</dl></section>"


def _commands(study: Study, workdir: Path) -> str:
    told = "\n".join(jobs.told(jobs.of(study, workdir)))
    return f"<section><details><summary>All commands</summary><pre>{escape(told)}</pre></details></section>"


def markdown(study: Study, found: Found) -> str:
    """The tables of all factors, and what each comes to in words."""
    lines: list[str] = []
    for factor in study.factors:
        points = study.along(factor)
        lines += [
            f"### {factor.name.replace('_', ' ')}",
            "",
            f"| metric | videos | {' | '.join(level.shown for level in factor.levels)} | against the base |",
            "| --- | --- |" + " --- |" * (len(points) + 1),
        ]
        for videos, metrics in found.metrics.items():
            for metric in metrics:
                cells = [
                    "–" if own is None else f"{number(own.value)} {interval(own)}".strip()
                    for own in (metric.of(p.label) for p in points)
                ]
                words = said(metric, study, factor, found.points)
                lines.append(
                    f"| {metric.name}{_arrow(metric)} | {videos} | {' | '.join(cells)} | {words} |"
                )
        lines.append("")
    return "\n".join(lines)


def said(metric: Metric, study: Study, factor: Factor, points: Sequence[str]) -> str:
    """How far a factor's levels are from the base, and whether that is more than chance, in words."""
    words = []
    for level, point in zip(factor.levels, study.along(factor), strict=True):
        apart = metric.apart.get(point.label) if point.label in points else None
        if apart is None or not level.changes:
            continue
        how = "more" if apart.value > 0 else "less"
        if metric.better:
            how = "better" if (apart.value > 0) == (metric.better == "higher") else "worse"
        told = f"{apart.value:+.3g} {interval(apart)}".strip()
        words.append(f"{level.shown}: {told} {f'**{how}**' if apart.sure else 'within chance'}")
    return "; ".join(words)


STYLE = """
:root{--ink:#1d2430;--paper:#fbfaf7;--line:#d8d4c8;--strong:#23568c}
@media (prefers-color-scheme: dark){:root{--ink:#e8e6e1;--paper:#16181c;--line:#3b3e45;--strong:#7fb2e6}}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:78rem;margin:0 auto;padding:1.5rem}
h1{font-size:1.5rem;margin:0} h2{font-size:1.15rem;margin:2rem 0 .3rem}
table{border-collapse:collapse;margin:.5rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border-top:1px solid var(--line)}
th{font-weight:600} small{display:block;font-weight:400;opacity:.75}
.hint{opacity:.75;font-size:.9rem}
.wide{overflow-x:auto} .videos video{width:128px;display:block} .videos small{width:128px;font-size:.7rem}
svg text{font:12px system-ui,sans-serif;fill:var(--ink)} svg path{stroke:var(--strong);stroke-width:2}
svg circle{fill:var(--strong)} pre{overflow-x:auto;font-size:.75rem}
dt{font-weight:600} dd{margin:0 0 .4rem 1rem}
"""
