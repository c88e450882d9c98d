"""Opening an image file that may come from anywhere."""

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

# Named, because Pillow would try all it knows: for an EPS file, whatever its name, it starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 80_000_000  # the largest of ImageNet has 61 million


def rgb(source: bytes | Path) -> Image.Image:
    """Return an encoded image as RGB: of an animation or a file of several images the first one.

    Raises ValueError saying why it does not decode; one of more than ``MAX_PIXELS`` is refused before it takes memory.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS:
                return image.convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"it is no image of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:  # Pillow has a limit too
        raise ValueError(f"it has more than the {MAX_PIXELS:,} pixels that are decoded") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged image can fail in any way
        raise ValueError(str(error) or repr(error)) from None
    raise ValueError(f"it has {width} x {height}, more than the {MAX_PIXELS:,} pixels that are decoded")
