"""What the tests of planning share: a config, a compiler that only pretends, a small program's text."""

from collections.abc import Callable

from omnihuman_jax.planning.compiler import Answer, Job
from omnihuman_jax.planning.reading import Kernel, Reading, Sent, Work

CONFIG = "configs/omni_14b.py"
MINI = "configs/mini_dit.py"
GIB = 2**30

READING = Reading(
    work=(Work(40, 1e12, 10**9), Work(80, 0.0, 10**9)),
    kernels=(Kernel(40, "forward", 10, 79_200, 79_200, 128),),
    sent=(Sent(40, "all-gather", 10**9, 4, True), Sent(40, "all-gather", 10**9, 4, False)),
)


class Compiler:
    """Answers like the compiler, at once: whether a job fits is decided by `peak`, bytes."""

    def __init__(self, peak: Callable[[Job], float], room: float = 31.25 * GIB) -> None:
        self.peak, self.room, self.asked = peak, room, list[Job]()

    def __call__(self, job: Job) -> Answer:
        self.asked.append(job)
        peak = int(self.peak(job))
        if peak > self.room:
            words = f"Ran out of memory: {peak / GIB:.2f}G exceeds available HBM (31.25G)."
            return Answer(False, peak, int(self.room), (peak // 2, "f32[2]"), words, 1.0)
        return Answer(True, peak, None, (peak // 2, "f32[2]"), None, 1.0, READING)
