"""docs/map.md shows every file of the package, and every decision has a number of its own."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_file_has_its_line_on_the_map():
    text = (ROOT / "docs/map.md").read_text()
    listed = re.findall(r"[├└]── ([\w.]+)", text)
    launcher = [
        path.name for path in ROOT.glob("tpu/**/*") if path.is_file() and path.suffix != ".pyc"
    ]
    assert set(launcher) <= set(listed)
    files = [
        *ROOT.glob("omnihuman_jax/**/*.py"),
        *ROOT.glob("benchmarks/*.py"),
        *ROOT.glob("tpu/*.py"),
    ]
    names = sorted(path.name for path in files if "__pycache__" not in path.parts)
    shown = sorted(name for name in listed if name.endswith(".py"))
    tests = ["__init__.py", "conftest.py", "typecheck.py", "released.py", "cloud.py", "faults.py"]
    assert shown == sorted(names + tests)


def test_decisions_are_numbered_in_order():
    numbers = [int(p.name[:4]) for p in sorted((ROOT / "docs/decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
