"""`evaluate`: results are kept clip by clip, computed once, and the same however the work was shared."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax.cli import main
from omnihuman_jax.errors import InputError
from omnihuman_jax.evaluation import of_puppets, run, summary
from omnihuman_jax.evaluation.run import Settings, evaluate
from omnihuman_jax.testsets import open_testset
from tests.evaluation.conftest import film, noisy

PUPPETS = tuple(metric.name for metric in of_puppets.METRICS)
QUICK = ("puppet_lips", "puppet_identity", "puppet_look", "puppet_motion", "puppet_frechet")


@pytest.fixture(scope="module")
def truth(testset, tmp_path_factory):
    return film(tmp_path_factory.mktemp("truth"), testset)


def silent(line):
    pass


@pytest.mark.slow
def test_the_truth_itself_scores_as_well_as_can_be(truth, testset, tmp_path, capsys):
    command = ["evaluate", str(truth), "--testset", str(testset), "--out", str(tmp_path / "e")]
    assert main([*command, "--quiet", "--json", "--metrics", ",".join(PUPPETS)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = {name: each["value"] for name, each in told["metrics"].items()}
    assert found["puppet_lips"] > 0.8 and found["puppet_pose"] < 0.03
    assert found["puppet_identity"] == 1 and found["puppet_look"] < 15
    assert found["puppet_motion"] == pytest.approx(1, abs=0.1)
    assert found["puppet_frechet"] < 0.3  # colours were halved in size a second time
    made = summary.load(str(tmp_path / "e"))
    ids = open_testset(testset).ids.ids
    assert made.clips == ids and not made.missing and made.testset.startswith("puppets, 4 clips")
    row = json.loads((tmp_path / f"e/clips/{ids[0]}.json").read_text())
    assert row["values"]["puppet_lips"] == made.values("puppet_lips")[ids[0]]
    each = json.loads((tmp_path / "e/summary.json").read_text())["metrics"]["puppet_lips"]
    assert each["low"] <= each["value"] <= each["high"] and each["count"] == 4
    assert each["better"] == "higher" and "4 clips are few" in each["warning"]


def test_what_is_there_is_not_computed_again_but_what_has_changed_is(
    truth, testset, tmp_path, monkeypatch
):
    videos = film(tmp_path / "v", testset)
    measured = []
    genuine = run._measured

    def seen(row, metric, case, *rest):
        if len(measured) == 7:
            raise KeyboardInterrupt  # pulled in the middle of a clip
        measured.append((case.id, metric.name))
        return genuine(row, metric, case, *rest)

    monkeypatch.setattr(run, "_measured", seen)
    settings = Settings(videos=str(videos), testset=str(testset), metrics=QUICK)
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings, silent)
    before = measured.copy()
    measured.clear()
    measured += [()] * 8  # from here on nothing is pulled
    evaluate(settings, silent)
    after = measured[8:]
    ids = open_testset(testset).ids.ids
    assert sorted(before + after) == sorted((i, m) for i in ids for m in QUICK)
    del measured[8:]
    whole = evaluate(settings, silent)
    assert len(measured) == 8
    (videos / f"{ids[2]}.mp4").write_bytes((truth / f"{ids[1]}.mp4").read_bytes())
    other = evaluate(settings, silent)
    assert {name for name, _ in measured[8:]} == {ids[2]}
    assert other.metrics["puppet_identity"].value < whole.metrics["puppet_identity"].value
    for file in (videos / "evaluation/features/puppet_frechet").glob("*"):
        file.unlink()
    del measured[8:]
    evaluate(settings, silent)
    assert [name for _, name in measured[8:]] == ["puppet_frechet"] * 4


def test_a_clip_without_a_whole_video_is_named_and_counted_out(truth, testset, tmp_path):
    videos = film(tmp_path / "v", testset)
    ids = open_testset(testset).ids.ids
    (videos / f"{ids[0]}.mp4").unlink()
    damaged = videos / f"{ids[1]}.mp4"
    damaged.write_bytes(damaged.read_bytes()[:900])
    made = evaluate(Settings(videos=str(videos), testset=str(testset), metrics=QUICK), silent)
    assert set(made.missing) == set(ids[:2])
    assert "needs the video" in made.missing[ids[0]] and "needs a whole" in made.missing[ids[1]]
    assert made.metrics["puppet_lips"].estimate.count == 2
    for file in videos.glob("*.mp4"):
        file.unlink()
    with pytest.raises(InputError, match="None of the test set's 4 clips has a video"):
        evaluate(Settings(videos=str(videos), testset=str(testset), metrics=QUICK), silent)


def test_clips_are_shared_by_the_devices_there_are(truth, testset, tmp_path, monkeypatch):
    settings = Settings(videos=str(truth), testset=str(testset), metrics=QUICK)
    alone = evaluate(dataclasses.replace(settings, out=str(tmp_path / "one")), silent)
    used, genuine = set(), run.clip

    def seen(case, *rest):
        (device,) = jnp.zeros(1).devices()
        used.add(device)
        return genuine(case, *rest)

    monkeypatch.setattr(run, "clip", seen)
    monkeypatch.setattr(run, "_devices", lambda: jax.local_devices()[2:4])
    shared = evaluate(dataclasses.replace(settings, out=str(tmp_path / "two")), silent)
    assert used == set(jax.local_devices()[2:4])
    assert shared.metrics == alone.metrics


def test_a_manifest_stands_in_for_a_test_set(truth, testset, tmp_path):
    names = sorted(path.name for path in truth.glob("*.mp4"))[:2]
    lines = [{"id": name, "video": str(truth / name), "truth": str(truth / name)} for name in names]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    made = evaluate(Settings(videos=str(manifest), out=str(tmp_path / "e"), metrics=QUICK), silent)
    assert made.testset.startswith("manifest, 2 clips")
    assert made.metrics["puppet_lips"].value is None
    assert "needs a test set made of puppets" in made.metrics["puppet_lips"].estimate.why
    manifest.write_text('{"id": "a"}')
    with pytest.raises(InputError, match="line 1: needs id and video"):
        evaluate(Settings(videos=str(manifest)), silent)


@pytest.mark.parametrize(
    "given, says",
    [
        (["--metrics", "beauty"], "There is no metric 'beauty', but fid, fvd_i3d"),
        (["--testset", "nowhere"], "There is no test set in nowhere"),
        (["--weights", "nowhere"], "there is no nowhere"),
    ],
)
def test_bad_input_is_one_line(truth, testset, tmp_path, capsys, given, says):
    command = ["evaluate", str(truth), "--testset", str(testset), "--out", str(tmp_path / "e")]
    assert main([*command, *given]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow
def test_damage_makes_every_metric_of_puppets_worse(testset, tmp_path):
    def still(share):
        """Every frame drawn towards the first one: less of everything that moves."""

        def change(frames, clip):
            return np.uint8(frames * (1 - share) + frames[:1] * share)

        return change

    def found(name, change, *metrics):
        videos = film(tmp_path / name, testset, change)
        made = evaluate(Settings(videos=str(videos), testset=str(testset), metrics=metrics), silent)
        return {n: each.value for n, each in made.metrics.items()}

    noise = [found(f"noise{much}", noisy(much), "puppet_frechet") for much in (0, 20, 60)]
    values = [each["puppet_frechet"] for each in noise]
    assert values == sorted(values) and 2 * values[0] < values[1]
    stiff = [
        found(f"stiff{share}", still(share), "puppet_motion", "puppet_lips")
        for share in (0, 0.5, 1)
    ]
    for name, sign in (("puppet_motion", -1), ("puppet_lips", -1)):
        values = [sign * each[name] for each in stiff]
        assert values == sorted(values), name
