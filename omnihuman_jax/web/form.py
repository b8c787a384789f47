"""What a visitor filled in: as a Wish, as the command line that makes the same, as settings to read."""

import dataclasses
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from omnihuman_jax.diffusion import samplers
from omnihuman_jax.errors import InputError
from omnihuman_jax.inference.activation import Drive
from omnihuman_jax.inference.generator import Request
from omnihuman_jax.inference.request import Wish, scales
from omnihuman_jax.models.directory import ModelDirectory
from omnihuman_jax.web.limits import MOST_TEXT

FILES = ("reference", "audio", "pose")
DRIVES: tuple[str, ...] = get_args(Drive)
USUAL = "the model's"
SAMPLERS = (USUAL, *samplers.SAMPLERS)
NUMBERS: dict[str, type[int] | type[float]] = {
    "seconds": float,
    "seed": int,
    "steps": int,
    "text_guidance": float,
    "audio_guidance": float,
}
# What fields are called on the page, for messages that speak of flags.
WORDS = {
    "reference": "portrait",
    "audio": "voice",
    "seconds": "length",
    "negative-text": "what to avoid",
    "text-guidance": "strength of the text",
    "audio-guidance": "strength of the voice",
}


@dataclass(frozen=True, kw_only=True)
class Form:
    """The fields of the page, named as those of `Wish`; None and "" take the model's default.

    Attributes:
        reference, audio, pose: paths of files on the server.
        size: "HEIGHTxWIDTH".
    """

    reference: str | None = None
    audio: str | None = None
    pose: str | None = None
    text: str = ""
    negative_text: str = ""
    seconds: float | None = None
    seed: int = 0
    steps: int | None = None
    size: str = ""
    drive: str = "auto"
    sampler: str = USUAL
    text_guidance: float | None = None
    audio_guidance: float | None = None

    @classmethod
    def typed(cls, fields: Mapping[str, Any]) -> "Form":
        """The form of what stands in the fields of the page: numbers are text there, or nothing is.

        Raises:
            InputError: a text that is no number.
        """
        given = {name: value for name, value in fields.items() if value not in (None, "")}
        for name, kind in NUMBERS.items():
            if isinstance(said := given.get(name), str):
                try:
                    given[name] = kind(said.replace(",", "."))
                except ValueError:
                    what = WORDS.get(name.replace("_", "-"), name)
                    whole = "whole number" if kind is int else "number"
                    raise InputError(f"The {what} is a {whole}, got {said[:40]!r}.") from None
        return cls(**given)

    @property
    def empty(self) -> bool:
        """Whether nothing is given that a video could be made of."""
        return not (self.reference or self.audio or self.pose or self.text.strip())

    def files(self) -> dict[str, str]:
        """The fields that are files, with their paths."""
        return {name: path for name in FILES if (path := getattr(self, name))}

    def wish(self) -> Wish:
        """The same as `inference.request` takes it.

        Raises:
            InputError: a field that has no such value.
        """
        for name, value, known in (
            ("drive", self.drive, DRIVES),
            ("sampler", self.sampler, SAMPLERS),
        ):
            if value not in known:
                raise InputError(f"{name} is one of {', '.join(known)}, got {value!r}.")
        for said in (self.text, self.negative_text):
            if len(said) > MOST_TEXT:
                raise InputError(f"A text has up to {MOST_TEXT} letters, this one {len(said)}.")
        return Wish(
            reference=self.reference or None,
            audio=self.audio or None,
            pose=self.pose or None,
            text=self.text.strip() or None,
            negative_text=self.negative_text.strip() or None,
            seconds=_positive("The length", self.seconds),
            seed=self.seed,
            steps=self.steps,
            size=_size(self.size),
            drive=self.drive,  # type: ignore[arg-type]
            sampler=None if self.sampler == USUAL else self.sampler,
            text_guidance=self.text_guidance,
            audio_guidance=self.audio_guidance,
        )

    def command(self, model: str) -> str:
        """The `omnihuman generate` that makes the same video, with files by their own names."""
        words = ["omnihuman", "generate", "--model", model]
        wish, usual = self.wish(), Wish()
        for field in dataclasses.fields(Wish):
            value = getattr(wish, field.name)
            if value == getattr(usual, field.name) and field.name != "seed":
                continue
            if field.name in FILES:
                value = os.path.basename(value)
            elif field.name == "size":
                value = f"{value[0]}x{value[1]}"
            flag, shown = f"--{field.name.replace('_', '-')}", str(value)
            words += [f"{flag}={shown}"] if shown.startswith("-") else [flag, shown]
        return " ".join(map(shlex.quote, words))

    def settings(self, name: str, model: ModelDirectory, request: Request) -> dict[str, Any]:
        """Everything that made a video, the model's defaults filled in."""
        text, audio = scales(model.manifest.sampling)
        if self.text_guidance is not None:
            text = audio = self.text_guidance
        if self.audio_guidance is not None:
            audio = self.audio_guidance
        frames = request.frames or request.grid.frames
        return dict(
            model=name, **{key: os.path.basename(path) for key, path in self.files().items()},
            text=request.text, negative_text=request.negative_text, drive=self.drive,
            height=request.grid.height, width=request.grid.width, frames=frames, fps=request.fps,
            seconds=round(frames / request.fps, 2), seed=request.seed, steps=request.steps,
            sampler=request.sampler, shift=request.shift,
            text_guidance=text, audio_guidance=audio,
        )  # fmt: skip


def told(why: InputError, files: dict[str, str]) -> str:
    """The message in the words of the page: files by their names, fields instead of flags."""
    said = str(why)
    for path in sorted(files.values(), key=len, reverse=True):
        said = said.replace(path, os.path.basename(path))
    return re.sub(
        r"--([a-z]+(?:-[a-z]+)*)",
        lambda flag: WORDS.get(flag[1], flag[1].replace("-", " ")),
        said,
    )


def _positive(what: str, value: float | None) -> float | None:
    if value is None or value > 0:
        return value
    raise InputError(f"{what} is above 0, got {value:g}.")


def _size(text: str) -> tuple[int, int] | None:
    if not text.strip():
        return None
    found = re.fullmatch(r"\s*(\d{1,5})\s*[xX×]\s*(\d{1,5})\s*", text)
    if found is None:
        raise InputError(f"A size is height x width such as 480x832, got {text[:40]!r}.")
    return int(found[1]), int(found[2])
