"""The form is a wish, and the command line it shows makes the same wish."""

import argparse
import dataclasses
import shlex

import pytest

from omnihuman_jax import cli_generate
from omnihuman_jax.errors import InputError
from omnihuman_jax.inference.request import Wish
from omnihuman_jax.web.form import Form, told

FULL = Form(
    reference="/srv/a/my face.png", audio="/srv/b/hello.wav", pose="/srv/c/p.npz", text=" she 'nods' ",
    negative_text="--blur", seconds=1.5, seed=7, steps=4, size="64 x 48", drive="audio+pose",
    sampler="heun", text_guidance=2.5, audio_guidance=4.0,
)  # fmt: skip


@pytest.mark.parametrize("form", [Form(), Form(text="a cat", seed=3), FULL])
def test_the_command_line_shown_makes_the_same_wish(form):
    parser = argparse.ArgumentParser()
    cli_generate.add_arguments(parser)
    words = shlex.split(form.command("models/my model"))
    assert words[:2] == ["omnihuman", "generate"]
    args = vars(parser.parse_args(words[2:]))
    assert args["model"] == "models/my model"
    typed = {field.name: args[field.name] for field in dataclasses.fields(Wish)}
    asked = form.wish()
    for name in ("reference", "audio", "pose"):
        path = getattr(asked, name)
        asked = dataclasses.replace(asked, **{name: path and path.rsplit("/", 1)[1]})
    assert Wish(**typed | {"without": ()}) == asked


@pytest.mark.parametrize(
    "change, says",
    [
        ({"size": "big"}, "height x width"),
        ({"size": "-64x64"}, "height x width"),
        ({"seconds": 0.0}, "above 0"),
        ({"seconds": float("nan")}, "above 0"),
        ({"drive": "wind"}, "drive is one of"),
        ({"sampler": "ddim"}, "sampler is one of"),
        ({"text": "a" * 2001}, "2000 letters"),
    ],
)
def test_a_field_that_cannot_be_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        dataclasses.replace(FULL, **change).wish()


def test_fields_are_text_and_an_empty_one_is_the_usual():
    typed = Form.typed({"steps": "12", "seconds": "1,5", "seed": "", "text": None, "size": "64x64"})
    assert typed == Form(steps=12, seconds=1.5, size="64x64")


@pytest.mark.parametrize(
    "field, says",
    [
        ({"steps": "many"}, "The steps is a whole number, got 'many'"),
        ({"seconds": "1 min"}, "The length is a number, got '1 min'"),
    ],
)
def test_a_text_that_is_no_number_is_refused(field, says):
    with pytest.raises(InputError, match=says):
        Form.typed(field)


def test_a_message_names_files_and_fields_as_the_visitor_knows_them():
    why = InputError("/srv/b/hello.wav cannot be read; --drive pose needs pose; give --audio.")
    said = told(why, FULL.files())
    assert said == "hello.wav cannot be read; drive pose needs pose; give voice."
