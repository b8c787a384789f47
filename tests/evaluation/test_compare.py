"""Tables of runs: the best is marked, and from it only what surely differs; published figures stand apart."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from omnihuman_jax.cli import main
from omnihuman_jax.errors import InputError
from omnihuman_jax.evaluation import baselines, comparing, registry, summary, tables
from omnihuman_jax.evaluation.accumulator import Accumulator
from omnihuman_jax.evaluation.summary import Found, Row, Summary

IDS = tuple(f"clip{k:02}" for k in range(30))


def run_of(tmp_path, name, lips, apart=0.0, testset="puppets, 30 clips, 0a1b", ids=IDS, rows_of=12):
    """An evaluated run, written and read again: lips by clip, frames `apart` from the truth's."""
    folder = tmp_path / name
    random = np.random.default_rng(5)
    metrics = {}
    rows = {
        n: Row(
            id=n, video=f"{n}.mp4", values={"puppet_lips": v, "iqa": None},
            keys={"puppet_lips": "k", "puppet_frechet": "k"}, why={"iqa": "needs qalign"},
        )
        for n, v in zip(ids, lips, strict=True)
    }  # fmt: skip
    frames = {}
    for n in ids:
        truth = random.standard_normal((rows_of, 40))
        noise = 0.1 * random.standard_normal((rows_of, 40))
        frames[n] = {"truth": truth, "made": truth + apart + noise}
        summary.write_features(str(folder), "puppet_frechet", n, frames[n])
        summary.write_row(str(folder), rows[n])
    values = {n: row.values["puppet_lips"] for n, row in rows.items()}
    for metric, results in (("puppet_lips", values), ("puppet_frechet", frames)):
        each = registry.METRICS[metric]
        metrics[metric] = Found.of(each, Accumulator(each, results).estimate())
    summary.write(str(folder), Summary(name=name, testset=testset, metrics=metrics, clips=ids))
    return str(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Clips differ far more than runs do: only a paired comparison sees that `good` is better than `bad`."""
    root = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    clips = random.normal(0.5, 0.3, len(IDS))
    jitter = lambda: random.normal(0, 0.02, len(IDS))
    return [
        run_of(root, "bad", (clips - 0.1 + jitter()).tolist(), apart=1.0),
        run_of(root, "good", (clips + jitter()).tolist()),
        run_of(root, "same|ish", (clips + jitter() + 0.001).tolist()),
    ]


@pytest.fixture(scope="module")
def found(runs):
    return comparing.compared([summary.load(folder) for folder in runs])


def test_the_best_is_marked_and_what_surely_differs_from_it(found):
    assert found.runs == ("bad", "good", "same|ish") and found.clips == (30, 30, 30)
    bad, good, same = found.cells["puppet_lips"]
    assert bad.differs and not bad.best
    assert good.best != same.best and not good.differs and not same.differs
    assert bad.high > min(good.low, same.low)  # intervals overlap, and still it is sure
    far, near, other = found.cells["puppet_frechet"]
    assert far.differs and far.value > near.value
    assert other.differs is False


def test_two_runs_of_the_same_law_seldom_differ():
    """At 95 %, about one pair in twenty."""
    metric = registry.METRICS["puppet_lips"]
    sure = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        clips = random.standard_normal(20)
        one, other = (
            Accumulator(metric, dict(zip(IDS, clips + random.standard_normal(20), strict=False)))
            for _ in range(2)
        )
        sure += bool(comparing.surely_differ(one, other, seed))
    assert sure <= 13


def test_runs_of_different_test_sets_are_refused_in_one_line(runs, tmp_path, capsys):
    other = run_of(tmp_path, "other", [0.5] * 30, testset="puppets, 30 clips, ffff", rows_of=2)
    assert main(["compare", runs[0], other, "--out", str(tmp_path / "t")]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "other was evaluated on another test set" in said
    fewer = run_of(tmp_path, "fewer", [0.5] * 29, ids=IDS[1:], rows_of=2)
    assert main(["compare", runs[0], fewer, "--out", str(tmp_path / "t")]) == 2
    assert main(["compare", runs[0], runs[0], "--out", str(tmp_path / "t")]) == 2
    assert "Two runs are called bad" in capsys.readouterr().err
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "t")]) == 2
    assert "There is no summary.json" in capsys.readouterr().err


class Cells(HTMLParser):
    """Rows of a page's tables."""

    def __init__(self):
        super().__init__()
        self.rows, self.open = [], False

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self.open = tag in ("td", "th")

    def handle_data(self, data):
        if self.open:
            self.rows[-1].append(data)
            self.open = False


def test_markdown_latex_and_html_say_the_same(runs, tmp_path, capsys):
    assert main(["compare", *runs, "--out", str(tmp_path), "--layout", "body", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["runs"] == ["bad", "good", "same|ish"]
    text = (tmp_path / "table.md").read_text()
    heads = "| run | clips | IQA ↑ | ASE ↑ | Sync-C ↑ | FID ↓ | FVD (3D-ResNet-50) ↓ | FVD (I3D) ↓ | HKV ↑"
    assert heads in text and "puppet_frechet ↓" in text and "same\\|ish" in text
    page = Cells()
    page.feed((tmp_path / "table.html").read_text())
    tex = (tmp_path / "table.tex").read_text()
    assert tex.count("\\begin{tabular}") == tex.count("\\end{tabular}") == 3
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    plain = [
        [c.replace("**", "").replace("\\|", "|").strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines
    ]  # fmt: skip
    assert plain == page.rows
    for line in tex.splitlines():
        if line.endswith("\\\\"):
            assert line.count(" & ") + 1 in {len(row) for row in plain}


def test_published_figures_are_the_papers_and_never_in_a_computed_table(found):
    ours, theirs = tables.computed(found, "portrait"), tables.published("portrait")
    assert [t.title.split(":")[0] for t in theirs] == ["As reported"] * 2
    assert not any("OmniHuman" in row[0] for table in ours for row in table.rows)
    celebv, ravdess = theirs
    assert celebv.rows[-1] == ("OmniHuman", "3.875", "2.656", "5.199", "31.435", "46.393")
    assert ravdess.rows[3][:2] == ("EchoMimic", "4.504")
    # Of CelebV-HQ, OmniHuman is best in all but FVD, where Hallo-3 is.
    assert celebv.bold[-1] == (False, True, True, True, True, False) and celebv.bold[5][-1]
    (body,) = tables.published("body")
    assert len(body.rows) == 4 and body.rows[0][6] == "–" and body.heads[6:] == ("HKV ↑", "HKC ↑")
    assert "3D-ResNet-50" in body.note
    assert comparing.layout_of("ravdess, 100 clips, 0a") == "portrait"
    assert (
        comparing.layout_of("puppets, 4 clips, 0a") == "all" and len(tables.published("all")) == 3
    )


def test_every_method_of_both_tables_has_a_layout():
    methods = {layout.method for layout in baselines.LAYOUTS.values()}
    named = {row[0] for table in tables.published("all") for row in table.rows}
    assert named - {"OmniHuman"} == methods
    for layout in baselines.LAYOUTS.values():
        assert layout.source or "could be verified" in layout.note


@pytest.mark.parametrize(
    "layout, file",
    [
        ("sadtalker", "a_b/2024_05_01_10.00.00.mp4"),
        ("echomimic", "20240501/1000--seed_420-512x512/a_b_a_b_512x512_2_1000_withaudio.mp4"),
        ("hallo3", "a_b-a_b-seed_42/000000_with_audio.mp4"),
        ("diffgesture_mimicmotion", "a_b_20240501100000.mp4"),
        ("loopy", "a/b.mp4"),
        ("hallo", "a/b.mp4"),
    ],
)
def test_folders_of_other_methods_are_read_as_they_write_them(tmp_path, layout, file):
    for name in (file, "other_20240501100000.mp4", "a_b_pose.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert baselines.names(layout, str(tmp_path), ["a/b"]) == {"a/b": file}
    assert baselines.names(layout, str(tmp_path), ["c"]) == {"c": "c.mp4"}
    if baselines.LAYOUTS[layout].patterns and layout != "hallo3":
        twin = tmp_path / file.replace("2024", "2025")
        twin.parent.mkdir(parents=True, exist_ok=True)
        twin.write_bytes(b"")
        with pytest.raises(InputError, match="2 videos of clip a/b"):
            baselines.names(layout, str(tmp_path), ["a/b"])
    with pytest.raises(InputError, match="no layout 'emo', but sadtalker"):
        baselines.names("emo", str(tmp_path), [])
