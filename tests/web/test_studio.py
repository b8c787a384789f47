"""One video at a time, the others in line; what is refused before; what ends a job."""

import threading
import time

import numpy as np
import pytest
from PIL import Image

from omnihuman_jax import media
from omnihuman_jax.errors import InputError
from omnihuman_jax.inference.generator import Generator
from omnihuman_jax.models.mini import mini
from omnihuman_jax.web import studio as studio_module
from omnihuman_jax.web.form import Form
from omnihuman_jax.web.limits import Limits
from omnihuman_jax.web.shelf import Shelf
from omnihuman_jax.web.studio import Phase, Studio


class Painter(Generator):
    """Paints grey frames in no time, a step whenever it is let."""

    def __call__(self, request, progress=None, saved=None):
        go, fails = self.kept["go"], self.kept.get("fails")
        self.kept["made"].append(request.seed)
        frames, clip = request.frames or request.grid.frames, request.grid.frames
        for step in range(3):
            assert go.wait(10)
            progress("denoise", step, 2)
        if fails:
            raise fails
        shape = (request.grid.height, request.grid.width, 3)
        ends = [clip, frames] if frames > clip else [frames]
        made = 0
        for end in ends:
            while made < end:
                yield np.full((min(4, end - made), *shape), 128, np.uint8)
                made += min(4, end - made)
            progress("decode", made, frames)


@pytest.fixture
def studio(tmp_path):
    """A studio whose painter waits until `studio.go` is set; `studio.made` are the seeds it began."""
    kept = {"go": threading.Event(), "made": []}
    limits = Limits(seconds=3, pixels=64 * 64, picture_pixels=250_000, upload=1, queue=2)
    made = Studio("mini", Painter(mini(), kept=kept), limits, Shelf(tmp_path / "served"))
    made.go, made.made, made.kept = kept["go"], kept["made"], kept
    yield made
    kept["go"].set()
    assert made.close()


def small(**more):
    return Form(**{"text": "a", "size": "32x32", "seconds": 0.2, **more})


def until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_videos_are_made_in_the_order_of_the_clicks_one_at_a_time(studio):
    jobs = [studio.submit(small(seed=seed)) for seed in range(3)]
    assert [studio.look(job) for job in jobs] == [0, 1, 2]
    until(lambda: studio.made)
    assert studio.made == [0]
    studio.go.set()
    videos = [job.future.result(10) for job in jobs]
    assert studio.made == [0, 1, 2] and [media.probe_video(v).frames for v in videos] == [5] * 3
    assert [studio.failure(job) for job in jobs] == [None] * 3
    assert "--seed 2" in jobs[2].command and jobs[2].settings["height"] == 32


def test_a_full_line_is_said_at_once_and_empties(studio):
    first, *_ = [studio.submit(small()) for _ in range(3)]
    with pytest.raises(InputError, match="2 videos wait"):
        studio.submit(small())
    studio.go.set()
    first.future.result(10)
    until(lambda: studio.look(first) == 0)
    studio.submit(small())


def test_stop_ends_a_job_at_its_next_step_and_takes_another_out_of_the_line(studio):
    running, waiting, last = [studio.submit(small(seed=seed)) for seed in range(3)]
    until(lambda: studio.made)
    studio.stop(waiting.name)
    assert waiting.done and waiting.stopped and studio.look(last) == 1
    studio.stop(running.name)
    assert not running.done
    studio.go.set()
    last.future.result(10)
    assert running.stopped and studio.failure(running) == "Stopped."
    assert studio.made == [0, 2] and not studio.shelf.video(running.name).exists()


def test_a_job_that_nobody_looks_at_any_more_ends(studio, monkeypatch):
    job = studio.submit(small())
    monkeypatch.setattr(studio_module, "LEFT", -1.0)
    studio.go.set()
    until(lambda: job.done)
    assert job.stopped


