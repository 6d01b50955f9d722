"""Submission and solution files of the two challenges: read, write, validate, score.

A submission is `id,images` (up to 100 index ids, best first) or `id,landmarks` (`<landmark> <score>`); a
solution has a third column, `Usage`. An empty cell is no prediction. Errors number the rows as lines of the
file, the header being row 1.
"""

import csv
import math
import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from landmark import metrics
from landmark.errors import UserError
from landmark.store import atomic_path

MAX_IMAGES = 100  # index ids that a row of a retrieval submission may name
COLUMN = {"retrieval": "images", "recognition": "landmarks"}
SUBSETS = ("Public", "Private")
DEPTHS = (1, 5, 10, 100)  # list lengths at which the mean precision is told

# A landmark with many index images makes a solution cell longer than the 128 KiB that csv allows by default.
csv.field_size_limit(2**24)


class SubmissionError(UserError, ValueError):
    """A file that breaks the rules: the message names file, row and id, what is wrong, and the way out."""


@dataclass(frozen=True)
class Solution:
    """The answers of one task.

    `truth` maps the test ids that count to their index ids (str, retrieval) or landmarks (int, recognition),
    an empty set where there is none; `usage` maps the same ids to Public or Private; `ignored` has the rest.
    """

    truth: dict[str, set]
    usage: dict[str, str]
    ignored: frozenset[str]

    @property
    def ids(self) -> set[str]:
        """Every test id of the file."""
        return self.truth.keys() | self.ignored


def read_solution(path: Path | str, task: str) -> Solution:
    """Read `id,images,Usage` (task "retrieval") or `id,landmarks,Usage` (task "recognition").

    A cell that is empty or `None` is an empty truth; rows with Usage Ignored are set apart.
    Raises SubmissionError for a repeated id, an unknown Usage or a landmark that is not a whole number.
    """
    parse = {"retrieval": str, "recognition": int}[task]
    truth, usage, ignored = {}, {}, set()
    for row, test_id, cell, use in _rows(path, ["id", COLUMN[task], "Usage"]):
        if use == "Ignored":
            ignored.add(test_id)
        elif use in SUBSETS:
            try:
                truth[test_id] = set() if cell == "None" else {parse(token) for token in cell.split()}
            except ValueError:
                problem = f"landmarks {_show(cell)} are not whole numbers; write them, or nothing"
                raise _error(path, row, test_id, problem) from None
            usage[test_id] = use
        else:
            problem = f"Usage is {_show(use)}; write Public, Private or Ignored"
            raise _error(path, row, test_id, problem)
    return Solution(truth, usage, frozenset(ignored))


def read_retrieval(path: Path | str, known_ids: Collection[str] | None = None) -> dict[str, list[str]]:
    """Read `id,images` as {test id: index ids, best first}, without the test ids whose cell is empty.

    Raises SubmissionError for a repeated test id, and for one that is not among `known_ids`, if given.
    """
    return {test_id: tokens for _, test_id, tokens in _predictions(path, "retrieval", known_ids) if tokens}


def read_recognition(path: Path | str, known_ids: Collection[str] | None = None) -> dict[str, tuple[int, float]]:
    """Read `id,landmarks` as {test id: (landmark, score)}, without the test ids whose cell is empty.

    Raises SubmissionError for a cell that is not a whole number and a finite number, for a repeated test id,
    and for one that is not among `known_ids`, if given.
    """
    return {
        test_id: _landmark_and_score(path, row, test_id, tokens)
        for row, test_id, tokens in _predictions(path, "recognition", known_ids)
        if tokens
    }


def write_retrieval(path: Path | str, ids: Iterable[str], ranked: Iterable[Sequence[str]]) -> None:
    """Write `id,images`, whole or not at all: a row per test id, in the order given (test.csv's).

    `ranked` holds the index ids for each test id, best first; an empty list makes an empty cell.
    """
    cells = (" ".join(images) for images in ranked)
    _write(path, COLUMN["retrieval"], zip(ids, cells, strict=True))


def write_recognition(
    path: Path | str, ids: Iterable[str], labels: Iterable[int | None], scores: Iterable[float]
) -> None:
    """Write `id,landmarks`, whole or not at all: a row per test id, in the order given (test.csv's).

    A label None makes an empty cell. A score gets the fewest digits that no other number of its type
    (float32, float64) rounds to, so that order and ties stay.
    Raises ValueError for a score that is not finite and for a label that is not a whole number.
    """
    rows = zip(ids, labels, scores, strict=True)
    cells = ((test_id, _recognition_cell(test_id, label, score)) for test_id, label, score in rows)
    _write(path, COLUMN["recognition"], cells)


