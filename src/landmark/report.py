"""What a person looks at: a picture of what was retrieved, a table of what was recognised."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from landmark.competition import Competition, read_table, write_table
from landmark.images import BadImage, read_image, resize
from landmark.store import atomic_path
from landmark.submission import read_solution

_QUERIES, _RESULTS, _TILE, _BORDER = 8, 7, 128, 5
_RIGHT, _WRONG, _UNKNOWN = (40, 160, 70), (200, 50, 45), (150, 150, 150)


def draw_retrieved(
    path: Path, competition: Competition, ranked: dict[str, list[str]], solution: Path | None
) -> None:
    """Write a JPEG with one query a row: the query, then its first results, framed green if right, red if not.

    Where there is a solution, queries that show a landmark are taken, spread evenly over the test set.
    """
    truth = read_solution(solution, "retrieval").truth if solution else {}
    queries = [q for q in ranked if truth.get(q) or not truth]
    chosen = [queries[i] for i in np.linspace(0, len(queries) - 1, min(_QUERIES, len(queries))).astype(int)]
    rows = []
    for query in chosen:
        tiles = [_tile(competition.path("test", query), _UNKNOWN)]
        for image in ranked[query][:_RESULTS]:
            frame = _UNKNOWN if not truth else _RIGHT if image in truth[query] else _WRONG
            tiles.append(_tile(competition.path("index", image), frame))
        tiles += [np.full_like(tiles[0], 255)] * (1 + _RESULTS - len(tiles))
        # A gap between the query and what was found for it.
        rows.append(np.concatenate([tiles[0], np.full((_TILE, 12, 3), 255, np.uint8), *tiles[1:]], axis=1))
    sheet = np.concatenate(rows) if rows else np.full((_TILE, _TILE, 3), 255, np.uint8)
    with atomic_path(path) as part:
        encoded = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        part.write_bytes(encoded.tobytes())


def write_answers(path: Path, competition: Competition, predicted: dict[str, tuple[int, float]]) -> None:
    """Write a CSV for people: id, path, landmark_id, name (where landmarks.csv has it) and score, best first."""
    names = {}
    if competition.table("landmarks.csv").exists():
        table = read_table(competition.table("landmarks.csv"), ["landmark_id", "name"])
        names = dict(zip(table["landmark_id"], table["name"], strict=True))
    rows = [
        (
            i,
            competition.path("test", i).relative_to(competition.data).as_posix(),
            label,
            names.get(str(label), ""),
            s,
        )
        for i, (label, s) in predicted.items()
    ]
    frame = pd.DataFrame(rows, columns=["id", "path", "landmark_id", "name", "score"])
    write_table(path, frame.sort_values(["score", "id"], ascending=[False, True]))


def _tile(path: Path, frame: tuple[int, int, int]) -> np.ndarray:
    """The middle square of an image, framed: (_TILE, _TILE, 3) uint8."""
    tile = np.empty((_TILE, _TILE, 3), np.uint8)
    tile[:] = frame
    inner = _TILE - 2 * _BORDER
    try:
        image = read_image(path)
    except BadImage:
        return tile
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    tile[_BORDER:-_BORDER, _BORDER:-_BORDER] = resize(image[top : top + side, left : left + side], inner, inner)
    return tile
