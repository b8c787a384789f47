"""The only place that takes a study from its first command to its report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnihuman_jax import storage
from omnihuman_jax.ablation import jobs as commands
from omnihuman_jax.ablation import rating, rating_page, report, results, running, sheet
from omnihuman_jax.ablation.running import Say
from omnihuman_jax.ablation.sheet import TRUTH
from omnihuman_jax.ablation.study import Study
from omnihuman_jax.errors import InputError, StoppedError
from omnihuman_jax.settings import described
from omnihuman_jax.testsets.reading import open_testset

REPORT, TABLES, FIGURES = "report.html", "report.md", "figures.svg"
RESULTS = "results.json"
RATING, KEY = "rating.html", "rating_key.json"
RATINGS = "ratings.json"


def run(
    study: Study, workdir: Path, side_by_side: int, devices: Sequence[str], say: Say
) -> dict[str, Any]:
    """Do what is not done yet, and write the report.

    Raises:
        InputError: as `study.experiment` and `running.run`.
        StoppedError: a command failed; what does not need it was done, and is in the report.
        KeyboardInterrupt: somebody stopped it.
    """
    experiments = {f"train {p.label}": described(study.experiment(p)) for p in study.points()}
    jobs = commands.of(study, workdir)
    ended = running.run(
        jobs, workdir, side_by_side=side_by_side, devices=devices, about=experiments, say=say
    )
    if ended.stopped:
        raise KeyboardInterrupt
    if ended.failed:
        name, why = next(iter(ended.failed.items()))
        if any(job.done for job in jobs if job.kind == "evaluate"):
            reported(study, workdir)
        raise StoppedError(
            f"{name} failed: {why}. {len(ended.failed)} failed, {len(ended.waiting)} wait for them; "
            f"see {workdir / running.LOGS}. Run the same command to try again."
        )
    return reported(study, workdir)


def reported(study: Study, workdir: Path) -> dict[str, Any]:
    """Write the report, its tables and contact sheets, and the page for judges, of what there is.

    Raises:
        InputError: nothing was evaluated yet.
    """
    found = results.gather(study, workdir)
    if not found.points:
        raise InputError(f"Nothing in {workdir} was evaluated yet; run without --report first.")
    results.write(workdir / RESULTS, found)
    before = rating.read_key(workdir / KEY)["salt"] if (workdir / KEY).is_file() else None
    key = rating.new_key(study, workdir, before)
    if key["pairs"]:
        rating.write_key(workdir / KEY, key)
        (workdir / RATING).write_text(rating_page.page(study, workdir, key), "utf-8")
    _truths(study, workdir)
    ratings = rating.read_table(workdir / RATINGS)
    (workdir / REPORT).write_text(report.page(study, workdir, found, ratings), "utf-8")
    (workdir / FIGURES).write_text(report.figures(study, found), "utf-8")
    (workdir / TABLES).write_text(report.markdown(study, found), "utf-8")
    for videos in study.videos:
        if (picture := sheet.sheet(study, workdir, found, videos)) is not None:
            (workdir / f"sheet-{videos.name}.jpg").write_bytes(picture)
    return {
        "report": str(workdir / REPORT),
        "points": len(found.points),
        "missing": list(found.missing),
        "rating": str(workdir / RATING) if key["pairs"] else None,
        "said": f"missing: {', '.join(found.missing)}" if found.missing else "none is missing",
    }


def _truths(study: Study, workdir: Path) -> None:
    """What really happened, of the clips that the report shows."""
    for videos in study.videos:
        testset = open_testset(videos.testset)
        for number in range(min(len(testset), max(videos.rated, report.SHOWN))):
            file = workdir / TRUTH / videos.name / f"{testset.ids.ids[number]}.mp4"
            if not file.is_file():
                storage.write_bytes(str(file), testset[number].mp4)


def rated(study: Study, workdir: Path, files: Sequence[str]) -> dict[str, Any]:
    """Turn the answers of judges into a table, and write it into the report.

    Raises:
        InputError: there is no page that they could be answers to, or they are not answers to it.
    """
    key = rating.read_key(workdir / KEY)
    table = rating.tally(study, key, [rating.read_answers(Path(file)) for file in files])
    rating.write_table(workdir / RATINGS, table)
    print(rating.markdown(table))
    return reported(study, workdir) | {"ratings": table}
