"""Reading photographs, and the groups of like aspect that let a batch keep its images' shape."""

import cv2
import numpy as np
from PIL import Image

# Threads and processes share whole images among them; and OpenCV's own threads would not survive a fork.
cv2.setNumThreads(0)

# Upper h/w edges of the first four of five groups, wide to tall, and each group's (width, height):
# the authors' settings (method: https://arxiv.org/abs/1906.04087 and their repository).
ASPECT_EDGES = (0.67, 0.77, 1.33, 1.5)
GROUP_SIZES = {
    "S2": ((512, 352), (512, 384), (448, 448), (384, 512), (352, 512)),
    "M2": ((800, 544), (800, 608), (704, 704), (608, 800), (544, 800)),
    "L2": ((800, 544), (800, 608), (800, 800), (608, 800), (544, 800)),
    # For laptops without a GPU: the same shapes at about a fifth, and a third, of the pixels of S2.
    "XS": ((224, 160), (224, 160), (192, 192), (160, 224), (160, 224)),
    "XM": ((288, 192), (288, 224), (256, 256), (224, 288), (192, 288)),
}


# OpenCV takes no COLOR flag beside COLOR_RGB; of these it only reads by how much to shrink.
_SHRUNK = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


class BadImage(Exception):
    """A file that is not there or does not decode; the message says which."""


def read_image(path, shrink: int = 1, turned: bool = True) -> np.ndarray:
    """Decode an image to RGB (H, W, 3) uint8, `turned` as its EXIF orientation says. Raises BadImage.

    shrink: 1, 2, 4 or 8; each side of a JPEG comes out by that much smaller, in half the time or less. Other
    formats come out whole: OpenCV would leave out pixels of theirs.
    """
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        shrink = 1
    if not path.exists():
        # Asked first, since OpenCV warns on the terminal, once per image.
        raise BadImage(f"{path} is missing")
    try:
        orientation = 0 if turned else cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imread(str(path), _SHRUNK[shrink] | cv2.IMREAD_COLOR_RGB | orientation)
    except cv2.error:
        # For example a header that asks for more pixels than OpenCV allows.
        image = None
    if image is None:
        raise BadImage(f"{path} does not decode")
    return image


def read_at_least(path, longest_side: float) -> np.ndarray:
    """`read_image`, a JPEG shrunk in decoding as far as it stays no smaller than `inference_size` asks for."""
    try:
        with Image.open(path) as header:
            width, height = header.size
        shrink = largest_shrink(height, width, *inference_size(height, width, longest_side))
    except (OSError, Image.DecompressionBombError):
        shrink = 1  # reading says what is wrong with it
    return read_image(path, shrink)


def largest_shrink(height: int, width: int, target_height: int, target_width: int) -> int:
    """How much (1, 2, 4, 8) an image may be shrunk in decoding, and still be no smaller than the target."""
    return next(
        (n for n in (8, 4, 2) if height // n >= target_height and width // n >= target_width),
        1,
    )


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize with area averaging when shrinking, so that fine structure does not alias."""
    shrinks = width * height < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def fit(image: np.ndarray, longest_side: int) -> np.ndarray:
    """Shrink so that the longest side is at most `longest_side` pixels; smaller images stay as they are."""
    height, width = image.shape[:2]
    scale = longest_side / max(height, width)
    if scale >= 1:
        return image
    return resize(image, max(1, round(width * scale)), max(1, round(height * scale)))


def aspect_group(height: int | np.ndarray, width: int | np.ndarray) -> np.ndarray:
    """Index 0..4 of the aspect group, 0 the widest; of many images at once, int64 of the same shape."""
    return np.searchsorted(ASPECT_EDGES, height / width, side="right")


def inference_size(height: int, width: int, longest_side: float) -> tuple[int, int]:
    """(height, width) for descriptors: longest side as given, both sides multiples of 32 and at least 128."""
    scale = longest_side / max(height, width)
    return tuple(max(128, 32 * round(side * scale / 32)) for side in (height, width))
