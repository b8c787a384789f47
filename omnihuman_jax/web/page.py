"""The page: which field stands where, and what the buttons do. All work is the studio's."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from omnihuman_jax.errors import InputError
from omnihuman_jax.inference import results
from omnihuman_jax.web import look
from omnihuman_jax.web.form import DRIVES, SAMPLERS, Form
from omnihuman_jax.web.studio import Job, Studio

EVERY = 0.25  # seconds between two looks at a job
READY = "Your video appears here. With nothing handed in, the built-in picture speaks."


class Page(gr.Blocks):
    """Blocks that take no address for a file: Gradio would fetch it."""

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], *rest: Any, **more: Any
    ) -> Any:
        if _has_address(inputs):
            raise gr.Error("A file is uploaded, not fetched from an address.")
        return await super().preprocess_data(block_fn, inputs, *rest, **more)


def page(studio: Studio) -> gr.Blocks:
    """The whole page."""
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    with Page(title=look.TITLE, analytics_enabled=False) as blocks:
        gr.HTML(look.head(studio.name, results.limits(studio.model)), elem_id="head")
        with gr.Row(equal_height=False):
            with gr.Column(scale=6):
                fields, example = _inputs(studio)
            with gr.Column(scale=5):
                status = gr.HTML(look.quiet(READY), elem_id="status")
                video = gr.Video(
                    label="Video", interactive=False, visible=False, autoplay=True, elem_id="video",
                    buttons=["download"],
                )  # fmt: skip
                notes = gr.HTML(visible=False, elem_id="notes")
                link = gr.HTML(visible=False, elem_id="link")
                with gr.Accordion("Settings", open=False, visible=False) as details:
                    command = gr.Code(
                        label="The same on the command line", language="shell", interactive=False,
                        elem_id="command", wrap_lines=True,
                    )  # fmt: skip
                    settings = gr.Code(label="All settings", language="json", interactive=False)
        make, stop = fields.pop("make"), fields.pop("stop")
        name = gr.State("")
        filled = [fields[field.name] for field in dataclasses.fields(Form)]
        shown = [status, video, notes, link, details, command, settings, make, stop, name]

        async def generate(*values: Any) -> AsyncIterator[list[Any]]:
            async for view in _views(studio, _form(values)):
                yield view

        make.click(generate, filled, shown, concurrency_limit=None, **private)
        stop.click(studio.stop, name, None, queue=False, **private)
        example.click(
            lambda: [studio.shelf.example(one) for one in studio.example()],
            None, [fields["reference"], fields["audio"]], queue=False, **private,
        )  # fmt: skip

        def repeat(request: gr.Request) -> list[Any]:
            return _repeated(studio, str(request.query_params.get("repeat", "")))

        blocks.load(repeat, None, [*filled, status, video], queue=False, **private)
    return blocks


def _inputs(studio: Studio) -> tuple[dict[str, Any], gr.Button]:
    """The left side: a component for every field of Form, the buttons `make` and `stop`; and `example`."""
    limits, usual = studio.limits, studio.model.manifest.sampling
    fields: dict[str, Any] = {}
    with gr.Row(equal_height=True):
        fields["reference"] = gr.Image(
            label="Portrait", type="filepath", sources=["upload", "webcam", "clipboard"], height=250,
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
        example = gr.Button("Fill in an example", scale=1, min_width=160, elem_id="example")
    with gr.Accordion("More settings", open=False, elem_id="more"):
        with gr.Row():
            fields["seconds"] = _number(
                "Length, s", f"up to {limits.seconds:g}; empty: that of the voice", precision=None
            )
            fields["size"] = gr.Textbox(
                label="Size", info="height x width; empty: by the picture", max_lines=1,
                min_width=140, placeholder="e.g. 64x64" if limits.pixels < 2**16 else "e.g. 480x832",
            )  # fmt: skip
        with gr.Row():
            fields["steps"] = _number("Steps", f"empty: {usual['steps']}", elem_id="steps")
            fields["seed"] = _number("Seed", "of the noise", value=0, elem_id="seed")
        with gr.Row():
            fields["text_guidance"] = _number("Strength of the text", "empty: the model's", None)
            fields["audio_guidance"] = _number("Strength of the voice", "empty: the model's", None)
        with gr.Row():
            fields["drive"] = gr.Dropdown(
                list(DRIVES), value="auto", label="Driven by", min_width=140
            )
            fields["sampler"] = gr.Dropdown(
                list(SAMPLERS), value="unipc", label="Sampler", min_width=140
            )
        fields["negative_text"] = gr.Textbox(label="What to avoid", max_lines=2)
        fields["pose"] = gr.File(
            label="Pose: keypoints, .json or .npz", file_types=[".json", ".npz"], height=110,
            type="filepath", elem_id="pose",
        )  # fmt: skip
    return fields, example


def _number(label: str, info: str, precision: int | None = 0, **more: Any) -> gr.Number:
    more = {"value": None, **more}
    return gr.Number(label=label, info=info, precision=precision, min_width=140, **more)


def _form(values: tuple[Any, ...]) -> Form:
    names = [field.name for field in dataclasses.fields(Form)]
    given = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    return Form(**given)


async def _views(studio: Studio, form: Form) -> AsyncIterator[list[Any]]:
    """What the right side shows, from the click to the video: values of `shown` in `page`."""
    hidden = gr.update(visible=False)
    idle = [gr.update(visible=True, interactive=True), hidden, ""]
    yield [
        look.quiet("Checking the inputs …"), gr.update(value=None, visible=False), hidden, hidden,
        hidden, gr.skip(), gr.skip(), gr.update(interactive=False), hidden, "",
    ]  # fmt: skip
    submitted = asyncio.ensure_future(asyncio.to_thread(studio.submit, form))
    await asyncio.wait([submitted])
    if (why := submitted.exception()) is not None:
        yield [look.wrong(studio.told(why)), *[gr.skip()] * 6, *idle]
        return
    job = submitted.result()
    known = results.limits(studio.model)  # stands at the top of the page
    said = look.notes([note for note in job.notes if note != known])
    try:
        yield [
            look.line(studio.look(job)), gr.skip(), gr.update(value=said, visible=True),
            gr.skip(), gr.skip(), gr.skip(), gr.skip(), hidden, gr.update(visible=True), job.name,
        ]  # fmt: skip
        async for status, part in _progress(studio, job):
            yield [status, part, *[gr.skip()] * 8]
    finally:
        if not job.done:  # the page was closed
            studio.stop(job.name)
    if (failed := studio.failure(job)) is not None:
        card = look.quiet(failed) if job.stopped else look.wrong(failed)
        yield [card, hidden, *[gr.skip()] * 5, *idle]
        return
    yield [
        look.bars(job), gr.update(value=str(job.future.result()), visible=True, label="Video"),
        gr.skip(), gr.update(value=look.link(job.name, studio.limits.hours), visible=True),
        gr.update(visible=True), job.command, json.dumps(job.settings, indent=2, ensure_ascii=False),
        *idle,
    ]  # fmt: skip


async def _progress(studio: Studio, job: Job) -> AsyncIterator[tuple[Any, Any]]:
    """The status card whenever it changes, and the newest part whenever there is one."""
    status, part = "", None
    while not job.done:
        before = studio.look(job)
        card = look.line(before) if before else look.bars(job)
        if card != status or job.part != part:
            shown = gr.skip()
            if job.part not in (None, part):
                path, start, end = job.part
                label = f"The newest part, {start:.1f} to {end:.1f} s"
                shown = gr.update(value=str(path), visible=True, label=label)
            status, part = card, job.part
            yield card, shown
        await asyncio.sleep(EVERY)


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
    values = [getattr(form, field.name) for field in fields]
    said = look.quiet("Filled in again. Make the video as it was, or change something first.")
    video = gr.update(value=str(made), visible=True) if made.is_file() else gr.skip()
    return [*values, said, video]


def _has_address(value: Any) -> bool:
    """Whether a file that is an address of the web stands anywhere in it."""
    if isinstance(value, dict):
        path = value.get("path")
        if isinstance(path, str) and "://" in path:
            return True
        return any(map(_has_address, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_address, value))
