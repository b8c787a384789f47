"""The page for judges and the report in a real browser: sides change by chance, answers stay, videos play."""

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest

from omnihuman_jax.ablation import jobs, rating, results, whole
from omnihuman_jax.ablation.study import BASE
from omnihuman_jax.cli import main
from tests.ablation import worlds

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt install chromium)"),
]
PLAYED = """async video => {
  await video.play();
  const until = Date.now() + 15000;
  while (video.currentTime < 0.1 && Date.now() < until) await new Promise(r => setTimeout(r, 20));
  return [video.readyState, video.currentTime, video.videoWidth];
}"""


@contextmanager
def browsing():
    """A browser that finds no other machine."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--host-resolver-rules=MAP * ~NOTFOUND",
            ],
        )
        context = browser.new_context(accept_downloads=True)
        context.set_default_timeout(60_000)
        yield context
        browser.close()


@pytest.fixture
def made(tmp_path):
    """A study that is whole, with two clips a point: its file and folder."""
    testset = worlds.puppets(tmp_path)
    study = worlds.study(testset)
    folder = tmp_path / "work"
    folder.mkdir()
    for number, point in enumerate(study.points()):
        worlds.evaluated(study, folder, point, lambda seed, n=number: np.arange(6) + n * 0.1)
    shades = {p.label: 40 + 60 * n for n, p in enumerate(study.points())}
    worlds.filmed(study, folder, lambda label: np.full((64, 64, 3), shades[label], np.uint8))
    file = tmp_path / "study.py"
    file.write_text(
        f"from tests.ablation.worlds import study as made\nstudy = made({str(testset)!r})\n"
    )
    return study, file, folder


def test_a_judge_answers_leaves_comes_back_and_saves(made, tmp_path, capsys):
    _, file, folder = made
    assert main(["ablate", str(file), "--workdir", str(folder), "--report", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["points"] == 4 and told["missing"] == []
    key = rating.read_key(folder / whole.KEY)
    with browsing() as context:
        page, wrong = context.new_page(), []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((folder / whole.RATING).as_uri())
        for side in ("#left", "#right"):
            ready, at, width = page.eval_on_selector(side, PLAYED)
            assert ready >= 2 and at > 0 and width == 64
        assert page.eval_on_selector("#picture", "image => image.naturalWidth") == 64
        shown = {}
        for number in range(6):
            state = page.evaluate("({entry: state.order[state.at], at: state.at})")
            assert state["at"] == number
            shown[state["entry"]["pair"]] = state["entry"]["sides"]
            for name in rating.QUESTIONS:
                value = "none" if name == "identity" else "left"
                page.check(f'input[name="{name}"][value="{value}"]')
            if number < 5:
                page.click("#next")
        page.close()

        again = context.new_page()  # what was answered is still there
        again.goto((folder / whole.RATING).as_uri())
        assert "Pair 6 of 6; 6 answered." in again.inner_text("#where")
        assert again.is_checked('input[name="overall"][value="left"]')
        with again.expect_download() as download:
            again.click("#save")
        download.value.save_as(tmp_path / "answers.json")
        assert not wrong

        other = context.browser.new_context().new_page()  # another judge, another order
        orders = {json.dumps(list(shown.items()))}
        for _ in range(3):
            other.goto((folder / whole.RATING).as_uri())
            other.evaluate("localStorage.clear()")
            other.reload()
            orders.add(json.dumps(other.evaluate("state.order.map(e => [e.pair, e.sides])")))
        assert len(orders) > 1
    assert shown.keys() == key["pairs"].keys()
    found = rating.read_answers(tmp_path / "answers.json")
    assert len(found["answers"]) == 6 * 5
    for answer in found["answers"]:
        left = shown[answer["pair"]][0]
        assert answer["left"] == left
        assert answer["chosen"] == (None if answer["question"] == "identity" else left)
    files = ["--ratings", str(tmp_path / "answers.json")]
    assert main(["ablate", str(file), "--workdir", str(folder), *files]) == 0
    said = capsys.readouterr().out
    assert "| abstained | 100.00 (6) | 0.00 (0) |" in said
    assert "30 answers of 1 judges" in (folder / whole.REPORT).read_text()


def test_the_report_shows_videos_side_by_side_and_they_play(made, capsys):
    study, _, folder = made
    whole.reported(study, folder)
    with browsing() as context:
        page = context.new_page()
        page.goto((folder / whole.REPORT).as_uri())
        rows = page.locator("table.videos tr").count() - 1
        assert rows == 2
        videos = page.query_selector_all("table.videos video")
        assert len(videos) == rows * (1 + len(study.points())), "the truth, and all points"
        for video in videos[:3]:
            ready, at, width = video.evaluate(PLAYED)
            assert ready >= 2 and at > 0 and width == 64
    found = results.gather(study, folder)
    assert found.points[0] == BASE and jobs.ids(study.videos[0])
