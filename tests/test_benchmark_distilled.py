"""What `benchmarks.distilled` measures: a distance that is small for the same clips and grows with damage."""

import numpy as np
import pytest

from benchmarks import distilled
from omnihuman_jax.errors import InputError


def clips(seed=0, count=4, frames=9):
    """Soft moving pictures."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:64, 0:64] / 64
    made = []
    for _ in range(count):
        a, b, c = random.uniform(1, 6, 3)
        shades = [np.sin(a * x + k / 4) + np.cos(b * y) + c * x * y for k in range(frames)]
        video = np.stack([np.stack([s, s * 0.5, 1 - s], -1) for s in shades])
        made.append(np.uint8(np.clip(80 * video + 90, 0, 255)))
    return made


def test_a_set_is_at_no_distance_from_itself_and_damage_takes_it_away():
    real = clips()
    reference = distilled.Reference(real, kept=8)
    noise = np.random.default_rng(1).standard_normal((9, 64, 64, 3))
    found = [
        reference.distance([np.uint8(np.clip(v + s * noise, 0, 255)) for v in real])
        for s in (0, 5, 20, 60)
    ]
    assert found[0] < 1e-6 and found == sorted(found)


def test_methods_are_named_and_a_student_that_is_not_there_is_said_to_be_missing(capsys):
    assert set(distilled.methods("runs", "x")) >= {"teacher50", "apt1", "apt2", "dmd2_1", "rcm1"}
    with pytest.raises(InputError, match="teacher50"):
        distilled.main(["--clips", "2", "--only", "nobody"])


def test_the_sheet_has_a_row_a_method(tmp_path):
    from PIL import Image

    long = [np.concatenate([v] * 6)[:49] for v in clips(count=2)]
    distilled.sheet([("a", long), ("b", long)], str(tmp_path / "s.png"), scale=1)
    assert Image.open(tmp_path / "s.png").size[1] == 2 * (64 + 6)
