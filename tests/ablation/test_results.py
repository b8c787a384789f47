"""Numbers of a study: which are there, how far points are apart, and whether that is more than chance."""

from xml.etree import ElementTree

import numpy as np
import pytest

from omnihuman_jax.ablation import report, results, whole
from omnihuman_jax.ablation.study import BASE
from omnihuman_jax.cli import main
from omnihuman_jax.errors import InputError
from tests.ablation import worlds


def test_the_interval_holds_the_mean_as_often_as_it_says():
    """Of 300 samples of 30 normal numbers about 95 % have the true mean inside."""
    random = np.random.default_rng(0)
    found = [results.estimate(random.normal(2.0, 1.0, 30)) for _ in range(300)]
    inside = np.mean([e.low <= 2.0 <= e.high for e in found])
    assert 0.89 < inside < 0.98
    one = results.estimate(np.array([3.0]))
    assert (one.value, one.low, one.high) == (3.0, None, None) and not one.sure


@pytest.fixture
def found(tmp_path):
    """Clips differ by much, points by 0.1 of every clip; the base's twin by nothing but noise."""
    study = worlds.study()
    hard = np.linspace(-1, 1, 6)
    noise = np.array([1, -1, 1, -1, 1, -1]) * 0.01
    more = {"audio-10": -0.1, BASE: 0.0, "audio-100": 0.0, "seed-1": 0.0}
    for point in study.points()[:3]:
        extra = noise if point.label == "audio-100" else 0
        numbers = lambda seed, p=point.label, e=extra: hard + more[p] + seed * 0.2 + e
        worlds.evaluated(study, tmp_path, point, numbers, whole=2.0)
    return study, tmp_path, results.gather(study, tmp_path)


def test_clips_are_paired_and_seeds_are_averaged(found):
    _, _, all_ = found
    lips, whole_, _ = all_.metrics["talk"]
    assert lips.of(BASE).value == pytest.approx(0.1) and lips.of(BASE).count == 6
    apart = lips.apart["audio-10"]
    assert apart.value == pytest.approx(-0.1) and apart.sure, "every clip is worse by the same"
    assert lips.of("audio-10").high > lips.of(BASE).low, "unpaired nobody would see it"
    assert not lips.apart["audio-100"].sure
    assert whole_.of(BASE).value == pytest.approx(2.5) and not whole_.apart


def test_what_is_missing_is_said(found, capsys):
    study, folder, all_ = found
    assert all_.points == (BASE, "audio-10", "audio-100")
    assert all_.missing == {"seed-1": "not trained"}
    with pytest.raises(InputError, match="Nothing in"):
        whole.reported(study, folder / "elsewhere")


def test_words_and_tables_say_the_same(found):
    study, folder, all_ = found
    audio, seed = study.factors
    lips = all_.metrics["talk"][0]
    said = report.said(lips, study, audio, all_.points)
    assert said.startswith("10 %: -0.1 [-0.1, -0.1] **worse**; 100 %: ")
    assert said.endswith("] within chance") and report.said(lips, study, seed, all_.points) == ""
    table = report.markdown(study, all_)
    assert f"| {said} |" in table and "| faces | talk | – | – | – |" in table
    page = report.page(study, folder, all_, None)
    assert "A &lt;study&gt;" in page and "<study>" not in page
    drawn = ElementTree.fromstring(report.figures(study, all_))
    assert len(drawn.findall(".//{*}circle")) == 2 * (3 + 1), "levels that are there, two metrics"
    assert "not computed: needs weights" in page and "<b>-0.1 " in page
    assert "1 of 4 points" not in page and "3 of 4 points are whole" in page


def test_a_damaged_evaluation_is_one_line(found, capsys, tmp_path):
    study, folder, _ = found
    (folder / "base/evaluation/talk/seed0/summary.json").write_text("{}")
    with pytest.raises(InputError, match="damaged evaluation"):
        results.gather(study, folder)
    file = tmp_path / "study.py"
    file.write_text("from tests.ablation.worlds import study as made\nstudy = made()\n")
    assert main(["ablate", str(file), "--workdir", str(folder), "--report"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_metric_of_sets_is_paired_as_a_mean_would_be():
    """Of a metric that happens to be a mean, drawing sets anew gives what differences of clips give."""
    random = np.random.default_rng(3)
    hard, more = random.normal(0, 5, 40), random.normal(0.5, 1, 40)
    seeds = [random.normal(0, 0.1, 40) for _ in range(2)]
    of = lambda numbers: lambda rows: float(np.mean(numbers[list(rows)]))
    sides = {"other": [of(hard + more + s) for s in seeds], BASE: [of(hard + s) for s in seeds]}
    found = results._drawn_apart(sides, 40, 500)["other"]
    wanted = results.estimate(more)
    assert found.value == pytest.approx(wanted.value) and found.count == 40
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.06)
    assert found.sure, "unpaired nobody would see it"
