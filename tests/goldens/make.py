"""Writes every golden file again. Needs torch, diffusers and transformers; not run in CI.

From the repository root, in an environment of its own: `python tests/goldens/make.py`.
"""

import runpy
from pathlib import Path


def main() -> None:
    for script in sorted(Path(__file__).parent.glob("make_*.py")):
        print(script.name)
        runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
