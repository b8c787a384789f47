"""500 damaged pictures, sounds and manifests on the command line: a video or one line, never a traceback."""

import contextlib
import functools
import io
import json
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings

from omnihuman_jax.cli import main
from omnihuman_jax.media import probe_video
from omnihuman_jax.models import mini
from tests.media.test_damaged_files import DAMAGE, damaged, whole  # noqa: F401

pytestmark = pytest.mark.slow

# By suffix of the damaged input: how many, and how it is handed in.
GIVEN = {"png": (100, "--reference"), "jpg": (100, "--reference"), "wav": (200, "--audio")}
MANIFESTS = 100
SMALL = ["--model", "mini-untrained", "--size", "16x16", "--frames", "1", "--steps", "1", "--quiet"]


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Networks of the untrained model are the same at every call, so they are made once."""
    patch = pytest.MonkeyPatch()
    model, load = mini.untrained(), mini.Untrained.load
    kept = functools.cache(lambda name, precision: load(model, name, precision))
    patch.setattr(
        mini.Untrained, "load", lambda self, name, precision, mesh=None, **_: kept(name, precision)
    )
    yield
    patch.undo()


def spared(examples):
    return settings(
        max_examples=examples,
        deadline=timedelta(seconds=60),  # no hang
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def made_or_refused(out, *arguments):
    """Whether there is a video; else there is one line, and no file."""
    said = io.StringIO()
    out.unlink(missing_ok=True)
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main(["generate", *SMALL, "--out", str(out), *arguments])
    if code == 0:
        assert probe_video(out).frames == 1
        return True
    lines = said.getvalue()
    assert code == 2 and lines.count("\n") == 1 and lines.startswith("omnihuman generate: "), lines
    assert not out.exists()
    return False


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", GIVEN)
def test_a_damaged_file_becomes_a_video_or_one_line(whole, tmp_path_factory, suffix):  # noqa: F811
    count, flag = GIVEN[suffix]
    folder, outcomes = tmp_path_factory.mktemp(suffix), []

    @spared(count)
    @given(damage=DAMAGE)
    def one(damage):
        (folder / f"a.{suffix}").write_bytes(damaged(whole[suffix], damage))
        outcomes.append(made_or_refused(folder / "out.mp4", flag, str(folder / f"a.{suffix}")))

    one()
    assert len(outcomes) == count and False in outcomes
    # A PNG has checksums; of the others some damage is not seen, and what is left is used.
    assert suffix == "png" or True in outcomes


def test_a_damaged_manifest_becomes_a_video_or_one_line(tmp_path):
    out, manifest, outcomes = tmp_path / "out.mp4", tmp_path / "many.jsonl", []
    line = {"seed": 3, "guidance_interval": [0, 1], "size": "16x16", "text": "hello " * 60}
    content = json.dumps(line).encode()[:-1]
    # Not damaged: where the video goes, which would be anywhere.
    end = f', "out": {json.dumps(str(out))}}}'.encode()

    @spared(MANIFESTS)
    @given(damage=DAMAGE)
    def one(damage):
        manifest.write_bytes(damaged(content, damage) + end)
        outcomes.append(made_or_refused(out, "--batch", str(manifest)))

    one()
    assert len(outcomes) == MANIFESTS and {True, False} == set(outcomes)


def test_whole_inputs_become_a_video(whole, tmp_path):  # noqa: F811
    for suffix, (_, flag) in GIVEN.items():
        (tmp_path / f"a.{suffix}").write_bytes(whole[suffix])
        assert made_or_refused(tmp_path / "out.mp4", flag, str(tmp_path / f"a.{suffix}"))
