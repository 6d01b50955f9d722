"""The winners' training augmentations: soft, middle, and hard."""

import albumentations as A
import cv2
import numpy as np

from landmark.images import resize

# Crop-scale limit, shear in degrees, translation as a share of the side, brightness and contrast shift. The slides
# have soft and hard; middle is what the authors' repository trained its 7-epoch models with: hard, not translated.
LEVELS = {
    "none": None,
    "soft": {"crop_scale": 0.2, "shear": 0.0, "translate": 0.0, "brightness": 0.0, "contrast": 0.0},
    "middle": {"crop_scale": 0.3, "shear": 4.0, "translate": 0.0, "brightness": 0.1, "contrast": 0.1},
    "hard": {"crop_scale": 0.3, "shear": 4.0, "translate": 0.1, "brightness": 0.1, "contrast": 0.1},
}


def crop_scale(image: np.ndarray, height_factor: float, width_factor: float, x: float, y: float) -> np.ndarray:
    """Cut a window of the given share of each side, or pad with black where it is above 1; resize back.

    image: (H, W, 3) uint8. x and y in 0..1 place the window in the room there is (authors' repository:
    RandomCropThenScaleToOriginalSize).
    """
    height, width = image.shape[:2]
    window_h, window_w = max(1, round(height * height_factor)), max(1, round(width * width_factor))
    top, left = round((height - window_h) * y), round((width - window_w) * x)
    padded = cv2.copyMakeBorder(
        image[max(top, 0) : top + window_h, max(left, 0) : left + window_w],
        max(-top, 0),
        max(top + window_h - height, 0),
        max(-left, 0),
        max(left + window_w - width, 0),
        cv2.BORDER_CONSTANT,
    )
    return resize(padded, width, height)


class CropScale(A.ImageOnlyTransform):
    """`crop_scale` with height and width factors drawn apart from 1 ± limit."""

    def __init__(self, limit: float, p: float = 1.0):
        super().__init__(p=p)
        self.limit = limit

    def get_params(self) -> dict:
        draw = self.py_random.uniform
        return {
            "height_factor": draw(1 - self.limit, 1 + self.limit),
            "width_factor": draw(1 - self.limit, 1 + self.limit),
            "x": draw(0, 1),
            "y": draw(0, 1),
        }

    def apply(self, img: np.ndarray, height_factor, width_factor, x, y, **_) -> np.ndarray:
        return crop_scale(img, height_factor, width_factor, x, y)


def build(level: str) -> A.Compose:
    """The transform of a level; `set_random_seed` before a call makes that call repeatable."""
    setting = LEVELS[level]
    if setting is None:
        return A.Compose([])
    steps = []
    if setting["shear"] or setting["translate"]:
        shear, shift = setting["shear"], setting["translate"]
        steps.append(
            A.Affine(
                shear={"x": (-shear, shear), "y": (-shear, shear)},
                translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
                p=1.0,
            )
        )
    if setting["brightness"] or setting["contrast"]:
        steps.append(
            A.RandomBrightnessContrast(
                brightness_limit=setting["brightness"], contrast_limit=setting["contrast"], p=0.5
            )
        )
    return A.Compose([*steps, CropScale(setting["crop_scale"])])
