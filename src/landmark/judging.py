"""By task: the metric, and how a submission is checked, read, judged, and judged anew on drawn test sets."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from landmark.bootstrap import recognition_samples, retrieval_samples
from landmark.competition import Competition, read_table
from landmark.submission import (
    COLUMN,
    read_recognition,
    read_retrieval,
    recognition_figures,
    retrieval_figures,
    validate_recognition,
    validate_retrieval,
)


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


def check_submission(competition: Competition, task: str, path: Path) -> None:
    """Raise SubmissionError unless the task's file is one that the competition accepts."""
    test_ids = competition.submission_ids()
    if task == "retrieval":
        validate_retrieval(path, test_ids, competition.ids("index"))
    else:
        validate_recognition(path, test_ids, competition.train["landmark_id"].tolist())


def part_of_solution(path: Path, task: str, test: Collection[str], index: Collection[str]) -> pd.DataFrame:
    """The rows of a task's solution for some test ids; of the index ids that they name only those of `index`.

    A row of which none is left says None, as one does that never had any.
    """
    table = read_table(path, ["id", COLUMN[task], "Usage"])
    table = table[table["id"].isin(test)]
    if task == "retrieval":
        left = [" ".join(i for i in cell.split() if i in index) or "None" for cell in table["images"]]
        table = table.assign(images=left)
    return table
