"""The page: which field stands where, and what the buttons do. All work is the studio's."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from omnihuman_jax.errors import InputError
from omnihuman_jax.inference import results
from omnihuman_jax.inference.request import scales
from omnihuman_jax.web import look
from omnihuman_jax.web.form import DRIVES, SAMPLERS, Form
from omnihuman_jax.web.guard import inside
from omnihuman_jax.web.studio import Job, Studio

EVERY = 0.25  # seconds between two looks at a job
READY = "Your video appears here. With nothing handed in, the built-in picture speaks."


type Changes = dict[Any, Any]  # of components, to what they show now


@dataclass(frozen=True)
class Right:
    """What changes while a video is made.

    Attributes:
        name: of the job that this visitor waits for, which Stop ends.
    """

    status: gr.HTML
    video: gr.Video
    notes: gr.HTML
    link: gr.HTML
    details: gr.Accordion
    command: gr.Code
    settings: gr.Code
    make: gr.Button
    stop: gr.Button
    name: gr.State


class Page(gr.Blocks):
    """Blocks that take only files of their folder. Others, and addresses of the web, Gradio would fetch."""

    folder: Path

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], *rest: Any, **more: Any
    ) -> Any:
        if not all(inside(path, self.folder) for path in _paths(inputs)):
            raise gr.Error("A file is uploaded, not named.", print_exception=False)
        return await super().preprocess_data(block_fn, inputs, *rest, **more)


def page(studio: Studio) -> gr.Blocks:
    """The whole page."""
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    with Page(title=look.TITLE, analytics_enabled=False) as blocks:
        blocks.folder = studio.shelf.root
        gr.HTML(look.head(studio.name, results.limits(studio.model)), elem_id="head")
        with gr.Row(equal_height=False):
            with gr.Column(scale=6):
                fields, example = _inputs(studio)
            with gr.Column(scale=5):
                right = _outputs(fields.pop("make"), fields.pop("stop"))
        names = [field.name for field in dataclasses.fields(Form)]
        filled = [fields[name] for name in names]

        async def generate(*values: Any) -> AsyncIterator[Changes]:
            async for changes in _views(studio, dict(zip(names, values, strict=True)), right):
                yield changes

        shown = list(vars(right).values())
        right.make.click(generate, filled, shown, concurrency_limit=None, **private)
        right.stop.click(studio.stop, right.name, None, queue=False, **private)
        example.click(
            lambda: [studio.shelf.example(one) for one in studio.example()],
            None, [fields["reference"], fields["audio"]], queue=False, **private,
        )  # fmt: skip

        def repeat(request: gr.Request) -> list[Any]:
            return _repeated(studio, str(request.query_params.get("repeat", "")))

        blocks.load(repeat, None, [*filled, right.status, right.video], queue=False, **private)
    return blocks


def _inputs(studio: Studio) -> tuple[dict[str, Any], gr.Button]:
    """The left side: a component for every field of Form, the buttons `make` and `stop`; and `example`."""
    limits, usual = studio.limits, studio.model.manifest.sampling
    fields: dict[str, Any] = {}
    with gr.Row(equal_height=True):
        fields["reference"] = gr.Image(
            label="Portrait", type="filepath", sources=["upload", "webcam", "clipboard"], height=282,
            elem_id="portrait", buttons=[], scale=3, min_width=180,
        )  # fmt: skip
        # The file as it is: we read it, and say what is wrong with it. (Of a subclass with a method of
        # its own Gradio would write a .pyi into this folder.)
        fields["reference"].preprocess = lambda file: None if file is None else file.path
        fields["audio"] = gr.Audio(
            label="Voice", type="filepath", sources=["upload", "microphone"], editable=False,
            elem_id="voice", buttons=[], scale=4, min_width=240,
        )  # fmt: skip
    fields["text"] = gr.Textbox(
        label="Text", placeholder="What is seen and done", lines=2, elem_id="text"
    )
    with gr.Row():
        fields["make"] = gr.Button(
            "Make the video", variant="primary", scale=2, min_width=160, elem_id="make"
        )
        fields["stop"] = gr.Button("Stop", visible=False, scale=2, min_width=160, elem_id="stop")
        example = gr.Button("Use an example", scale=1, min_width=190, elem_id="example")
    with gr.Accordion("More settings", open=False, elem_id="more"):
        with gr.Row():
            fields["seconds"] = _line(
                f"Length in seconds, up to {limits.seconds:g}", "as the voice"
            )
            fields["size"] = _line("Size, height x width", "by the picture")
        with gr.Row():
            fields["steps"] = _line("Steps", str(usual["steps"]))
            fields["seed"] = _line("Seed", "0")
        text, audio = scales(usual)
        with gr.Row():
            fields["text_guidance"] = _line("Strength of the text", f"{text:g}")
            fields["audio_guidance"] = _line("Strength of the voice", f"{audio:g}")
        with gr.Row():
            fields["drive"] = gr.Dropdown(
                list(DRIVES), value="auto", label="Driven by", min_width=140
            )
            fields["sampler"] = gr.Dropdown(
                list(SAMPLERS), value=SAMPLERS[0], label="Sampler", min_width=140
            )
        fields["negative_text"] = gr.Textbox(label="What to avoid", max_lines=2)
        fields["pose"] = gr.File(
            label="Pose: keypoints, .json or .npz", file_types=[".json", ".npz"], height=150,
            type="filepath", elem_id="pose",
        )  # fmt: skip
    return fields, example


def _outputs(make: gr.Button, stop: gr.Button) -> Right:
    """The right side."""
    status = gr.HTML(look.quiet(READY), elem_id="status")
    video = gr.Video(
        label="Video", interactive=False, visible=False, autoplay=True, buttons=["download"],
        elem_id="video",
    )  # fmt: skip
    notes = gr.HTML(visible=False, elem_id="notes")
    link = gr.HTML(visible=False, elem_id="link")
    with gr.Accordion("Settings", open=False, visible=False) as details:
        command = gr.Code(
            label="The same on the command line", language="shell", interactive=False,
            wrap_lines=True, lines=1, elem_id="command",
        )  # fmt: skip
        settings = gr.Code(label="All settings", language="json", interactive=False)
    name = gr.State("")
    return Right(status, video, notes, link, details, command, settings, make, stop, name)


def _line(label: str, usual: str) -> gr.Textbox:
    """A short field; what it means when it is empty stands in it in grey."""
    return gr.Textbox(label=label, placeholder=usual, max_lines=1, min_width=140)


async def _views(studio: Studio, fields: dict[str, Any], right: Right) -> AsyncIterator[Changes]:
    """What changes on the page, from the click to the video."""
    yield {
        right.status: look.quiet("Checking the inputs …"),
        right.video: gr.update(value=None, visible=False),
        right.notes: _hidden(), right.link: _hidden(), right.details: _hidden(),
        right.make: gr.update(interactive=False),
    }  # fmt: skip
    idle = {right.make: gr.update(visible=True, interactive=True), right.stop: _hidden()}
    submitted = asyncio.ensure_future(asyncio.to_thread(lambda: studio.submit(Form.typed(fields))))
    await asyncio.wait([submitted])
    if (why := submitted.exception()) is not None:
        yield {right.status: look.wrong(studio.told(why)), **idle}
        return
    job = submitted.result()
    known = results.limits(studio.model)  # stands at the top of the page
    said = look.notes([note for note in job.notes if note != known])
    try:
        yield {
            right.status: look.line(studio.look(job)),
            right.notes: gr.update(value=said, visible=True),
            right.make: _hidden(), right.stop: gr.update(visible=True), right.name: job.name,
        }  # fmt: skip
        async for changes in _progress(studio, job, right):
            yield changes
    finally:
        if not job.done:  # the page was closed
            studio.stop(job.name)
    if (failed := studio.failure(job)) is not None:
        card = look.quiet(failed) if job.stopped else look.wrong(failed)
        yield {right.status: card, right.video: _hidden(), right.notes: _hidden(), **idle}
        return
    yield {
        right.status: look.quiet(job.said()),
        right.video: gr.update(value=str(job.future.result()), visible=True, label="Video"),
        right.link: gr.update(value=look.link(job.name, studio.limits.hours), visible=True),
        right.details: gr.update(visible=True),
        right.command: job.command,
        right.settings: json.dumps(job.settings, indent=2, ensure_ascii=False),
        **idle,
    }


async def _progress(studio: Studio, job: Job, right: Right) -> AsyncIterator[Changes]:
    """The status card whenever it changes, and the newest part whenever there is one."""
    status, part = "", None
    while not job.done:
        before = studio.look(job)
        card = look.line(before) if before else look.bars(job)
        changes: Changes = {} if card == status else {right.status: card}
        if job.part is not None and job.part != part:
            path, start, end = job.part
            label = f"The newest part, {start:.1f} to {end:.1f} s"
            changes[right.video] = gr.update(value=str(path), visible=True, label=label)
        status, part = card, job.part
        if changes:
            yield changes
        await asyncio.sleep(EVERY)


def _hidden() -> dict[str, Any]:
    """A new one each time: Gradio takes such a dictionary apart."""
    return gr.update(visible=False)


def _repeated(studio: Studio, name: str) -> list[Any]:
    """What a page that is opened by a link is filled with: the form, a word on it, the video."""
    fields = dataclasses.fields(Form)
    if not name:
        return [gr.skip()] * (len(fields) + 2)
    try:
        form = studio.shelf.get(name)
    except InputError as why:
        return [*[gr.skip()] * len(fields), look.wrong(str(why)), gr.skip()]
    made = studio.shelf.video(name)
    values = [_written(getattr(form, field.name)) for field in fields]
    said = look.quiet("Filled in again. Make the video as it was, or change something first.")
    video = gr.update(value=str(made), visible=True) if made.is_file() else gr.skip()
    return [*values, said, video]


def _written(value: Any) -> Any:
    """A value as it stands in its field."""
    return (
        f"{value:g}"
        if isinstance(value, float)
        else str(value)
        if isinstance(value, int)
        else value
    )


def _paths(value: Any) -> Iterator[str]:
    """The paths of files anywhere in what a browser sent."""
    if isinstance(value, dict):
        if "path" in value:
            yield str(value["path"])
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _paths(one)