def validate_retrieval(path: Path | str, test_ids: Collection[str], index_ids: Collection[str]) -> None:
    """Raise SubmissionError unless the file is a retrieval submission that the challenge accepts.

    That is: UTF-8, header `id,images`, every test id once and no other, at most 100 index ids in a row, each
    known and none twice.
    """
    index_ids = set(index_ids)
    seen = set()
    for row, test_id, tokens in _predictions(path, "retrieval", test_ids):
        seen.add(test_id)
        if len(tokens) > MAX_IMAGES:
            raise _error(path, row, test_id, f"{len(tokens)} images; keep the best {MAX_IMAGES}")
        if not index_ids.issuperset(tokens):
            unknown = next(token for token in tokens if token not in index_ids)
            raise _error(path, row, test_id, f"image {_show(unknown)} is not an index id; take it out")
        if len(set(tokens)) < len(tokens):
            twice = next(token for token in tokens if tokens.count(token) > 1)
            raise _error(path, row, test_id, f"image {_show(twice)} comes more than once; keep the first")
    _require_all(path, test_ids, seen)


def validate_recognition(path: Path | str, test_ids: Collection[str], train_labels: Collection[int]) -> None:
    """Raise SubmissionError unless the file is a recognition submission that the challenge accepts.

    That is: UTF-8, header `id,landmarks`, every test id once and no other, a cell empty or a landmark of the
    train set and a finite score.
    """
    train_labels = set(train_labels)
    seen = set()
    for row, test_id, tokens in _predictions(path, "recognition", test_ids):
        seen.add(test_id)
        if tokens:
            label, _ = _landmark_and_score(path, row, test_id, tokens)
            if label not in train_labels:
                problem = f"landmark {label} is not in the train set; take it out"
                raise _error(path, row, test_id, problem)
    _require_all(path, test_ids, seen)


def score_retrieval(solution: Solution, predictions: Mapping[str, Sequence[str]]) -> dict[str, float | None]:
    """mAP@100 as {"all": x, "Public": y, "Private": z}; None for a subset in which no query has a truth.

    Predictions for ignored ids are passed over. Raises SubmissionError for a test id that the solution lacks.
    """
    return retrieval_figures(solution, predictions)["map100"]


def score_recognition(solution: Solution, predictions: Mapping[str, tuple[int, float]]) -> dict[str, float | None]:
    """GAP as {"all": x, "Public": y, "Private": z}; None for a subset in which no image has a landmark.

    Predictions for ignored ids are passed over. Raises SubmissionError for a test id that the solution lacks.
    """
    return recognition_figures(solution, predictions)["gap"]


def retrieval_figures(solution: Solution, predictions: Mapping[str, Sequence[str]]) -> dict[str, dict]:
    """By subset, as `score_retrieval` has it and with its errors: map100, mp1 … mp100, first_mean, first_median.

    mpK is the mean precision at K; first_mean and first_median are of the rank of the first hit, 101 where a
    list has none.
    """
    hits = metrics.find_hits(solution.truth, counted(solution, predictions), MAX_IMAGES)
    per_query = {"map100": hits.average_precisions()}
    per_query |= {f"mp{depth}": hits.counts(depth) / depth for depth in DEPTHS}
    per_query |= {"first_mean": hits.first_ranks(), "first_median": hits.first_ranks()}
    masks = subset_masks(solution, hits.queries)
    figures = {}
    for name, values in per_query.items():
        middle = np.median if name == "first_median" else np.mean
        figures[name] = {s: float(middle(values[m])) if m.any() else None for s, m in masks.items()}
    return figures


def recognition_figures(solution: Solution, predictions: Mapping[str, tuple[int, float]]) -> dict[str, dict]:
    """By subset, as `score_recognition` has it and with its errors: gap, and top1, the top-1 accuracy."""
    ranked, correct = metrics.rank_predictions(solution.truth, counted(solution, predictions))
    masks = subset_masks(solution, ranked)
    figures = {"gap": {}, "top1": {}}
    for subset, labelled in subset_masks(solution, metrics.labelled_ids(solution.truth)).items():
        right, images = correct[masks[subset]], int(labelled.sum())
        figures["gap"][subset] = metrics.average_precision(right, images) if images else None
        figures["top1"][subset] = int(right.sum()) / images if images else None
    return figures


