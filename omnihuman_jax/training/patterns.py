"""The only place that picks parameters by patterns of their paths: `blocks/*/q/kernel`."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

from omnihuman_jax.errors import InputError


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether any pattern fits the whole path; `*` is any text, "/" too, `[qkv]` one of these letters."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def select(patterns: Iterable[str], paths: Collection[str], what: str) -> list[str]:
    """The paths that some pattern fits, in their order.

    Raises:
        InputError: a pattern fits none of them; `what` (a plural) says what they are, for the message.
    """
    patterns = tuple(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            near = get_close_matches(pattern, paths, n=4, cutoff=0.0)
            raise InputError(
                f"The pattern {pattern!r} fits none of the {len(paths)} {what}; "
                f"near it are {', '.join(near) or 'none'}."
            )
    return [path for path in paths if matches(path, patterns)]
