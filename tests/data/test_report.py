"""The report: counts that add up, and a page that needs nothing else and trusts no text."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from omnihuman_jax import storage
from omnihuman_jax.conditions import STRENGTH
from omnihuman_jax.data import report, tally
from omnihuman_jax.errors import InputError
from tests.cloud import cloud

__all__ = ["cloud"]  # a fixture

LIMITS = {
    "brightness": (10.0, 210.0),
    "sharpness": (8.0, None),
    "motion": (0.05, 40.0),
    "text_area": (None, 0.02),
    "people": (None, 1.0),
    "sync_c": (3.0, None),
    "lip_correlation": (0.3, None),
}


def strip(number):
    """Four small pictures of something, as JPEG."""
    y, x = np.mgrid[0:60, 0:240] / 60
    hue = (np.sin(3 * x + number) + np.cos(5 * y - number) + 2) / 4
    pixels = np.stack([255 * hue, 120 + 100 * np.sin(x * number), 255 * (1 - hue)], -1)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "jpeg", quality=70)
    return base64.b64encode(file.getvalue()).decode()


def clip(number, **changes):
    """A row as `preprocess` writes it; about a third are rejected."""
    rng = np.random.default_rng(number)
    scores = {
        "brightness": rng.normal(110, 40),
        "sharpness": rng.lognormal(3.4, 0.9),
        "motion": rng.lognormal(1, 1),
        "text_area": rng.exponential(0.008),
        "people": float(rng.integers(1, 4)),
    }
    if rng.random() < 0.7:
        scores["lip_correlation"] = rng.normal(0.4, 0.2)
    bad = [
        n for n, v in scores.items() if n not in ("people", "lip_correlation") and not within(n, v)
    ]
    reason = "decode" if rng.random() < 0.03 else bad[0] if bad else None
    if reason == "decode":
        scores = {}
    teaches = [n for n, p in zip(STRENGTH, (1, 0.98, 0.5, 0.25), strict=True) if rng.random() < p]
    row = {
        "id": f"talks/part-{number % 7}/video-{number:05d}.mp4#{number % 3}.{number % 5}",
        "source": f"talks/part-{number % 7}/video-{number:05d}.mp4",
        "kept": reason is None,
        "reason": reason,
        "detail": ""
        if reason is None
        else f"{reason} is {scores.get(reason, 0):.4g}, beyond what is kept",
        "teaches": teaches if reason is None else [],
        "scores": scores,
        "seconds": 0.0 if reason == "decode" else float(rng.uniform(2, 8)),
        "bucket": None if reason else ["49x256x256", "81x480x832", "81x832x480"][number % 3],
        "thumbnail": "" if reason == "decode" else strip(number),
    }
    return {**row, **changes}


def within(name, value):
    least, most = LIMITS[name]
    return (least is None or value >= least) and (most is None or value <= most)


def write(folder, rows, shards=3):
    for shard in range(shards):
        lines = "".join(json.dumps(row) + "\n" for row in rows[shard::shards])
        storage.write_bytes(f"{folder}/report/x-{shard:05d}-of-{shards:05d}.jsonl", lines.encode())


def page(folder, rows, limits=LIMITS):
    write(str(folder), rows)
    path = report.write(str(folder), limits)
    return storage.read_bytes(path).decode()


class Page(HTMLParser):
    """What is on a page; every tag must be closed in its turn."""

    VOID = ("meta", "img")

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.texts, self.cards = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag, kind=None):
        found = [attrs for name, attrs in self.tags if name == tag]
        return [a for a in found if kind is None or kind in a.get("class", "").split()]

    @property
    def text(self):
        return " ".join(self.texts)


@pytest.fixture(scope="module")
def rows():
    return [clip(number) for number in range(400)]


def test_the_summary_adds_up(rows):
    found = report.summary(iter(rows))
    kept = [row for row in rows if row["kept"]]
    assert found["kept"] == len(kept)
    assert found["kept"] + found["rejected"] == len(rows)
    assert sum(found["reasons"].values()) == found["rejected"]
    assert list(found["reasons"].values()) == sorted(found["reasons"].values(), reverse=True)
    assert found["conditions"] == {
        name: sum(name in row["teaches"] for row in kept) for name in STRENGTH
    }
    assert found["hours_kept"] == pytest.approx(sum(r["seconds"] for r in kept) / 3600, abs=1e-4)
    assert json.loads(json.dumps(found)) == found


def test_the_page_is_whole_and_needs_nothing_from_outside(tmp_path, rows):
    html = page(tmp_path, rows)
    found = Page(html)
    assert not found.all("script") + found.all("link") + found.all("iframe")
    assert "url(" not in html
    assert "@import" not in html
    assert "://" not in html
    for attrs in found.all("a"):
        assert attrs["href"].startswith("#")
    for attrs in found.all("img"):
        data = attrs["src"].removeprefix("data:image/jpeg;base64,")
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    targets = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(set(targets)) == len(targets)
    assert {attrs["href"][1:] for attrs in found.all("a")} == set(targets)


def test_a_link_of_each_reason_leads_to_its_examples(tmp_path, rows):
    """Its class hides all other cards; up to a number of each reason are there, kept ones twice."""
    html = page(tmp_path, rows)
    found = Page(html)
    counts = report.summary(rows)["reasons"]
    for i, (reason, count) in enumerate([("kept", 10**6), *counts.items()]):
        cards = found.all("article", f"r{i}")
        assert len(cards) == min(count, tally.SHOWN * (2 if reason == "kept" else 1))
        assert all(("kept" in c["class"]) == (reason == "kept") for c in cards)
        assert f"body:has(#r{i}:target) .card:not(.r{i}){{display:none}}" in html
        (chip,) = found.all("a", f"r{i}")
        assert chip["href"] == f"#r{i}"


def test_examples_are_the_same_however_the_rows_lie(tmp_path, rows):
    """And are no neighbours: the first clips of the first shard are often of one video."""
    first = tally.tally(rows)
    other = tally.tally(reversed(rows))
    for reason in first.examples:
        assert first.chosen(reason) == other.chosen(reason)
    shown = [row["id"] for row in first.chosen(None)]
    kept = [row["id"] for row in rows if row["kept"]]
    assert shown != kept[: len(shown)]
    assert len(shown) == 2 * tally.SHOWN


def test_no_text_can_become_markup(tmp_path):
    evil = "</p><script>alert('1')</script><img src=x onerror=\"a\">&amp;"
    rows = [
        clip(
            0,
            id=evil,
            kept=True,
            reason=None,
            bucket=evil,
            thumbnail='"><script>',
            scores={evil: 1.0},
        ),
        clip(1, id=evil + "2", kept=False, reason=evil, detail=evil, scores={evil: 2.0}),
    ]
    html = page(tmp_path / "a&b<i>", rows, {evil: (0.0, None), "<b>absent": (1.0, 2.0)})
    found = Page(html)
    assert not found.all("script")
    assert not [attrs for _, attrs in found.tags if "onerror" in attrs]
    assert {attrs.get("src", "")[:10] for attrs in found.all("img")} == {"data:image"}
    assert found.text.count(evil) >= 6  # reads as it was written
    assert "a&b<i>" in found.text


def bars(found, kind):
    """What the bars of the histograms stand for, from their heights: a share of the tallest."""
    return [float(attrs["height"]) for attrs in found.all("rect", kind)]


def test_a_histogram_shows_every_clip_and_its_threshold(tmp_path):
    """Two values kept, one rejected twice as often; the threshold stands between them."""
    rows = [clip(i, kept=True, reason=None, scores={"motion": 1.0}) for i in range(10)]
    rows += [clip(i, kept=False, reason="motion", scores={"motion": 3.0}) for i in range(20, 40)]
    found = Page(page(tmp_path, rows, {"motion": (None, 2.0)}))
    assert bars(found, "rejected") == [90.0]
    assert bars(found, "kept") == [45.0]
    (line,) = found.all("line", "line")
    (kept,), (rejected,) = found.all("rect", "kept"), found.all("rect", "rejected")
    assert float(kept["x"]) + float(kept["width"]) <= float(line["x1"]) <= float(rejected["x"])
    (outside,) = found.all("rect", "outside")
    assert float(outside["x"]) == float(line["x1"])
    assert "at most 2" in found.text


@pytest.mark.parametrize(
    "values",
    [
        [5.0],
        [5.0, 5.0],
        [0.0],
        [-1e9, 0.0, 1e9],
        [1e-9, 2e-9],
        [0.1, 0.2, 1e6],
        [*np.linspace(0.1, 0.9, 300), -9, 1e6],
    ],
)
@pytest.mark.parametrize("bounds", [(None, None), (5.0, None), (-1e12, 1e12), (0.0, 0.0)])
def test_any_values_can_be_drawn(tmp_path, values, bounds):
    """No clip is left out, no bar is taller than the picture or outside it."""
    same = {"kept": True, "reason": None, "thumbnail": ""}
    rows = [clip(i, scores={"s": float(v)}, **same) for i, v in enumerate(values)]
    html = page(tmp_path, rows, {"s": bounds})
    found = Page(html)
    counts = re.findall(r"<title>[^<]*: (\d+) kept, 0 rejected</title>", html)
    assert sum(map(int, counts)) == len(values)
    for attrs in found.all("rect"):
        x, y, width, height = (float(attrs[name]) for name in ("x", "y", "width", "height"))
        assert -0.1 <= x <= x + width <= 280.1
        assert -0.1 <= y <= y + height <= 90.1
    assert "nan" not in html


def test_what_was_not_scored_is_said_so_and_never_a_number(tmp_path):
    rows = [clip(i, kept=True, reason=None, scores={"a": 1.0} if i else {}) for i in range(5)]
    rows += [clip(7, kept=False, reason="decode", scores={"a": float("nan")})]
    text = Page(page(tmp_path, rows, {"a": (0.5, None), "sync_c": (3.0, None)})).text
    assert "not scored: 1 kept, 1 rejected" in text
    assert re.search(r"Not scored in any clip\s+sync_c", text)
    assert "no number" in text


def test_only_kept_and_only_rejected_clips_are_fine(tmp_path):
    assert (
        "Nothing was rejected" in Page(page(tmp_path / "a", [clip(0, kept=True, reason=None)])).text
    )
    rejected = clip(
        1, kept=False, reason="decode", scores={}, thumbnail="", teaches=[], bucket=None
    )
    text = Page(page(tmp_path / "b", [rejected])).text
    assert "no picture" in text
    assert "not scored" in text


@pytest.mark.parametrize(
    "line, reason",
    [
        (b"{", r"x-00001-of-00003.jsonl, line 2, is damaged"),
        (b"\xff", "line 2, is damaged"),
        (b"[]", "line 2, is no row of a report"),
        (b"{}", "its 'id' is missing"),
        (json.dumps(clip(0, seconds="5")).encode(), "its 'seconds' is missing or wrong"),
        (json.dumps(clip(0, scores={"a": "high"})).encode(), "a score is not a number"),
    ],
)
def test_a_damaged_row_is_named(tmp_path, line, reason):
    write(str(tmp_path), [clip(i) for i in range(3)])
    path = tmp_path / "report" / "x-00001-of-00003.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(InputError, match=reason):
        report.write(str(tmp_path))


def test_without_rows_there_is_no_report(tmp_path):
    with pytest.raises(InputError, match="nothing to report"):
        report.write(str(tmp_path))


def test_the_cloud_has_the_same_page(tmp_path, cloud):
    rows = [clip(number) for number in range(10)]
    write(f"{cloud}/records", rows)
    path = report.write(f"{cloud}/records", LIMITS)
    assert path == f"{cloud}/records/report/index.html"
    there = storage.read_bytes(path).decode()
    here = page(tmp_path, rows)
    assert there.replace(f"{cloud}/records", "") == here.replace(str(tmp_path), "")
