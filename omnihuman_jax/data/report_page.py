"""The only place that knows how the report looks: one HTML file that needs nothing else, not even a script.

A link to `#r2` makes that name the page's target, and the style sheet hides the cards of all other
reasons (`:has(:target)`), so that filtering works from a file, from a bucket, and with the back button.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.data.tally import Limits, Row, Spread, Tally

FIRST = 3  # cards of a reason that are shown before one is chosen; twice as many of kept clips
BINS = 28
WIDTH, HEIGHT, AXIS = 280, 90, 16  # of a histogram, in its own units; AXIS below it for numbers

Bounds = tuple[float | None, float | None]


def page(title: str, tally: Tally, limits: Limits) -> str:
    """The whole page."""
    groups: list[str | None] = [None] if tally.kept else []
    groups += [reason for reason, _ in tally.reasons.most_common()]
    filters = "".join(
        f"body:has(#r{i}:target) .card:not(.r{i}){{display:none}}"
        f"body:has(#r{i}:target) .chip.r{i}{{background:var(--ink);color:var(--paper)}}"
        for i in range(len(groups))
    )
    sections = [
        _headline(title, tally),
        '<div class="pair">',
        _conditions(tally),
        _reasons(tally, groups),
        "</div>",
        _examples(tally, groups, limits),
        _scores(tally, limits),
        _sizes(tally),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: clips kept and rejected</title>"
        f"<style>{STYLE}{filters}</style></head>\n<body><main>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def _headline(title: str, tally: Tally) -> str:
    clips = tally.kept + tally.rejected
    tiles = [
        ("kept", f"{tally.kept:,}", f"of {clips:,} clips, {_percent(tally.kept, clips)}"),
        ("kept", _duration(tally.seconds_kept), "of video kept"),
        ("rejected", f"{tally.rejected:,}", f"rejected, {_percent(tally.rejected, clips)}"),
        ("rejected", _duration(tally.seconds_rejected), "of video rejected"),
    ]
    drawn = "".join(
        f'<div class="tile {kind}"><b>{value}</b><span>{text}</span></div>'
        for kind, value, text in tiles
    )
    return (
        f'<header><h1>Clips kept and rejected</h1><p class="path">{escape(title)}</p></header>'
        f'<div class="tiles">{drawn}</div>'
    )


def _conditions(tally: Tally) -> str:
    bars = "".join(
        _bar(
            name,
            tally.conditions[name],
            tally.kept,
            name,
            _percent(tally.conditions[name], tally.kept),
        )
        for name in STRENGTH
    )
    return f"<section><h2>What the kept clips may teach</h2>{bars}</section>"


def _reasons(tally: Tally, groups: Sequence[str | None]) -> str:
    most = max(tally.reasons.values(), default=1)
    bars = "".join(
        f'<a href="#r{groups.index(reason)}">'
        + _bar(reason, count, most, "rejected", f"{count:,}")
        + "</a>"
        for reason, count in tally.reasons.most_common()
    )
    hint = '<p class="hint">Choose one to see examples.</p>' if bars else ""
    nothing = "" if bars else '<p class="hint">Nothing was rejected.</p>'
    return f"<section><h2>Why clips were rejected</h2>{bars}{hint}{nothing}</section>"


def _sizes(tally: Tally) -> str:
    most = max(tally.buckets.values(), default=1)
    bars = "".join(
        _bar(name, count, most, "kept", f"{count:,}") for name, count in tally.buckets.most_common()
    )
    return f"<section><h2>Sizes of the kept clips</h2>{bars}</section>" if bars else ""


def _bar(name: str, count: int, most: int, kind: str, text: str) -> str:
    width = 100 * count / most if most else 0
    return (
        f'<div class="bar"><span class="name">{escape(name)}</span>'
        f'<span class="track"><i class="{kind}" style="width:{width:.2f}%"></i></span>'
        f'<span class="count">{text}</span></div>'
    )


def _examples(tally: Tally, groups: Sequence[str | None], limits: Limits) -> str:
    chips = '<a class="chip all" href="#examples">some of each</a>'
    for i, reason in enumerate(groups):
        count = tally.kept if reason is None else tally.reasons[reason]
        chips += f'<a class="chip r{i}" href="#r{i}">{_named(reason)} <small>{count:,}</small></a>'
    anchors = "".join(f'<span id="r{i}"></span>' for i in range(len(groups)))
    cards = "".join(
        _card(row, i, k >= FIRST * (2 if reason is None else 1), limits)
        for i, reason in enumerate(groups)
        for k, row in enumerate(tally.chosen(reason))
    )
    return (
        f'<section id="examples">{anchors}<h2>Examples</h2><nav>{chips}</nav>'
        f'<div class="cards">{cards}</div></section>'
    )


def _named(reason: str | None) -> str:
    return "kept" if reason is None else escape(reason)


def _card(row: Row, group: int, more: bool, limits: Limits) -> str:
    kind = "kept" if row["kept"] else "rejected"
    picture = '<div class="none">no picture</div>'
    if row["thumbnail"]:
        source = escape("data:image/jpeg;base64," + row["thumbnail"])
        picture = f'<img loading="lazy" alt="frames of the clip" src="{source}">'
    facts = [_duration(row["seconds"])] if row["seconds"] else []
    facts += [escape(row["bucket"])] if row["bucket"] else []
    why = f'<p class="why">{escape(row["detail"])}</p>' if row["detail"] else ""
    if row["kept"]:
        why += '<p class="teaches">' + "".join(
            f'<span class="pill {name if name in row["teaches"] else "not"}">{name}</span>'
            for name in STRENGTH
        )
        why += "</p>"
    return (
        f'<article class="card r{group} {kind}{" more" if more else ""}">{picture}<div class="body">'
        f'<p class="id"><span class="pill {kind}">{_named(row["reason"])}</span> {escape(row["id"])}</p>'
        f'{why}<p class="facts">{" · ".join(facts)}</p>{_table(row["scores"], limits)}</div></article>'
    )


def _table(scores: Mapping[str, float], limits: Limits) -> str:
    if not scores:
        return '<p class="hint">not scored</p>'
    lines = "".join(
        f"<tr{_beyond(score, limits.get(name, (None, None)))}>"
        f"<td>{escape(name)}</td><td>{_number(score)}</td></tr>"
        for name, score in sorted(scores.items())
    )
    missing = sorted(set(limits) - set(scores))
    lines += "".join(
        f'<tr class="missing"><td>{escape(name)}</td><td>not scored</td></tr>' for name in missing
    )
    return f"<details><summary>{len(scores)} scores</summary><table>{lines}</table></details>"


def _beyond(score: float, bounds: Bounds) -> str:
    least, most = bounds
    inside = (least is None or score >= least) and (most is None or score <= most)
    return "" if inside else ' class="beyond"'


def _scores(tally: Tally, limits: Limits) -> str:
    names = [name for name in limits if name in tally.spreads]
    names += sorted(set(tally.spreads) - set(limits))
    drawn = "".join(
        _spread(name, tally.spreads[name], limits.get(name, (None, None)), tally) for name in names
    )
    absent = [name for name in limits if name not in tally.spreads]
    if absent:
        listed = ", ".join(escape(name) for name in absent)
        drawn += (
            '<figure class="absent"><figcaption>Not scored in any clip</figcaption>'
            f"<p>{listed}</p></figure>"
        )
    legend = (
        '<p class="legend"><i class="kept"></i> kept <i class="rejected"></i> rejected '
        '<i class="line"></i> threshold <i class="outside"></i> beyond it</p>'
    )
    return f'<section><h2>Scores</h2>{legend}<div class="spreads">{drawn}</div></section>'


def _spread(name: str, spread: Spread, bounds: Bounds, tally: Tally) -> str:
    missing = [
        f"{count:,} {kind}"
        for kind, count in (
            ("kept", tally.kept - len(spread.kept)),
            ("rejected", tally.rejected - len(spread.rejected)),
        )
        if count
    ]
    note = f'<p class="hint">not scored: {", ".join(missing)}</p>' if missing else ""
    return (
        f"<figure><figcaption>{escape(name)} <small>{_rule(bounds)}</small></figcaption>"
        f"{_histogram(name, spread, bounds)}{note}</figure>"
    )


def _rule(bounds: Bounds) -> str:
    least, most = bounds
    if least is not None and most is not None:
        return f"from {_number(least)} to {_number(most)}"
    if least is not None:
        return f"at least {_number(least)}"
    return "" if most is None else f"at most {_number(most)}"


def _histogram(name: str, spread: Spread, bounds: Bounds) -> str:
    edges = _edges(np.concatenate([spread.kept, spread.rejected]), bounds)
    # What lies outside the picture is counted at its ends.
    kept, rejected = (
        np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        for values in (spread.kept, spread.rejected)
    )
    tall = HEIGHT / max(1, (kept + rejected).max())
    wide = WIDTH / len(kept)
    half = 0.5 if edges[0] % 1 == 0.5 and edges[1] - edges[0] == 1 else 0.0  # counts: see _edges
    shapes, lines = [], ""
    for side, bound in zip(("least", "most"), bounds, strict=True):
        if bound is None or not edges[0] <= bound <= edges[-1]:
            continue
        shift = half if bound % 1 == 0 else 0.0  # around the bar of a count
        end = bound - shift if side == "least" else bound + shift
        x = float(WIDTH * (end - edges[0]) / (edges[-1] - edges[0]))
        left, width = (0.0, x) if side == "least" else (x, WIDTH - x)
        shapes.append(
            f'<rect class="outside" x="{left:.1f}" width="{width:.1f}" y="0" height="{HEIGHT}"/>'
        )
        lines += f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}"/>'
    for i, (k, r) in enumerate(zip(kept.tolist(), rejected.tolist(), strict=True)):
        if not k + r:
            continue
        ends = [_number(edges[i + side] + half - 2 * half * side) for side in (0, 1)]
        title = f"{' to '.join(dict.fromkeys(ends))}: {k:,} kept, {r:,} rejected"
        shapes += [
            f"<g><title>{title}</title>",
            *(
                f'<rect class="{kind}" x="{i * wide + 0.5:.1f}" width="{wide - 1:.1f}" '
                f'y="{HEIGHT - top * tall:.1f}" height="{count * tall:.1f}"/>'
                for kind, count, top in (("kept", k, k), ("rejected", r, k + r))
                if count
            ),
            "</g>",
        ]
    labels = (
        f'<text x="0" y="{HEIGHT + 12}">{_number(edges[0] + half)}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 12}" text-anchor="end">{_number(edges[-1] - half)}</text>'
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + AXIS}" role="img" aria-label="{escape(name)}">'
        f"{''.join(shapes)}{lines}{labels}"
        f'<line class="axis" x1="0" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/></svg>'
    )


def _edges(values: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Where the bars of a histogram begin and end.

    From the lowest to the highest value without the outermost hundredth at each end, so that one odd
    clip does not squeeze all others into one bar; and to a threshold, unless that is far away.
    """
    low, high = np.quantile(values, [0.01, 0.99])
    reach = high - low
    for bound in bounds:
        if bound is not None and low - reach <= bound <= high + reach:
            low, high = min(low, bound), max(high, bound)
    if low == high:
        around = abs(low) / 10 or 0.5
        low, high = low - around, high + around
    whole = np.array_equal(values, np.round(values))
    if whole and high - low < BINS:  # counts: a bar each
        return np.arange(math.floor(low) - 0.5, math.ceil(high) + 1)
    margin = (high - low) / BINS  # so that a threshold is not on the frame
    least = 0.0 if low >= 0 else -math.inf  # no negative brightness
    return np.linspace(max(low - margin, least), high + margin, BINS + 1)


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _number(value: float) -> str:
    """Three digits, without an exponent where people would not write one."""
    if not math.isfinite(value):
        return "no number"
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{float(f'{value:.3g}'):,.6g}"


