"""A grid of overrides: which points it has, which configs they train, and what is refused."""

import dataclasses

import pytest

from omnihuman_jax.ablation import jobs
from omnihuman_jax.ablation.study import BASE, Factor, Level, load
from omnihuman_jax.cli import main
from omnihuman_jax.errors import InputError
from tests.ablation.worlds import study

STUDY = "configs/ablate_ratios.py"


def test_factors_are_varied_one_at_a_time_around_the_base():
    made = study()
    assert [p.label for p in made.points()] == [BASE, "audio-10", "audio-100", "seed-1"]
    assert [p.label for p in made.along(made.factors[0])] == ["audio-10", BASE, "audio-100"]
    ratios = {p.label: made.experiment(p).stages[2].ratios.audio for p in made.points()}
    assert ratios == {BASE: 0.5, "audio-10": 0.1, "audio-100": 1.0, "seed-1": 0.5}
    assert made.experiment(made.points()[3]).seed == 1
    assert {made.steps(p) for p in made.points()} == {20}


def test_crossed_factors_give_all_combinations():
    made = dataclasses.replace(study(), cross=True)
    labels = [p.label for p in made.points()]
    assert labels[0] == BASE and len(labels) == len(set(labels)) == 6
    assert "audio-10+seed-1" in labels
    chosen = {p.label: p for p in made.points()}["audio-10+seed-1"]
    assert made.experiment(chosen).seed == 1 and dict(chosen.levels)["audio"] == "10 %"
    assert [p.label for p in made.along(made.factors[0])] == ["audio-10", BASE, "audio-100"]


def test_what_cannot_be_a_study_says_why():
    levels = (Level(shown="1"), Level(shown="2", changes=("seed=2",)))
    for wrong, says in [
        (dict(name="a b", levels=levels), "letters"),
        (dict(name="a", levels=levels[:1]), "2 levels"),
        (dict(name="a", levels=(levels[0], levels[0])), "different names"),
    ]:
        with pytest.raises(InputError, match=says):
            Factor(**wrong)
    with pytest.raises(InputError, match="Exactly one level"):
        study(
            factors=(Factor(name="a", levels=(levels[1], Level(shown="3", changes=("seed=3",)))),)
        )
    with pytest.raises(InputError, match="there are"):
        load("configs/ablate_nothing.py")
    with pytest.raises(InputError, match="builds no Study"):
        load("configs/tiny.py")
    odd = study(factors=(Factor(name="a", levels=(levels[0], Level(shown="2", changes=("x=1",)))),))
    with pytest.raises(InputError, match="no setting x"):
        odd.experiment(odd.points()[1])


def test_the_study_of_ratios_asks_for_the_paper_s_levels():
    made = load(STUDY)
    found = {p.label: made.experiment(p).stages for p in made.points()}
    of = lambda label, name: {getattr(stage.ratios, name) for stage in found[label]}
    audio = {"audio_ratio-10": {0.1}, BASE: {0.5}, "audio_ratio-100": {1.0}}
    assert {label: of(label, "audio") for label in audio} == audio
    for label, share in {"pose_ratio-20": 0.2, BASE: 0.5, "pose_ratio-80": 0.8}.items():
        assert {r.pose / r.audio for r in (s.ratios for s in found[label])} == {share}
    assert of("reference_ratio-30", "reference") == {0.3} and of(BASE, "reference") == {0.7}
    assert len({made.steps(p) for p in made.points()}) == 1, "all are trained as long"


def test_a_dry_run_prints_every_command_and_writes_nothing(tmp_path, capsys):
    folder = tmp_path / "study"
    assert main(["ablate", STUDY, "--workdir", str(folder), "--dry-run", "--json"]) == 0
    printed = capsys.readouterr().out
    made = load(STUDY)
    steps = made.steps(made.points()[0])
    for point in made.points():
        assert f"# train {point.label} ({steps} updates)\nomnihuman train" in printed
        for videos in made.videos:
            for seed in videos.seeds:
                for verb in ("generate", "evaluate"):
                    assert f"# {verb} {point.label} {videos.name} seed {seed} " in printed
    assert f"{len(made.points()) * steps} updates in {len(made.points())} trainings" in printed
    assert not folder.exists()


def test_a_job_comes_behind_what_it_needs(tmp_path):
    found = jobs.of(load(STUDY), tmp_path)
    names = [job.name for job in found]
    assert len(set(names)) == len(names)
    for place, job in enumerate(found):
        assert set(job.after) <= set(names[:place])
        assert job.after or job.name == "first 1"


def test_a_study_that_is_not_there_is_one_line_and_exit_code_2(capsys):
    assert main(["ablate", "configs/ablate_nothing.py", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "ablate_ratios.py" in said and len(said.splitlines()) == 1