def test_a_failure_is_told_and_the_next_video_is_made(studio, caplog):
    studio.go.set()
    studio.kept["fails"] = FloatingPointError("secret detail")
    job = studio.submit(small())
    until(lambda: job.done)
    said = studio.failure(job)
    assert "FloatingPointError" in said and "secret" not in said and "secret" in caplog.text
    del studio.kept["fails"]
    assert studio.submit(small()).future.result(10).is_file()


def test_parts_of_a_long_video_can_be_seen_before_the_end_with_their_sound(studio, tmp_path):
    shown = []
    studio._ended = lambda *_: None  # which deletes the parts
    job = studio.submit(Form(audio=str(media.example("speech.flac")), seconds=3, size="32x32"))
    studio.go.set()
    job.future.result(20)
    shown = sorted(job.part[0].parent.glob("part-*.mp4"), key=lambda p: int(p.stem[5:]))
    assert [media.probe_video(part).frames for part in shown] == [49]  # 75 frames: 49 and 26
    assert media.probe_video(shown[0]).audio_seconds == pytest.approx(49 / 25, abs=0.05)
    assert job.part[1:] == (0.0, 49 / 25)


def test_nothing_given_is_the_example_and_says_so(studio):
    job = studio.submit(Form(seconds=0.2, steps=1))
    assert "Nothing was given" in job.notes[0] and job.settings["reference"] == "puppet.png"
    assert "--reference" not in job.command
    assert studio.shelf.get(job.name).audio.endswith("speech.flac")


@pytest.mark.parametrize(
    "change, says",
    [
        ({"audio": "text.wav"}, "^text.wav cannot be read"),
        ({"reference": "broken.png"}, "^broken.png cannot be read"),
        ({"reference": "wide.png"}, "wide.png has 1000x300 pixels"),
        ({"reference": "heavy.png"}, "heavy.png has 1.0 MiB; this page takes files of up to 1"),
        ({"reference": "gone.png"}, "gone.png is no longer on the server"),
        ({"audio": "long.flac"}, "long.flac lasts more than 30 s"),
        ({"pose": "text.wav"}, "^A pose is read from .json or .npz, got text.wav"),
        ({"seconds": 4}, "would last 4.0 s; this page makes up to 3 s"),
        ({"size": "128x128"}, "128x128 has 16384 pixels"),
        ({"size": "60x60"}, "multiple of 16"),
        ({"steps": 101}, "up to 100 steps"),
        ({"steps": 0}, "at least 1 step"),
        ({"seed": -1}, "^seed lies between"),
        ({"drive": "pose"}, "drive pose needs pose"),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_is_made(studio, tmp_path, change, says):
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "heavy.png").write_bytes(bytes(2**20 + 1))
    Image.new("RGB", (1000, 300)).save(tmp_path / "wide.png")
    silent = media.video.av.open(str(tmp_path / "long.flac"), "w")
    track = silent.add_stream("flac", rate=8000, layout="mono")
    frame = media.video.av.AudioFrame.from_ndarray(
        np.zeros((1, 31 * 8000), np.int16), "s16", "mono"
    )
    frame.sample_rate = 8000
    silent.mux(track.encode(frame)), silent.mux(track.encode(None)), silent.close()
    given = {
        name: str(tmp_path / value) if name in ("reference", "audio", "pose") else value
        for name, value in change.items()
    }
    with pytest.raises(InputError, match=says) as why:
        studio.submit(small(**given))
    assert str(tmp_path) not in str(why.value) and "--" not in str(why.value)
    assert not studio.made and not list(studio.shelf.root.glob("requests/*"))


def test_time_left_counts_from_the_second_report_because_the_first_compiles():
    phase = Phase(0, 10).now(0, 10, 0.0).now(1, 10, 30.0)
    assert phase.left is None
    assert phase.now(3, 10, 4.0).left == pytest.approx(14.0)  # 2 s a step, 7 to go
