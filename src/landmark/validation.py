"""How well a net tells held-out images: recognition top-1 and retrieval mAP among some train images."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from landmark.batches import Loader, TrainImages
from landmark.metrics import mean_average_precision, top1_accuracy
from landmark.neighbours import top_k
from landmark.network import describe
from landmark.settings import Optimisation
from landmark.trainset import TrainSet


def judge_by(
    queries: TrainSet, gallery: TrainSet, settings: Optimisation, device: torch.device
) -> Callable[[nn.Module], dict[str, float]]:
    """A function of a DescriptorNet: top1 and map (mAP@100) of the queries in the gallery, both in 0..1.

    Images are seen in the size that training gives them, at one scale. A query whose label the gallery lacks is
    wrong for top1, and left out of map.
    """

    def judge(net: nn.Module) -> dict[str, float]:
        vectors = [_describe(net, images, settings, device) for images in (queries, gallery)]
        similarity, rows = top_k(*vectors, k=100, memory_gib=1.0)
        truth = {str(i): {int(label)} for i, label in enumerate(queries.labels)}
        nearest = {
            str(i): (int(gallery.labels[row[0]]), float(s[0]))
            for i, (row, s) in enumerate(zip(rows, similarity, strict=True))
        }
        relevant = {
            str(i): set(map(str, np.flatnonzero(gallery.labels == label)))
            for i, label in enumerate(queries.labels)
        }
        lists = {str(i): list(map(str, row)) for i, row in enumerate(rows)}
        return {
            "top1": round(top1_accuracy(truth, nearest), 4),
            "map": round(mean_average_precision(relevant, lists), 4),
        }

    return judge


def _describe(net: nn.Module, data: TrainSet, settings: Optimisation, device: torch.device) -> np.ndarray:
    """Unit-length descriptors (N, D) float32, in the order of the set."""
    was_training = net.training
    net.eval()
    groups = data.groups
    batches = [
        rows
        for group in np.unique(groups)
        for members in [np.flatnonzero(groups == group)]
        for rows in np.array_split(members, -(-len(members) // settings.batch_size))
    ]
    loader = Loader(TrainImages(data, settings.sizes, ["none"], seed=0), 0, device)
    keys = ([(0, int(groups[row]), int(row)) for row in rows] for rows in batches)
    with torch.inference_mode():
        vectors = [describe(net, images).cpu().numpy() for images in loader.load(keys)]
    net.train(was_training)
    order = np.argsort(np.concatenate(batches))
    return np.concatenate(vectors)[order]
