"""Reading, aspect groups, sizes and augmentation."""

import cv2
import numpy as np
import pytest

from landmark import augment
from landmark.augment import crop_scale
from landmark.images import (
    GROUP_SIZES,
    BadImage,
    aspect_group,
    fit,
    inference_size,
    largest_shrink,
    read_at_least,
    read_image,
    resize,
)


@pytest.mark.parametrize(
    ("height", "width", "group"),
    [
        (300, 512, 0),
        (67, 100, 1),
        (300, 400, 1),
        (77, 100, 2),
        (400, 400, 2),
        (133, 100, 3),
        (400, 300, 3),
        (3, 2, 4),
    ],
)
def test_aspect_groups_are_cut_at_the_authors_edges(height, width, group):
    assert aspect_group(height, width) == group


def test_group_sizes_run_from_wide_to_tall():
    for sizes in GROUP_SIZES.values():
        aspects = [height / width for width, height in sizes]
        assert len(sizes) == 5 and aspects == sorted(aspects)
        assert all(side % 32 == 0 for size in sizes for side in size)


def test_inference_sides_are_multiples_of_32_and_at_least_128():
    assert inference_size(600, 800, 800) == (608, 800)
    assert inference_size(600, 800, 600) == (448, 608)
    assert inference_size(100, 1000, 320) == (128, 320)


def test_fit_shrinks_and_never_enlarges():
    assert fit(np.zeros((100, 400, 3), np.uint8), 200).shape == (50, 200, 3)
    assert fit(np.zeros((100, 150, 3), np.uint8), 200).shape == (100, 150, 3)


def test_images_are_rgb_and_broken_ones_say_why(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "red.png"), red)
    assert read_image(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(BadImage, match="does not decode"):
        read_image(tmp_path / "broken.jpg")
    with pytest.raises(BadImage, match="is missing"):
        read_image(tmp_path / "absent.jpg")


def test_only_jpegs_are_decoded_smaller_and_no_pixel_is_left_out(tmp_path):
    lines = np.zeros((64, 96, 3), np.uint8)
    lines[:, 3::8] = 255
    for name, shape in (("lines.png", (64, 96, 3)), ("lines.jpg", (16, 24, 3))):
        cv2.imwrite(str(tmp_path / name), lines)
        small = read_image(tmp_path / name, shrink=4)
        assert small.shape == shape and abs(small.mean() - lines.mean()) < 8


def test_a_large_jpeg_is_decoded_no_larger_than_its_descriptor_asks_for(tmp_path):
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (1200, 1600, 3), np.uint8), (0, 0), 8)
    for name in ("a.jpg", "a.png"):
        cv2.imwrite(str(tmp_path / name), image)
    large, small = read_at_least(tmp_path / "a.png", 320), read_at_least(tmp_path / "a.jpg", 320)
    assert large.shape == (1200, 1600, 3) and small.shape == (300, 400, 3)
    near = resize(large, 320, 256).astype(int), resize(small, 320, 256).astype(int)
    assert np.abs(near[0] - near[1]).mean() < 2
    assert read_at_least(tmp_path / "a.jpg", 1000).shape == (1200, 1600, 3)
    (tmp_path / "b.jpg").write_bytes(b"no image")
    with pytest.raises(BadImage, match="does not decode"):
        read_at_least(tmp_path / "b.jpg", 320)
    with pytest.raises(BadImage, match="is missing"):
        read_at_least(tmp_path / "c.jpg", 320)


@pytest.mark.parametrize(
    ("size", "shrink"), [((900, 1300), 4), ((450, 700), 2), ((440, 700), 1), ((3000, 3000), 8)]
)
def test_an_image_is_shrunk_as_far_as_the_target_allows(size, shrink):
    assert largest_shrink(*size, 224, 320) == shrink


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 4), (1, 1, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_transparent_and_deep_images_become_rgb_of_eight_bits(tmp_path, shape, dtype):
    cv2.imwrite(str(tmp_path / "a.png"), np.full(shape, np.iinfo(dtype).max // 2, dtype))
    image = read_image(tmp_path / "a.png")
    assert image.shape == (*shape[:2], 3) and image.dtype == np.uint8 and abs(int(image[0, 0, 0]) - 127) <= 1


def test_crop_scale_cuts_below_one_and_pads_above():
    image = np.full((40, 60, 3), 200, np.uint8)
    image[:, :30] = 100
    assert (crop_scale(image, 1, 1, 0.5, 0.5) == image).all()
    right_half = crop_scale(image, 1, 0.5, 1, 0)
    assert right_half.shape == image.shape and (right_half == 200).all()
    padded = crop_scale(image, 1.5, 1.5, 0.5, 0.5)
    assert padded.shape == image.shape
    assert (padded[0] == 0).all() and (padded[:, 0] == 0).all() and padded[20, 10, 0] == 100
    # The padding shrinks the picture: a third of the frame is black.
    assert (padded.max(axis=2) == 0).mean() == pytest.approx(1 - 1 / 1.5**2, abs=0.05)


@pytest.mark.parametrize("level", ["soft", "hard"])
def test_augmentation_repeats_by_seed_and_varies_between_seeds(level):
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    transform = augment.build(level)

    def draw(seed):
        transform.set_random_seed(seed)
        return transform(image=image)["image"]

    assert draw(1).shape == image.shape and draw(1).dtype == np.uint8
    assert (draw(1) == draw(1)).all()
    assert not (draw(1) == draw(2)).all()


def test_only_hard_changes_brightness():
    flat = np.full((32, 32, 3), 128, np.uint8)

    def seen(level):
        transform = augment.build(level)
        values = set()
        for seed in range(20):
            transform.set_random_seed(seed)
            values.add(int(np.median(transform(image=flat)["image"])))
        return values

    assert seen("soft") == {128}
    assert len(seen("hard")) > 3 and min(seen("hard")) > 128 * 0.7
