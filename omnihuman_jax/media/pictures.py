"""The only place that reads pictures and changes their size."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from omnihuman_jax.errors import InputError
from omnihuman_jax.media.files import AnyPath, decoding, existing

# Named, because Pillow would also start Ghostscript on a file that claims to be PostScript.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
WANT = "a PNG, JPEG, WebP, AVIF, GIF, BMP, TIFF or JPEG 2000 picture"
LEAST_SIDE = 16
MOST_PIXELS = 80_000_000  # below the 89 million at which Pillow begins to warn of bombs


def read_image(path: AnyPath) -> UInt8[np.ndarray, "Y X 3"]:
    """The picture as it is meant to be seen, in RGB.

    Turned upright as its EXIF says, transparency laid on white, 16 bits rounded to 8, the first
    frame of an animation.

    Raises:
        InputError: not a picture, damaged, under 16 pixels on a side, over 80 megapixels.
    """
    file = existing(path, WANT)
    with decoding(path, WANT):
        try:
            with Image.open(file, formats=FORMATS) as picture:
                _check_size(path, *picture.size)
                ImageOps.exif_transpose(picture, in_place=True)
                return np.array(_rgb(picture))
        except Image.DecompressionBombError as why:
            raise InputError(f"{path} is too large: {why} Scale it down.") from why


def fit_image(
    image: UInt8[np.ndarray, "Y X 3"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Scaled until it covers `height` x `width`, then cut to that around the centre.

    Lanczos, with the support widened when it shrinks, so that nothing aliases.
    """
    if min(height, width) < 1:
        raise InputError(f"A picture cannot be fitted to {height}x{width}; use at least 1x1.")
    return np.array(ImageOps.fit(Image.fromarray(image), (width, height), Image.Resampling.LANCZOS))


def _check_size(path: AnyPath, width: int, height: int) -> None:
    """Before anything is decoded: the header alone tells."""
    if min(width, height) < LEAST_SIDE:
        raise InputError(
            f"{path} is an image of {width}x{height}; give one of at least "
            f"{LEAST_SIDE}x{LEAST_SIDE}, better 512x512."
        )
    if width * height > MOST_PIXELS:
        raise InputError(
            f"{path} is an image of {width}x{height}; scale it to {MOST_PIXELS // 10**6} "
            "megapixels or fewer."
        )


def _rgb(picture: Image.Image) -> Image.Image:
    """Any mode to RGB. Pillow alone would clip 16-bit grey to white and drop what is transparent."""
    # 16-bit grey has its own modes; a PGM of more than 8 bits arrives as "I", scaled to 16.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        grey = np.asarray(picture).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel and does not say which number is white")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")
