"""The only place that says how much one visitor may ask of the page."""

import os
from dataclasses import dataclass

from omnihuman_jax import media
from omnihuman_jax.errors import InputError
from omnihuman_jax.inference.generator import Request

MOST_STEPS = 100
MOST_TEXT = 2000  # letters of a prompt
SOUND = 10  # a voice may last so many times as long as a video: the first part of a song is used
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the page makes and takes.

    Attributes:
        seconds: of a video.
        pixels: height x width of a video.
        picture_pixels: of the portrait that is handed in.
        upload: MiB of one file that is handed in.
        queue: videos that may wait; one more is made meanwhile.
        hours: how long inputs and results are kept.
    """

    seconds: float = 60.0
    pixels: int = 480 * 832
    picture_pixels: int = 40_000_000
    upload: int = 32
    queue: int = 8
    hours: float = 6.0

    def check_file(self, path: str) -> None:
        """Refuse a file that is too large to look into.

        Raises:
            InputError: it is, or it is gone.
        """
        name = os.path.basename(path)
        if not os.path.isfile(path):
            raise InputError(f"{name} is no longer on the server; add it again.")
        if (size := os.path.getsize(path)) > self.upload * MIB:
            raise InputError(
                f"{name} has {size / MIB:.1f} MiB; this page takes files of up to {self.upload} MiB."
            )

    def check_inputs(self, reference: str | None, audio: str | None) -> None:
        """Refuse a picture or a sound too large to decode many times over, or at all.

        Raises:
            InputError: it is, or it cannot be read.
        """
        if reference is not None:
            height, width = media.read_image(reference).shape[:2]
            if height * width > self.picture_pixels:
                raise InputError(
                    f"{os.path.basename(reference)} has {width}x{height} pixels; this page takes "
                    f"pictures of up to {self.picture_pixels / 1e6:g} million."
                )
        if audio is not None:
            media.read_audio(audio, most_seconds=SOUND * self.seconds)

    def check(self, request: Request) -> None:
        """Refuse a video that is too long, too large or too many steps.

        Raises:
            InputError: which of them, and what would be made.
        """
        seconds = (request.frames or request.grid.frames) / request.fps
        if seconds > self.seconds * 1.001:
            raise InputError(
                f"The video would last {seconds:.1f} s; this page makes up to {self.seconds:g} s. "
                "Set a length under More settings, or hand in a shorter voice."
            )
        height, width = request.grid.height, request.grid.width
        if height * width > self.pixels:
            raise InputError(
                f"A video of {height}x{width} has {height * width} pixels; this page makes up to "
                f"{self.pixels}. Choose a smaller size."
            )
        if request.steps > MOST_STEPS:
            raise InputError(f"This page takes up to {MOST_STEPS} steps, got {request.steps}.")
