"""What a training step sees: batches of images of one aspect, decoded, augmented, and shared by processes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from landmark import augment
from landmark.errors import UserError
from landmark.images import GROUP_SIZES, BadImage, largest_shrink, read_image, resize
from landmark.ranks import Ranks
from landmark.settings import Optimisation
from landmark.trainset import TrainSet, place_in_label


def merge_small_groups(groups: np.ndarray, minimum: int) -> np.ndarray:
    """Let aspect groups of fewer than `minimum` images join the neighbouring group of next aspect.

    groups: (N,) int64. On a small set a group of three photographs would make a batch of three, whose batch
    statistics say nothing.
    """
    groups = groups.copy()
    while True:
        present, counts = np.unique(groups, return_counts=True)
        if len(present) == 1 or counts.min() >= minimum:
            return groups
        smallest = present[counts.argmin()]
        others = present[present != smallest]
        groups[groups == smallest] = others[np.abs(others - smallest).argmin()]


@dataclass(frozen=True)
class Batch:
    """One step: the aspect group whose size its images take, and the rows of all processes' images."""

    group: int
    rows: np.ndarray

    def parts(self, accumulate: int, processes: int) -> list[list[np.ndarray]]:
        """The rows of each process, for each part that the batch is passed in."""
        return [
            [part[rank::processes] for rank in range(processes)] for part in np.array_split(self.rows, accumulate)
        ]


def check_batch(smallest: int, accumulate: int, ranks: Ranks) -> None:
    """Raise UserError when a process would have no image, or batch norm one to learn from.

    smallest: images of the smallest batch; an aspect group that does not divide well leaves some of half the size.
    """

    def check() -> None:
        if smallest < accumulate * max(2, ranks.size):
            raise UserError(
                f"batch_size: the smallest batch has {smallest} images, too few for {ranks.size} process(es) and"
                f" accumulate {accumulate}; raise batch_size, or lower accumulate or the number of processes"
            )

    ranks.agree(check)


class AspectBatches:
    """The batches of each epoch, from one aspect group each, as seed and epoch alone decide.

    Every image comes once per epoch, unless its label has more than `images_per_class`. A group is cut into
    batches of nearly equal size, at most `batch_size`, so that none is left with one image, from which batch norm
    cannot learn.
    """

    def __init__(self, data: TrainSet, settings: Optimisation, seed: int):
        self.groups, self.labels, self.settings, self.seed = data.groups, data.labels, settings, seed

    def of_epoch(self, epoch: int) -> list[Batch]:
        rng = np.random.default_rng([self.seed, epoch])
        rows, most = np.arange(len(self.labels)), self.settings.images_per_class
        if most:
            drawn = rng.permutation(rows)
            rows = np.sort(drawn[place_in_label(self.labels[drawn]) < most])
        size = self.settings.batch_size
        groups = merge_small_groups(self.groups[rows], size // 2)
        batches = []
        for group in np.unique(groups):
            members = rng.permutation(rows[groups == group])
            batches += [Batch(int(group), b) for b in np.array_split(members, -(-len(members) // size))]
        return [batches[i] for i in rng.permutation(len(batches))]


class TrainImages(Dataset):
    """(epoch, group, row) -> the augmented image (3, H, W) uint8 of that group's size.

    The augmentation is the epoch's, and seeded by (seed, epoch, row), so that it does not matter which process or
    worker draws it, nor when. levels: of each epoch.
    """

    def __init__(self, data: TrainSet, sizes: str, levels: list[str], seed: int):
        self.data, self.sizes, self.levels, self.seed = data, GROUP_SIZES[sizes], levels, seed
        self.transforms = {level: augment.build(level) for level in set(levels)}

    def __getitem__(self, key: tuple[int, int, int]) -> torch.Tensor:
        epoch, group, row = key
        width, height = self.sizes[group]
        shrink = largest_shrink(*self.data.sizes[row], height, width)
        image = resize(read_image(self.data.path(row), shrink), width, height)
        transform = self.transforms[self.levels[epoch]]
        transform.set_random_seed(int(np.random.SeedSequence([self.seed, epoch, row]).generate_state(1)[0]))
        image = transform(image=image)["image"]
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


class Loader:
    """Brings the images of one process, part after part of each batch, while the network is at work.

    workers: processes that decode ahead; 0 decodes in this one.
    """

    def __init__(self, images: TrainImages, workers: int, device: torch.device):
        self._upcoming = _Upcoming()
        self._loader = DataLoader(
            images,
            batch_sampler=self._upcoming,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
        )
        self._device = device

    def load(self, keys: Iterable[list[tuple[int, int, int]]]) -> Iterator[torch.Tensor]:
        """Yield images (B, 3, H, W) uint8 on the device for each list of keys of TrainImages.

        Raises UserError for an image that could be read when training began and cannot be now.
        """
        self._upcoming.keys = keys
        try:
            for images in self._loader:
                yield images.to(self._device, non_blocking=True)
        except BadImage as error:
            # A worker's error comes with its traceback before the message.
            raise UserError(
                f"{str(error).splitlines()[-1].removeprefix('landmark.images.BadImage: ')}; it could be"
                " read before; run the step again to leave it out"
            ) from None


class _Upcoming(Sampler):
    """The lists of keys that the loader is to bring next."""

    keys: Iterable = ()

    def __iter__(self) -> Iterator:
        return iter(self.keys)
