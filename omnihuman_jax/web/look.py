"""How the page looks: its theme, its style sheet, and the pieces of HTML that change while one waits."""

import html
import os
from collections.abc import Sequence

import gradio as gr

from omnihuman_jax.web.studio import Job, Phase

TITLE = "OmniHuman in JAX"
# Fonts of the visitor's own machine: the page asks nobody on the internet for anything.
THEME = gr.themes.Default(
    primary_hue="teal",
    neutral_hue="slate",
    radius_size="lg",
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
).set(
    body_background_fill="*neutral_50",
    body_text_color_subdued="*neutral_500",
    block_label_text_color="*neutral_600",
    block_shadow="none",
    block_border_color="*neutral_200",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_text_color="white",
)
CSS = """
.gradio-container { max-width: 1120px !important; margin: 0 auto !important; }
footer { display: none !important; }
#head, #status, #notes, #link,
#head > *, #status > *, #notes > *, #link > * { padding: 0 !important; margin: 0; }
button { white-space: nowrap; }
.oh-head h1 { font-size: 1.6rem; font-weight: 650; margin: 0; letter-spacing: -.01em; }
.oh-head p { margin: .15rem 0 0; color: var(--body-text-color-subdued); }
.oh-card { border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg);
  background: var(--block-background-fill); padding: .9rem 1.1rem; }
.oh-card p { margin: 0; }
.oh-quiet p { color: var(--body-text-color-subdued); }
.oh-wrong { border-color: #dc2626; border-left-width: 4px; }
.oh-line { display: flex; justify-content: space-between; gap: 1rem; font-size: .92rem; }
.oh-line span { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.oh-bar { height: 6px; border-radius: 3px; background: var(--neutral-200); margin: .3rem 0 .7rem;
  overflow: hidden; }
.dark .oh-bar { background: var(--neutral-700); }
.oh-bar i { display: block; height: 100%; background: var(--primary-600); border-radius: 3px;
  transition: width .3s; }
.oh-bar:last-child { margin-bottom: .1rem; }
.oh-notes { margin: 0; padding-left: 1.1rem; font-size: .9rem; color: var(--body-text-color-subdued); }
.oh-notes li { color: inherit; margin: .15rem 0; }
.oh-notes a { margin: 0; padding: 0; color: var(--link-text-color); text-decoration: underline; }
#video video { max-height: 460px; }
"""
PHASES = {
    "encode": "Reading the inputs",
    "denoise": "Denoising",
    "decode": "Decoding the frames",
}


def head(model: str, known: str | None) -> str:
    """The top of the page: what it is, which model, and what that model cannot."""
    said = "A person in a picture speaks, sings and moves. " + (
        f"Model: {html.escape(os.path.basename(model.rstrip('/')) or model)}."
    )
    if known:
        said += " " + html.escape(_plain(known))
    return f'<div class="oh-head"><h1>{TITLE}</h1><p>{said}</p></div>'


def quiet(text: str) -> str:
    """A card that says something in passing."""
    return f'<div class="oh-card oh-quiet"><p>{html.escape(text)}</p></div>'


def wrong(text: str) -> str:
    """A card for what went wrong."""
    return f'<div class="oh-card oh-wrong" role="alert"><p>{html.escape(text)}</p></div>'


def line(before: int) -> str:
    """A card for a place in line."""
    videos = "video" if before == 1 else "videos"
    return quiet(f"Waiting: {before} {videos} before yours.")


def bars(job: Job) -> str:
    """A bar a phase, with the time left."""
    known = job.phases
    rows = "".join(_bar(said, known.get(name)) for name, said in PHASES.items())
    return f'<div class="oh-card">{rows}</div>'


def notes(said: Sequence[str]) -> str:
    """What to know before looking at the video."""
    rows = "".join(f"<li>{html.escape(_plain(one))}</li>" for one in said)
    return f'<ul class="oh-notes">{rows}</ul>'


def link(name: str, hours: float) -> str:
    """The link that fills the page in again."""
    where = f"?repeat={html.escape(name)}"
    return (
        f'<ul class="oh-notes"><li><a id="repeat" href="{where}">Link to repeat this</a> or to change '
        f"it: inputs, settings and video, kept {hours:g} hours while the server runs.</li></ul>"
    )


def _plain(note: str) -> str:
    said = note.removeprefix("Note: ")
    return said[:1].upper() + said[1:]


def _bar(said: str, phase: Phase | None) -> str:
    share, right = 0.0, ""
    if phase is not None and phase.total:
        share = phase.done / phase.total
        right = f"{phase.done} of {phase.total}"
        if phase.left is not None and phase.done < phase.total:
            right += f" · {_time(phase.left)} left"
    return (
        f'<div class="oh-line"><b>{said}</b><span>{right}</span></div>'
        f'<div class="oh-bar"><i style="width:{100 * share:.1f}%"></i></div>'
    )


def _time(seconds: float) -> str:
    whole = max(1, round(seconds))
    if whole < 100:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 6000 else f"{whole / 3600:.1f} h"
