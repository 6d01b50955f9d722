"""By task: the challenge's metric, and how a submission is read, judged, and judged anew on drawn test sets."""

from collections.abc import Callable
from dataclasses import dataclass

from landmark.bootstrap import recognition_samples, retrieval_samples
from landmark.submission import read_recognition, read_retrieval, recognition_figures, retrieval_figures


@dataclass(frozen=True)
class Task:
    """metric: its name among the figures; title: for people."""

    metric: str
    title: str
    read: Callable
    figures: Callable
    samples: Callable


TASKS = {
    "retrieval": Task("map100", "mAP@100", read_retrieval, retrieval_figures, retrieval_samples),
    "recognition": Task("gap", "GAP", read_recognition, recognition_figures, recognition_samples),
}
