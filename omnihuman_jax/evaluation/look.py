"""The only place that knows how pages of evaluations look: style, numbers, a picture of a metric's clips."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, PAD, BASE = 300, 64, 10, 44  # of a strip, in its own units
ARROWS = {"higher": "↑", "lower": "↓", None: ""}


def document(title: str, body: Sequence[str]) -> str:
    """A whole page that needs nothing else but the videos."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def number(value: float | None, digits: int = 4) -> str:
    """So many digits, without an exponent where people would not write one; a dash for None."""
    if value is None:
        return "–"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{float(f'{value:.{digits}g}'):,.6g}"


def strip(
    values: Mapping[str, float],
    mean: float | None,
    low: float | None,
    high: float | None,
    links: Mapping[str, str],
) -> str:
    """A dot a clip along the values, their mean and its interval; a dot leads to its clip. Inline SVG."""
    given = [*values.values(), *(v for v in (mean, low, high) if v is not None)]
    if not given:
        return ""
    least, most = min(given), max(given)
    wide = (most - least) or abs(most) or 1.0
    at = lambda v: PAD + (WIDTH - 2 * PAD) * ((v - least) / wide if most > least else 0.5)
    parts = [f'<line class="axis" x1="{PAD}" x2="{WIDTH - PAD}" y1="{BASE}" y2="{BASE}"/>']
    if low is not None and high is not None:
        parts.append(
            f'<rect class="band" x="{at(low):.1f}" y="8" width="{max(at(high) - at(low), 1):.1f}" '
            f'height="{BASE - 8}"/>'
        )
    taken: dict[int, int] = {}
    for name, value in sorted(values.items(), key=lambda pair: (pair[1], pair[0])):
        column = round(at(value) / 5)
        row = taken[column] = taken.get(column, -1) + 1
        y = BASE - 5 - 5 * min(row, 6)
        parts.append(
            f'<a href="#{escape(links[name])}"><circle cx="{at(value):.1f}" cy="{y}" r="2.6">'
            f"<title>{escape(name)}: {number(value)}</title></circle></a>"
        )
    if mean is not None:
        middle = f"{at(mean):.1f}"
        parts.append(f'<line class="mean" x1="{middle}" x2="{middle}" y1="8" y2="{BASE}"/>')
    for value, anchor, x in ((least, "start", PAD), (most, "end", WIDTH - PAD)):
        if anchor == "start" or most > least:
            parts.append(
                f'<text x="{x}" y="{BASE + 15}" text-anchor="{anchor}">{number(value, 3)}</text>'
            )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def ranks(values: Mapping[str, float], better: str | None) -> dict[str, float]:
    """From 0, the best clip, to 1, the worst; equal values share a place. Empty where no end is better."""
    if better is None or len(values) < 2:
        return {}
    sign = 1 if better == "lower" else -1
    ordered = sorted(sign * v for v in values.values() if math.isfinite(v))
    first = {v: k for k, v in reversed(list(enumerate(ordered)))}
    last = {v: k for k, v in enumerate(ordered)}
    most = 2 * (len(ordered) - 1)
    return {n: (first[sign * v] + last[sign * v]) / most for n, v in values.items()}


STYLE = """
:root{color-scheme:light dark;--paper:#f6f5f2;--card:#fff;--ink:#1d1f24;--soft:#6b6f78;--rule:#e3e1dc;
--dot:#2f6fd0;--band:#2f6fd022;--warn:#b45a10;--good:#1d7a5f}
@media(prefers-color-scheme:dark){:root{--paper:#15171b;--card:#1e2126;--ink:#e9e7e2;--soft:#9a9ea8;
--rule:#31353c;--dot:#6aa2f5;--band:#6aa2f52e;--warn:#f0a860;--good:#5cc7a4}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 20px 80px}
h1{font-size:28px;line-height:1.2;margin:0}
h2{font-size:17px;margin:0 0 14px}
p{margin:0 0 6px}
a{color:inherit}
.soft,small{color:var(--soft);font-weight:400}
.warn{color:var(--warn)}
section{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:20px 22px;
margin-top:16px;overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:4px 14px 4px 0;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
td.why{text-align:left;white-space:normal}
td.best{font-weight:700;color:var(--good)}
.metrics{display:grid;gap:22px;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr))}
figure{margin:0;min-width:0}
figcaption{font-weight:600}
figure b{font-size:22px;font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
circle{fill:var(--dot);fill-opacity:.75}
a:hover circle{fill:var(--warn)}
rect.band{fill:var(--band)}
line.axis{stroke:var(--rule)}
line.mean{stroke:var(--ink);stroke-width:1.4}
summary{cursor:pointer;color:var(--soft);font-size:13px}
.cards{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(min(100%,460px),1fr))}
.card{border:1px solid var(--rule);border-radius:10px;padding:12px 14px;min-width:0;scroll-margin-top:12px}
.card:target{outline:3px solid var(--dot)}
.card h3{font:600 13px/1.5 ui-monospace,monospace;margin:0 0 8px;overflow-wrap:anywhere}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:8px}
.pair span{color:var(--soft);font-size:13px}
video{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:#000;border-radius:6px}
.chips{display:flex;flex-wrap:wrap;gap:4px 12px;font-size:13px;margin-top:8px}
.chips .bad{color:var(--warn);font-weight:600}
pre{white-space:pre-wrap;font-size:13px}
"""
