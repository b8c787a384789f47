"""report.html: worst clips first, every dot leads to its clip, and in a browser its videos play."""

import re

import numpy as np
import pytest

from omnihuman_jax.evaluation import look, page
from omnihuman_jax.evaluation.accumulator import Estimate
from omnihuman_jax.evaluation.run import Settings, evaluate
from omnihuman_jax.evaluation.summary import Found, Row, Summary
from tests.evaluation.conftest import film
from tests.web.test_browser import CHROMIUM, browsing

PLAYED = """async () => {
  const videos = [...document.querySelectorAll('.card video')];
  await Promise.all(videos.map(v => { v.muted = true; return v.play(); }));
  const until = Date.now() + 20000;
  while (videos.some(v => v.currentTime < 0.1) && Date.now() < until)
    await new Promise(r => setTimeout(r, 20));
  return videos.map(v => ({ready: v.readyState, at: v.currentTime, width: v.videoWidth}));
}"""


def summary(values, better, missing=()):
    """A made-up run: values by metric and clip."""
    ids = tuple(sorted({name for each in values.values() for name in each}))
    rows = {
        n: Row(id=n, video=f"v/{n}.mp4", values={m: v.get(n) for m, v in values.items()})
        for n in ids
    }
    metrics = {
        m: Found(
            estimate=Estimate(value=float(np.mean([*v.values()])), low=0.0, high=1.0, count=len(v)),
            better=better[m],
            definition="<what it is>",
        )
        for m, v in values.items()
    }
    lost = dict.fromkeys(missing, "needs the video")
    return Summary(
        name="a & b", testset="t", metrics=metrics, clips=ids, missing=lost, rows=rows, folder="e"
    )


def test_the_worst_clips_come_first_whichever_end_is_better():
    made = summary(
        {"up": {"a": 0.9, "b": 0.1, "c": 0.5}, "down": {"a": 1.0, "b": 9.0, "c": 5.0}, "none": {"a": 3.0}},
        {"up": "higher", "down": "lower", "none": None},
    )  # fmt: skip
    text = page.page(made, {})
    assert re.findall(r"<h3>(.)</h3>", text) == ["b", "c", "a"]
    assert "a &amp; b" in text and "&lt;what it is&gt;" in text
    linked = set(re.findall(r'href="#(c\d)"', text))
    assert linked == set(re.findall(r'id="(c\d)"', text)) == {"c0", "c1", "c2"}
    lost = page.page(summary({"up": {"a": 1.0, "b": 0.0}}, {"up": "higher"}, missing=["b"]), {})
    assert re.findall(r"<h3>(.)</h3>", lost) == ["a", "b"] and "v/b.mp4" not in lost


def test_places_are_from_best_to_worst_and_shared_by_equals():
    assert look.ranks({"a": 1.0, "b": 2.0, "c": 2.0}, "higher") == {"a": 1.0, "b": 0.25, "c": 0.25}
    assert look.ranks({"a": 1.0, "b": 2.0}, "lower") == {"a": 0.0, "b": 1.0}
    assert look.ranks({"a": 1.0, "b": 2.0}, None) == {}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt install chromium)")
def test_in_a_browser_generated_and_true_videos_play(testset, tmp_path):
    videos = film(tmp_path / "some run, 50%", testset, encoding={"preset": "ultrafast"})
    settings = Settings(videos=str(videos), testset=str(testset), metrics=("puppet_lips",))
    made = evaluate(settings, lambda line: None)
    with browsing() as (context, asked):
        shown = context.new_page()
        broken = []
        shown.on("pageerror", lambda error: broken.append(str(error)))
        shown.goto(f"file://{made.folder.replace('%', '%25')}/report.html")
        assert shown.locator("h1").inner_text() == "some run, 50%"
        assert shown.locator("figure svg circle").count() == 4
        played = shown.evaluate(PLAYED)
        assert len(played) == 8 and not broken
        assert all(p["ready"] >= 2 and p["at"] >= 0.1 and p["width"] == 64 for p in played), played
        assert all(address.startswith("file:") for address in asked)
