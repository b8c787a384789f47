"""Every name that code reads is defined: ruff and mypy have to let that pass, for the letters of shapes."""

import builtins
import symtable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("omnihuman_jax", "benchmarks", "configs", "tests")
GIVEN = {
    *dir(builtins),
    "__file__",
    "__name__",
    "__doc__",
    "__path__",
    "__annotations__",
    "__class__",
}


def undefined(code, name="code"):
    """Global names that are read somewhere and bound nowhere in the module. (Annotations may be text.)"""
    top = symtable.symtable(code, name, "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    bound |= {s.get_name() for s in top.get_symbols() if s.is_namespace()}
    missing = set()

    def visit(table):
        for symbol in table.get_symbols():
            known = symbol.get_name() in bound | GIVEN
            if symbol.is_referenced() and symbol.is_global() and not known:
                missing.add(symbol.get_name())
        for child in table.get_children():
            visit(child)

    visit(top)
    return missing


def test_it_sees_what_is_missing():
    shapes = "def f(x: Float[Array, 'B L']):\n    y = x\n    return [y + z for z in lower(y)]\n"
    assert undefined(shapes) == {"Float", "Array", "lower"}
    assert (
        undefined("import a\nclass B:\n    c = a\n    def d(self):\n        return B, len\n")
        == set()
    )


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_name_is_defined(folder):
    odd = {
        str(p): found for p in (ROOT / folder).rglob("*.py") if (found := undefined(p.read_text()))
    }
    assert not odd
