"""Where the example inputs lie that come with the package (examples/SOURCES.md says whence)."""

from pathlib import Path

from omnihuman_jax.errors import InputError

FOLDER = Path(__file__).parent.parent / "examples"


def example(name: str) -> Path:
    """The path of an example input: `portrait.jpg`, `puppet.png` or `speech.flac`.

    Raises:
        InputError: there is no such example.
    """
    names = sorted(file.name for file in FOLDER.iterdir() if file.suffix != ".md")
    if name not in names:
        raise InputError(f"There is no example {name!r}; there are {', '.join(names)}.")
    return FOLDER / name
