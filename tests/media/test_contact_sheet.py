"""Contact sheets: the right frames in the right places, kept small while the video streams by."""

import numpy as np
import pytest
from PIL import Image

from omnihuman_jax.errors import InputError
from omnihuman_jax.media import ContactSheet, read_image


def grey(shade, height=90, width=160):
    return np.full((height, width, 3), shade, np.uint8)


@pytest.mark.parametrize("total, tiles", [(1, 12), (2, 12), (12, 12), (13, 12), (1500, 12), (9, 1)])
def test_the_first_the_last_and_even_steps_between(total, tiles):
    shown = ContactSheet(total, 25, tiles=tiles).shown
    assert len(shown) == len(set(shown)) == min(total, tiles)
    assert shown[0] == 0
    if len(shown) > 1:
        assert shown[-1] == total - 1
        assert np.ptp(np.diff(shown)) <= 1


def test_each_frame_stands_in_its_place(tmp_path):
    sheet = ContactSheet(60, 25, tiles=6, columns=3, tile_width=80)
    for index in range(60):
        sheet.add(index, grey(4 * index))
    sheet.save(tmp_path / "new" / "a.png")
    seen = read_image(tmp_path / "new" / "a.png")
    height, width = seen.shape[0] // 2, (seen.shape[1] - 8) // 3
    shades = [
        seen[row * height + 30, column * width + 48, 0] for row in range(2) for column in range(3)
    ]
    assert shades == [4 * index for index in sheet.shown]
    below = seen[8 + 45 : height, :, 0]
    assert (below < 100).any()  # the time, in ink on paper
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.png"]


def test_only_tiles_are_kept():
    sheet = ContactSheet(1000, 25, tiles=4, tile_width=32)
    for index in range(1000):
        sheet.add(index, grey(index % 256))
    assert [tile.size for tile in sheet._tiles.values()] == [(32, 18)] * 4


def test_a_video_cut_short_leaves_places_empty(tmp_path):
    sheet = ContactSheet(100, 25, tiles=2, columns=2, tile_width=40)
    sheet.add(0, grey(0))
    sheet.save(tmp_path / "a.png")
    seen = read_image(tmp_path / "a.png")
    assert seen[20, 20, 0] == 0
    assert seen[20, 80, 0] == 255


def test_nothing_half_written_remains(tmp_path, monkeypatch):
    def full(self, file, *_):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "a.png").write_text("the old one")
    sheet = ContactSheet(1, 25)
    sheet.add(0, grey(7))
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(InputError, match="No space left"):
        sheet.save(tmp_path / "a.png")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["the old one"]


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(InputError, match="total_frames=0"):
        ContactSheet(0, 25)
    with pytest.raises(InputError, match="none was given"):
        ContactSheet(5, 25).save(tmp_path / "a.png")
    sheet = ContactSheet(1, 25)
    sheet.add(0, grey(7))
    with pytest.raises(InputError, match=r"end in \.png"):
        sheet.save(tmp_path / "a.jpg")
