"""Pictures: every common mode reads as it looks, what cannot be used is refused, fitting keeps shapes."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from omnihuman_jax.errors import InputError
from omnihuman_jax.media import fit_image, read_image

SIZE = (32, 24)  # width, height


@pytest.fixture
def colours():
    """Left half red, right half blue; the top row of pixels white."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    pixels[:, :16, 0] = pixels[:, 16:, 2] = 255
    pixels[0] = 255
    return pixels


def png_header(width, height):
    """The first 33 bytes of a PNG of that size, and the start of its data."""
    size = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + size + struct.pack(">I", zlib.crc32(b"IHDR" + size))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 2**20) + b"IDAT\x78\x9c"


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.ppm", "A.PNG", "no_suffix"])
def test_lossless_formats_read_exactly(tmp_path, colours, name):
    Image.fromarray(colours).save(tmp_path / name, None if "." in name else "PNG")
    np.testing.assert_array_equal(read_image(tmp_path / name), colours)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "avif", "jp2"])
def test_lossy_formats_read_closely(tmp_path, suffix):
    ramp = np.linspace(20, 200, 32, dtype=np.uint8)[None, :, None].repeat(24, 0).repeat(3, 2)
    Image.fromarray(ramp).save(tmp_path / f"a.{suffix}", quality=95)
    assert np.abs(read_image(tmp_path / f"a.{suffix}") - ramp.astype(int)).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_read_upright(tmp_path, colours, orientation):
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),  # the camera lay on its side: the file is turned back by 90°
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turn(colours))).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), colours)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_what_is_transparent_becomes_white(tmp_path, mode):
    clear = Image.new("RGBA", SIZE, (10, 10, 10, 0))
    clear.paste((10, 10, 10, 255), (0, 0, 16, 24))
    if mode == "P":
        picture = Image.new("P", SIZE, 1)
        picture.putpalette([10, 10, 10, 99, 99, 99])
        picture.paste(0, (0, 0, 16, 24))
        picture.save(tmp_path / "a.png", transparency=1)
    else:
        suffix = "tiff" if mode == "PA" else "png"
        clear.convert("LA" if mode == "PA" else mode).save(tmp_path / f"a.{suffix}")
    seen = read_image(next(tmp_path.iterdir()))
    assert (seen[:, :16] == 10).all()
    assert (seen[:, 16:] == 255).all()


def test_half_transparent_is_half_white(tmp_path):
    Image.new("RGBA", SIZE, (0, 100, 200, 128)).save(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png")[0, 0].astype(int) - [127, 177, 227]).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tiff", "ppm"])
def test_16_bit_grey_keeps_its_shades(tmp_path, suffix):
    """Pillow's own conversion clips all above 255 to white."""
    shades = np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16)
    Image.fromarray(shades).save(tmp_path / f"a.{suffix}")
    assert np.abs(read_image(tmp_path / f"a.{suffix}") - shades[..., None] / 257).max() <= 0.5


@pytest.mark.parametrize(
    "mode, fill, rgb",
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
    ],
)
def test_other_modes_keep_their_colour(tmp_path, mode, fill, rgb):
    Image.new(mode, SIZE, fill).save(tmp_path / "a.tiff")
    assert (read_image(tmp_path / "a.tiff") == rgb).all()


def test_numbers_without_a_white_are_refused(tmp_path):
    Image.fromarray(np.full((24, 32), 0.5, np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(InputError, match="32 bits"):
        read_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_the_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", SIZE, (shade,) * 3) for shade in (0, 128, 255)]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert (read_image(path) == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (400, 15)])
def test_a_picture_too_small_is_refused(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=f"an image of {size[0]}x{size[1]}"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 8_001), (16, 2**31 - 1)])
def test_a_huge_picture_is_refused_by_its_header(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png_header(*size))
    with pytest.raises(InputError, match=r"[sS]cale it"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_a_truncated_picture_is_refused(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(InputError, match=r"a\.\w+ cannot be read: "):
        read_image(path)


def test_what_is_no_picture_is_refused_in_one_line(tmp_path):
    (tmp_path / "text.png").write_text("hello\n" * 100)
    Image.new("RGB", SIZE).save(tmp_path / "drawing.eps")
    Image.new("RGB", SIZE).save(tmp_path / "rare.pcx")
    (tmp_path / "empty.png").touch()
    reasons = {
        "text.png": "cannot be read",
        "drawing.eps": "cannot identify",  # and Ghostscript is not asked
        "rare.pcx": "cannot identify",
        "empty.png": "is empty",
        "missing.png": "no file",
        ".": "is a folder",
    }
    for name, reason in reasons.items():
        with pytest.raises(InputError, match=reason) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_fitting_to_its_own_size_changes_nothing(colours):
    np.testing.assert_array_equal(fit_image(colours, *colours.shape[:2]), colours)


@pytest.mark.parametrize("height, width", [(16, 16), (48, 16), (16, 112), (1, 1)])
def test_fitting_cuts_around_the_centre(height, width):
    """A disc in the middle stays in the middle, and round."""
    rows, columns = np.mgrid[:80, :120]
    disc = np.where((rows - 39.5) ** 2 + (columns - 59.5) ** 2 < 900, 255, 0).astype(np.uint8)
    seen = fit_image(disc[..., None].repeat(3, 2), height, width)
    assert seen.shape == (height, width, 3)
    assert np.abs(seen.astype(int) - seen[::-1, ::-1]).max() <= 1
    if height == width == 16:
        area = seen[..., 0].sum() / 255 * (80 / 16) ** 2
        assert area == pytest.approx(np.pi * 900, rel=0.01)


def test_shrinking_averages_and_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(fit_image(stripes, 16, 16)[4:-4, 4:-4].astype(int) - 127).max() <= 2


def test_fitting_to_nothing_is_refused(colours):
    with pytest.raises(InputError, match="0x5"):
        fit_image(colours, 0, 5)