def counted(solution: Solution, predictions: Mapping) -> dict:
    """The predictions for test ids that count. Raises SubmissionError for a test id that the solution lacks."""
    unknown = predictions.keys() - solution.ids
    if unknown:
        raise SubmissionError(
            f"a prediction is for test id {min(unknown)}, which the solution does not have; "
            "score against the solution of the same test set"
        )
    return {test_id: predicted for test_id, predicted in predictions.items() if test_id in solution.truth}


def subset_masks(solution: Solution, test_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Which of N test ids that count belong to "all", "Public" and "Private": (N,) bool each."""
    usage = np.array([solution.usage[test_id] for test_id in test_ids], dtype=str)
    return {"all": np.ones(len(usage), dtype=bool)} | {subset: usage == subset for subset in SUBSETS}


def _rows(path: Path | str, header: list[str]) -> Iterator[tuple]:
    """Yield (row, id, cell, …) of a CSV in which every id comes once; blank lines are skipped."""
    wanted = ",".join(header)
    row_of_id: dict[str, int] = {}
    for row, cells in _csv_lines(path):
        if row == 1:
            if cells != header:
                found = _show(",".join(cells))
                raise SubmissionError(f"{path}, row 1: the header is {found}; it must be {wanted}")
        elif cells:
            if len(cells) != len(header):
                raise _error(path, row, cells[0], f"{len(cells)} columns; write {len(header)}: {wanted}")
            first = row_of_id.setdefault(cells[0], row)
            if first != row:
                raise _error(path, row, cells[0], f"already in row {first}; keep one of the two")
            yield row, *cells
    if not row_of_id:
        raise SubmissionError(f"{path}: no rows; write a header {wanted} and a row for each test id")


def _csv_lines(path: Path | str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of every record, in strict CSV and UTF-8."""
    row = 1
    try:
        # Bytes that are not UTF-8 come through as surrogates, so that the row they are in can be named.
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                "".join(cells).encode()
                yield row, cells
                row = reader.line_num + 1
    except UnicodeEncodeError:
        raise SubmissionError(f"{path}, row {row}: bytes that are not UTF-8; save it as UTF-8") from None
    except csv.Error as error:
        raise SubmissionError(f"{path}, row {row}: not CSV ({error}); mend the quotes") from None
    except OSError as error:
        raise SubmissionError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _predictions(
    path: Path | str, task: str, known_ids: Collection[str] | None
) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (row, test id, tokens of the cell) of a submission."""
    known_ids = None if known_ids is None else set(known_ids)
    for row, test_id, cell in _rows(path, ["id", COLUMN[task]]):
        if known_ids is not None and test_id not in known_ids:
            raise _error(path, row, test_id, "not a test id; take the row out")
        tokens = cell.split()
        # The published scorer splits at every single space, so other white space would shift its ranks.
        if " ".join(tokens) != cell.removesuffix(" "):
            problem = f"cell {_show(cell)} has other white space than single spaces; write single spaces"
            raise _error(path, row, test_id, problem)
        yield row, test_id, tokens


def _landmark_and_score(path: Path | str, row: int, test_id: str, tokens: list[str]) -> tuple[int, float]:
    try:
        label, score = tokens
        label, score = int(label), float(score)
    except ValueError:
        label, score = 0, math.nan
    if not math.isfinite(score):
        cell = _show(" ".join(tokens))
        problem = f"cell {cell} is not '<landmark> <score>', a whole and a finite number; write both, or nothing"
        raise _error(path, row, test_id, problem)
    return label, score


def _recognition_cell(test_id: str, label: int | None, score: float) -> str:
    if label is None:
        return ""
    if not math.isfinite(score):
        raise ValueError(f"the score of test id {test_id} is {score}; it must be finite")
    return f"{label:d} {score!s}"


def _write(path: Path | str, column: str, rows: Iterable[tuple[str, str]]) -> None:
    with atomic_path(Path(path)) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", column])
        writer.writerows(rows)


def _require_all(path: Path | str, test_ids: Collection[str], seen: set[str]) -> None:
    missing = [test_id for test_id in test_ids if test_id not in seen]
    if missing:
        raise SubmissionError(
            f"{path}: no row for {len(missing)} of {len(test_ids)} test ids, the first is {missing[0]}; "
            f"add one for each, '{missing[0]},' where there is no prediction"
        )


# Quoted, on one line and cut in the middle when it is long, whatever the file holds.
_show = reprlib.repr


def _error(path: Path | str, row: int, test_id: str, problem: str) -> SubmissionError:
    return SubmissionError(f"{path}, row {row}, id {_show(test_id)}: {problem}")