STYLE = """
:root{color-scheme:light dark;--paper:#f6f5f2;--card:#fff;--ink:#1d1f24;--soft:#6b6f78;--rule:#e3e1dc;
--kept:#2f6fd0;--rejected:#dd7a2c;--outside:#dd7a2c1c;--text:#7a6ff0;--reference:#2f9e8f;--audio:#2f6fd0;
--pose:#c2559c}
@media(prefers-color-scheme:dark){:root{--paper:#15171b;--card:#1e2126;--ink:#e9e7e2;--soft:#9a9ea8;
--rule:#31353c;--kept:#6aa2f5;--rejected:#f0984f;--outside:#f0984f22;--text:#a59df8;--reference:#5cc7b8;
--audio:#6aa2f5;--pose:#e083bd}}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 20px 80px}
h1{font-size:28px;line-height:1.2;margin:0}
h2{font-size:17px;margin:0 0 14px}
p{margin:0}
small,.hint,.path,.facts{color:var(--soft);font-weight:400}
.hint{font-size:13px;margin-top:6px}
.path{font-family:ui-monospace,monospace;font-size:13px;overflow-wrap:anywhere;margin-top:4px}
section,.tile{background:var(--card);border:1px solid var(--rule);border-radius:12px}
section{padding:20px 22px;margin-top:16px}
.pair,.tiles,.cards,.spreads{display:grid;gap:16px}
.tiles{grid-template-columns:repeat(auto-fit,minmax(150px,1fr));margin-top:22px}
.pair{grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr))}
.cards{grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));align-items:start}
.spreads{grid-template-columns:repeat(auto-fill,minmax(min(100%,250px),1fr));gap:24px}
.tile{padding:14px 18px;border-top:3px solid}
.tile.kept{border-top-color:var(--kept)}
.tile.rejected{border-top-color:var(--rejected)}
.tile b{display:block;font-size:clamp(20px,6vw,30px);white-space:nowrap;
line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft)}
.bar{display:grid;grid-template-columns:9em 1fr 4.5em;gap:12px;align-items:center;padding:3px 6px;
border-radius:6px}
.bar .name{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.bar .track{background:var(--rule);border-radius:5px;height:14px;overflow:hidden}
.bar i{display:block;height:100%;min-width:2px}
.bar .count{text-align:right;font-variant-numeric:tabular-nums}
a{color:inherit;text-decoration:none}
a:hover .bar,a:focus-visible .bar{background:var(--rule)}
a:focus-visible{outline:2px solid var(--kept);outline-offset:2px}
i.kept,.pill.kept{background:var(--kept)}
i.rejected,.pill.rejected{background:var(--rejected)}
i.text,.pill.text{background:var(--text)}
i.reference,.pill.reference{background:var(--reference)}
i.audio,.pill.audio{background:var(--audio)}
i.pose,.pill.pose{background:var(--pose)}
nav{display:flex;flex-wrap:wrap;gap:8px;margin-bottom:16px}
.chip{border:1px solid var(--rule);border-radius:99px;padding:3px 12px}
.chip:hover{border-color:var(--ink)}
.chip small{color:inherit;opacity:.65}
#examples,#examples>span{scroll-margin-top:12px}
#examples>span{position:absolute}
.card{border:1px solid var(--rule);border-radius:10px;overflow:hidden}
body:not(:has(#examples>span:target)) .card.more{display:none}
body:not(:has(#examples>span:target)) .chip.all{background:var(--ink);color:var(--paper)}
.card img{display:block;width:100%;height:auto;background:var(--rule)}
.card .none{padding:26px;text-align:center;color:var(--soft);background:var(--paper)}
.card .body{padding:10px 14px 12px;display:grid;gap:4px}
.card .id{font:13px/1.5 ui-monospace,monospace;overflow-wrap:anywhere}
.card .why{overflow-wrap:anywhere}
.card .facts{font-size:13px}
.card .teaches{display:flex;flex-wrap:wrap;gap:5px}
.pill{border-radius:99px;padding:1px 9px;font:600 12px/1.5 system-ui,sans-serif;color:#fff;
display:inline-block}
.pill.not{background:none;color:var(--soft);font-weight:400;text-decoration:line-through}
@media(prefers-color-scheme:dark){.pill:not(.not){color:#15171b}}
summary{cursor:pointer;color:var(--soft);font-size:13px}
table{border-collapse:collapse;font-size:13px;width:100%;margin-top:4px}
td{padding:1px 0;border-bottom:1px solid var(--rule)}
td+td{text-align:right;font-variant-numeric:tabular-nums}
tr.beyond{color:var(--rejected);font-weight:600}
tr.missing{color:var(--soft)}
figure{margin:0;min-width:0}
figcaption{font-weight:600;margin-bottom:6px}
.absent{color:var(--soft)}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
rect.kept{fill:var(--kept)}
rect.rejected{fill:var(--rejected)}
rect.outside{fill:var(--outside)}
line.line{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:4 3}
line.axis{stroke:var(--soft);stroke-width:1}
.legend{color:var(--soft);font-size:13px;margin-bottom:16px}
.legend i{display:inline-block;width:12px;height:12px;border-radius:3px;margin:0 4px 0 14px;
vertical-align:-1px}
.legend i:first-child{margin-left:0}
.legend i.line{width:0;border-radius:0;border-left:2px dashed var(--ink)}
.legend i.outside{background:var(--outside);border:1px solid var(--rule)}
"""
