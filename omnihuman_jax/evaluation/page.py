"""The only place that writes report.html: every metric, then videos beside the truth, worst cases first."""

import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np

from omnihuman_jax import storage
from omnihuman_jax.evaluation import look
from omnihuman_jax.evaluation.cases import Cases
from omnihuman_jax.evaluation.summary import PAGE, Found, Row, Summary

TRUTH = "truth"  # the folder of videos of what really happened
BAD = 0.9  # of the clips are better: a value that stands out on a card
TOGETHER = """<script>
for (const pair of document.querySelectorAll('.pair')) {
  const [made, truth] = pair.querySelectorAll('video');
  if (!truth) continue;
  truth.muted = true;
  made.onplay = () => { truth.currentTime = made.currentTime; truth.play(); };
  made.onpause = () => truth.pause();
  made.onseeked = () => { truth.currentTime = made.currentTime; };
}
</script>"""


def write(made: Summary, found: Cases) -> str:
    """The page beside summary.json, and the truth's videos, that a browser finds by relative paths.

    Returns:
        Its path. Nothing is written to gs://, where no browser would find the videos.
    """
    folder = made.folder
    path = storage.join(folder, PAGE)
    if storage.is_remote(folder):
        return path
    truths = {}
    for case in found:
        if case.known.mp4 is not None:
            file = Path(folder, TRUTH, f"{case.id}.mp4")
            content = case.known.mp4()
            if not file.is_file() or file.stat().st_size != len(content):
                storage.write_bytes(str(file), content)
            truths[case.id] = _address(folder, str(file))
    storage.write_bytes(path, page(made, truths).encode())
    return path


def page(made: Summary, truths: Mapping[str, str]) -> str:
    """The whole page. `truths`: addresses of what really happened, by id."""
    links = {name: f"c{k}" for k, name in enumerate(made.clips)}
    computed = {name: found for name, found in made.metrics.items() if found.value is not None}
    values = {name: made.values(name) for name in computed}
    places = {name: look.ranks(values[name], found.better) for name, found in computed.items()}
    worst = worst_first(made, places)
    cards = [_card(made, name, links[name], places, truths.get(name)) for name in worst]
    drawn = "".join(_figure(n, found, values[n], links) for n, found in computed.items())
    return look.document(
        f"{made.name}: evaluation",
        [
            _headline(made),
            f'<section><h2>Metrics</h2><div class="metrics">{drawn}</div></section>',
            _not_computed(made),
            '<section><h2>Clips, worst first</h2><p class="soft">By the mean of their places in all metrics '
            "that have a better end; a value that 9 of 10 clips beat stands out.</p>"
            f'<div class="cards">{"".join(cards)}</div></section>',
            TOGETHER,
        ],
    )


def worst_first(made: Summary, places: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Ids by the mean of their places in the metrics; those without a video last."""
    mean = {}
    for name in made.clips:
        own = [each[name] for each in places.values() if name in each]
        mean[name] = -1.0 if name in made.missing else float(np.mean(own)) if own else 0.0
    return sorted(made.clips, key=lambda name: -mean[name])


def _headline(made: Summary) -> str:
    there = len(made.clips) - len(made.missing)
    lost = "".join(
        f'<p class="warn">{escape(name)} {escape(why)}</p>' for name, why in made.missing.items()
    )
    return (
        f"<header><h1>{escape(made.name)}</h1><p class='soft'>{escape(made.testset)}; {there} of "
        f"{len(made.clips)} clips have a video. Intervals: 95 %, bootstrap over clips.</p>{lost}</header>"
    )


def _figure(name: str, found: Found, values: Mapping[str, float], links: Mapping[str, str]) -> str:
    e = found.estimate
    spread = (
        "" if e.low is None else f" <small>{look.number(e.low)} to {look.number(e.high)}</small>"
    )
    of = f"{e.count} clips" + (f", {e.samples:,} {found.samples}" if e.samples != e.count else "")
    warned = (
        f'<p class="warn"><small class="warn">{escape(e.warning)}</small></p>' if e.warning else ""
    )
    return (
        f"<figure><figcaption>{escape(name)} {look.ARROWS[found.better]}</figcaption>"
        f"<b>{look.number(e.value)}</b>{spread}{look.strip(values, e.value, e.low, e.high, links)}"
        f"{warned}<details><summary>{of}; what it is</summary><small>{escape(found.definition)}</small>"
        "</details></figure>"
    )


def _not_computed(made: Summary) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class=why>{escape(found.estimate.why)}</td></tr>"
        for name, found in made.metrics.items()
        if found.value is None
    )
    return f"<section><h2>Not computed</h2><table>{rows}</table></section>" if rows else ""


def _card(
    made: Summary,
    name: str,
    link: str,
    places: Mapping[str, Mapping[str, float]],
    truth: str | None,
) -> str:
    row = made.rows[name]
    videos = "".join(
        f'<div><video controls loop preload="metadata" src="{address}#t=0.001"></video>'
        f"<span>{label}</span></div>"
        for label, address in (("generated", _made(made, row)), ("truth", truth))
        if address is not None
    )
    chips = "".join(
        f"<span{_stands_out(places.get(metric, {}).get(name))}>{escape(metric)} {look.number(value)}</span>"
        for metric, value in row.values.items()
        if value is not None
    )
    lost = made.missing.get(name)
    told = f'<p class="warn">{escape(lost)}</p>' if lost else f'<div class="chips">{chips}</div>'
    return (
        f'<article class="card" id="{link}"><h3>{escape(name)}</h3>'
        f'<div class="pair">{videos}</div>{told}</article>'
    )


def _stands_out(place: float | None) -> str:
    return ' class="bad"' if place is not None and place > BAD else ""


def _made(made: Summary, row: Row) -> str | None:
    if made.missing.get(row.id) or storage.is_remote(row.video):
        return None
    return _address(made.folder, row.video)


def _address(folder: str, file: str) -> str:
    """Of a local file, relative to the page."""
    return quote(os.path.relpath(file, folder).replace(os.sep, "/"))
