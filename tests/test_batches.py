"""Batches of one aspect, their shares, and the images in them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from landmark.batches import AspectBatches, Batch, Loader, TrainImages, check_batch, merge_small_groups
from landmark.errors import UserError
from landmark.images import GROUP_SIZES
from landmark.ranks import ALONE
from landmark.settings import Training, Validation
from landmark.trainset import TrainSet, hold_out, place_in_label

# Height and width of an image of each aspect group, wide to tall.
SHAPES = np.array([(50, 100), (70, 100), (100, 100), (140, 100), (200, 100)])


def train_set(groups, labels=None) -> TrainSet:
    labels = np.zeros(len(groups), np.int64) if labels is None else labels
    return TrainSet.of([Path(f"{i}.jpg") for i in range(len(groups))], SHAPES[groups], labels)


def batches_of(groups, batch_size, labels=None, **settings) -> AspectBatches:
    return AspectBatches(train_set(groups, labels), Training(batch_size=batch_size, **settings), seed=1)


def test_a_batch_has_one_aspect_and_an_epoch_every_image_once():
    groups = np.random.default_rng(0).integers(0, 5, 203)
    seen = batches_of(groups, 16).of_epoch(0)
    assert all(set(groups[batch.rows]) == {batch.group} and len(batch.rows) <= 16 for batch in seen)
    assert sorted(np.concatenate([batch.rows for batch in seen])) == list(range(203))


def test_no_batch_is_left_with_a_single_image():
    batches = batches_of(np.zeros(33, int), 16).of_epoch(0)
    assert sorted(len(batch.rows) for batch in batches) == [11, 11, 11]


def test_the_order_depends_on_seed_and_epoch_alone():
    data = train_set(np.random.default_rng(0).integers(0, 3, 50))

    def order(seed, epoch):
        return [batch.rows.tolist() for batch in AspectBatches(data, Training(batch_size=8), seed).of_epoch(epoch)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1) and order(1, 0) != order(2, 0)


def test_small_groups_join_the_neighbour_of_next_aspect():
    groups = np.array([0] * 2 + [1] * 9 + [3] * 3 + [4] * 8)
    merged = merge_small_groups(groups, 4)
    assert merged.tolist() == [1] * 11 + [4] * 11
    assert merge_small_groups(np.array([2, 2]), 4).tolist() == [2, 2]


@pytest.mark.parametrize(("accumulate", "processes"), [(1, 1), (1, 2), (2, 3), (3, 4)])
def test_processes_share_a_batch_without_loss_or_repetition_and_evenly(accumulate, processes):
    batch = Batch(2, np.random.default_rng(0).permutation(29))
    parts = batch.parts(accumulate, processes)
    assert len(parts) == accumulate and all(len(part) == processes for part in parts)
    shares = [share for part in parts for share in part]
    assert sorted(np.concatenate(shares)) == list(range(29))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 2 and all(max(map(len, p)) - min(map(len, p)) <= 1 for p in parts)


def test_a_batch_that_leaves_a_part_one_image_is_refused():
    check_batch(4, 2, ALONE)
    with pytest.raises(UserError, match=r"batch has 3 images, too few for 1 process\(es\) and accumulate 2"):
        check_batch(3, 2, ALONE)


def test_a_label_with_many_images_takes_part_with_some_that_change():
    labels = np.repeat([0, 1, 2], [40, 3, 12])
    batches = batches_of(np.full(55, 2), 8, labels, images_per_class=10)
    epochs = [np.concatenate([b.rows for b in batches.of_epoch(e)]) for e in range(40)]
    assert all(np.bincount(labels[rows]).tolist() == [10, 3, 10] for rows in epochs)
    assert all(len(set(rows)) == 23 for rows in epochs)
    assert set(np.concatenate(epochs)) == set(range(55))


def test_the_place_in_a_label_counts_from_the_front():
    assert place_in_label(np.array([7, 3, 7, 7, 3])).tolist() == [0, 0, 1, 2, 1]


def test_held_out_images_are_never_trained_on_nor_looked_up_in_and_leave_a_label_two_thirds():
    labels = np.repeat(np.arange(30), np.arange(1, 31))
    rest, held, gallery = hold_out(labels, Validation(share=0.2, images=60), seed=3)
    assert len(held) == 60 and sorted([*rest, *held]) == list(range(len(labels)))
    counts, kept = np.bincount(labels), np.bincount(labels[rest], minlength=30)
    assert (kept * 3 >= counts * 2).all()
    assert set(gallery) <= set(rest) and len(set(gallery)) == len(gallery) <= 300
    assert set(labels[held]) <= set(labels[gallery])
    again = hold_out(labels, Validation(share=0.2, images=60), seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(again, (rest, held, gallery), strict=True))
    none = hold_out(labels, Validation(share=0), seed=3)
    assert len(none[0]) == len(labels) and not len(none[1]) and not len(none[2])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> TrainSet:
    """A wide and a tall JPEG, each more than twice as large as its group's size in XS."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    paths, sizes = [folder / "wide.jpg", folder / "tall.jpg"], np.array([(400, 700), (700, 400)])
    for path, (height, width) in zip(paths, sizes, strict=True):
        coarse = rng.integers(0, 255, (height // 20, width // 20, 3), np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return TrainSet.of(paths, sizes, [0, 1])


def test_images_take_their_groups_size_and_are_augmented_by_seed_epoch_and_row(photographs):
    images = TrainImages(photographs, "XS", ["hard", "hard", "none"], seed=3)
    for row, group in ((0, 0), (1, 4)):
        width, height = GROUP_SIZES["XS"][group]
        assert images[0, group, row].shape == (3, height, width)
        assert images[0, group, row].dtype == torch.uint8
    first = images[0, 0, 0]
    assert not torch.equal(first, images[1, 0, 0])
    assert torch.equal(first, TrainImages(photographs, "XS", ["hard"], seed=3)[0, 0, 0])


def test_an_image_decoded_smaller_is_the_image(photographs):
    """Without augmentation it is what decoding in full and resizing gives, but for a grey level or two."""
    width, height = GROUP_SIZES["XS"][0]
    whole = cv2.imread(str(photographs.path(0)), cv2.IMREAD_COLOR_RGB)
    expected = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    got = TrainImages(photographs, "XS", ["none"], seed=3)[0, 0, 0].permute(1, 2, 0).numpy()
    difference = np.abs(got.astype(int) - expected)
    assert difference.mean() < 1.5 and difference.max() < 40


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_brings_the_same_whoever_decodes_epoch_after_epoch(photographs, workers):
    images = TrainImages(photographs, "XS", ["soft", "hard"], seed=3)
    loader = Loader(images, workers, torch.device("cpu"))
    for epoch in range(2):
        keys = [[(epoch, 0, 0)], [(epoch, 4, 1), (epoch, 4, 0)]]
        for batch, wanted in zip(loader.load(keys), keys, strict=True):
            assert torch.equal(batch, torch.stack([images[key] for key in wanted]))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_has_become_unreadable_is_named(photographs, tmp_path, workers):
    gone = TrainSet.of([tmp_path / "gone.jpg"], photographs.sizes[:1], photographs.labels[:1])
    loader = Loader(TrainImages(gone, "XS", ["none"], seed=0), workers, torch.device("cpu"))
    with pytest.raises(UserError, match=r"^\S*gone.jpg is missing; it could be read before; run the step again"):
        list(loader.load([[(0, 0, 0)]]))
