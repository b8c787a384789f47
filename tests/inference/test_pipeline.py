"""From Python: the same videos from files, arrays and pictures as from the command line."""

import numpy as np
import pytest
from PIL import Image

import omnihuman_jax
from omnihuman_jax import load, media
from omnihuman_jax.errors import InputError
from omnihuman_jax.inference.pipeline import precision_of

SMALL = dict(size=(32, 32), frames=5, steps=1)


@pytest.fixture(scope="module")
def pipe():
    return load("mini-untrained")


@pytest.mark.slow
def test_files_arrays_and_pictures_make_the_same_video(pipe, tmp_path):
    portrait, speech = media.example("portrait.jpg"), media.example("speech.flac")
    seen = []
    by_file = pipe.generate(reference=portrait, audio=str(speech), **SMALL,
                            progress=lambda *report: seen.append(report))  # fmt: skip
    image, sound = media.read_image(portrait), media.read_audio(speech)
    by_array = pipe.generate(reference=image, audio=sound, **SMALL)
    by_picture = pipe.stream(reference=Image.fromarray(image), audio=sound, **SMALL)
    np.testing.assert_array_equal(by_file.frames, by_array.frames)
    np.testing.assert_array_equal(by_file.frames, np.concatenate(list(by_picture)))
    assert by_file.frames.shape == (5, 32, 32, 3) and {phase for phase, *_ in seen} == {
        "encode",
        "denoise",
        "decode",
    }
    assert any("UNTRAINED" in note for note in by_file.notes)
    by_file.save(tmp_path / "out.mp4")
    facts = media.probe_video(tmp_path / "out.mp4")
    assert facts.frames == 5 and facts.audio_seconds


@pytest.mark.slow
def test_several_videos_are_those_made_alone(pipe):
    wishes = [dict(text="a", seed=3, **SMALL), dict(text="b", seed=4, **{**SMALL, "steps": 2})]
    for video, wish in zip(pipe.generate_all(wishes), wishes, strict=True):
        np.testing.assert_array_equal(video.frames, pipe.generate(**wish).frames)


def test_alike_videos_are_grouped_as_the_devices_are(pipe):
    requests = [pipe.request(text="x", seed=k, **SMALL) for k in range(3)]
    requests.insert(1, pipe.request(text="x", **{**SMALL, "steps": 2}))
    assert pipe.groups(requests) == [[0], [2], [3], [1]]
    wide = load("mini-untrained", mesh=dict(data=2, context=4))
    assert wide.groups(requests) == [[0, 2], [3], [1]]


@pytest.mark.parametrize(
    "wish, said",
    [
        (dict(reference=np.zeros((4, 4))), "array of bytes"),
        (dict(audio=np.zeros((2, 100), np.float32)), "one row of finite samples"),
        (dict(audio=np.full(100, np.nan, np.float32)), "finite"),
        (dict(pose=np.zeros((3, 17, 2), np.float32)), "frames x joints x 3"),
        (dict(txt="hello"), "No setting txt; there are .*text"),
        (dict(text="x", anchor=2.0), "--anchor"),
        (dict(text="x", guidance_interval=(0.8, 0.2)), "guidance interval"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(pipe, wish, said):
    with pytest.raises(InputError, match=said):
        pipe.request(**{**SMALL, **wish})


def test_the_front_door():
    assert set(omnihuman_jax.__all__) <= set(dir(omnihuman_jax.inference.pipeline))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = omnihuman_jax.lod
    with pytest.raises(InputError, match="No precision 'int4'; there are auto, float32"):
        precision_of("int4")
    with pytest.raises(InputError, match="does not use 8 devices"):
        load("mini", mesh=dict(data=3))


def test_the_models_own_sampler_is_the_default(pipe):
    import dataclasses

    distilled = dataclasses.replace(
        pipe.model.manifest,
        sampling={**pipe.model.manifest.sampling, "sampler": "consistency", "steps": 2},
    )
    model = dataclasses.replace(pipe.model, manifest=distilled)
    request = dataclasses.replace(pipe, model=model).request(text="x", size=(32, 32), frames=5)
    assert (request.sampler, request.steps) == ("consistency", 2)
    assert pipe.request(text="x", **SMALL).sampler == "unipc"
