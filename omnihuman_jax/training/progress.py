"""The only place that shows training in the terminal: a line that moves, or one line an interval."""

import sys
from collections.abc import Mapping

from tqdm import tqdm

# What the line shows of a report, in this order.
SHOWN = ("loss", "lip_corr", "gradient", "mfu")


class Progress:
    """A progress line on a terminal; elsewhere (a log file) one plain line for each report."""

    def __init__(self, total: int | None, at: int, name: str, *, shown: bool = True) -> None:
        self.total, self.name, self._shown = total, name, shown
        self._bar: tqdm | None = None
        if shown and sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=at, desc=name, unit="step", dynamic_ncols=True, file=sys.stderr
            )

    def step(self, step: int) -> None:
        """The step that is over."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def report(self, step: int, numbers: Mapping[str, float], pace: float | None) -> None:
        """Numbers to show, and seconds a step."""
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(_shown(numbers)))
            return
        of = "" if self.total is None else f"/{self.total}"
        parts = [f"{self.name}: step {step}{of}", *_shown(numbers)]
        if pace:
            parts.append(f"{1 / pace:.3g} steps/s")
            if self.total is not None:
                left = tqdm.format_interval(max(self.total - step, 0) * pace)
                parts.append(f"{left} to go")
        self.message(", ".join(parts))

    def message(self, line: str) -> None:
        """A line above the moving one."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif self._shown:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _shown(numbers: Mapping[str, float]) -> list[str]:
    return [f"{name} {numbers[name]:.4g}" for name in SHOWN if name in numbers]
