"""Settings by name: what can be changed is changed, and what cannot says what could."""

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.settings import described, names, override


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str = "first"
    steps: int = 10
    rate: float | None = 0.5


@dataclass(frozen=True, kw_only=True)
class Tree:
    parts: tuple[Part, ...] = (Part(), Part(name="second"))
    inner: Part = field(default_factory=Part)
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1, 2)
    words: tuple[str, ...] = ("x",)
    on: bool = False


@pytest.mark.parametrize(
    "change, found",
    [
        ("parts.0.steps=3", lambda t: t.parts[0].steps == 3 and t.parts[1].steps == 10),
        ("parts.second.steps=4", lambda t: t.parts[1].steps == 4 and t.parts[0].steps == 10),
        ("inner.rate=none", lambda t: t.inner.rate is None),
        ("inner.rate=2e-3", lambda t: t.inner.rate == 2e-3),
        ("kind=b", lambda t: t.kind == "b"),
        ("sizes=4,5,6", lambda t: t.sizes == (4, 5, 6)),
        ("words=p,q", lambda t: t.words == ("p", "q")),
        ("on=true", lambda t: t.on is True),
    ],
)
def test_one_value_changes_and_nothing_else(change, found):
    before = Tree()
    after = override(before, [change])
    assert found(after)
    assert before == Tree()


@pytest.mark.parametrize(
    "change, said",
    [
        ("stepz=1", "no 'stepz' in parts, inner"),
        ("inner.stepz=1", "no 'stepz' in name, steps, rate"),
        ("inner=1", "inner.steps"),
        ("parts.2.steps=1", "first, second"),
        ("parts.0=1", "parts.0.steps"),
        ("kind=c", "'c' is no such value"),
        ("inner.steps=1.5", "no such value"),
        ("inner.rate=inf", "no such value"),
        ("on=yes", "no such value"),
        ("inner.steps.more=1", "a single value"),
        ("inner.steps", "name=value"),
    ],
)
def test_what_cannot_be_changed_says_what_could(change, said):
    with pytest.raises(InputError, match=said):
        override(Tree(), [change])


def test_every_name_can_be_changed_to_what_it_is():
    tree = Tree()
    for name in names(tree):
        node = tree
        for key in name.split("."):
            if isinstance(node, tuple):
                node = next(part for part in node if part.name == key)
            else:
                node = getattr(node, key)
        value = ",".join(map(str, node)) if isinstance(node, tuple) else str(node)
        assert override(tree, [f"{name}={value}"]) == tree


def test_description_is_json_and_tells_kinds():
    assert json.loads(json.dumps(described(Tree())))["inner"]["kind"] == "Part"
