"""Which train images vote."""

import numpy as np
import pandas as pd
import pytest

from landmark.competition import Competition
from landmark.descriptor_files import DescriptorFile
from landmark.gallery import load_gallery
from landmark.recipe import load_recipe

IDS = ["aaa", "bbb", "ccc", "ddd", "eee"]


@pytest.fixture
def gallery(tmp_path, monkeypatch):
    """Five train images, bbb contradicted, ccc undecided; label 8 was lost whole by cleaning."""
    monkeypatch.setattr("landmark.recipe.ROOT", tmp_path)
    frame = pd.DataFrame({"id": IDS, "landmark_id": [7, 7, 7, 8, 8]})
    frame.to_csv(tmp_path / "train.csv", index=False)
    work = load_recipe("photos", [f"data={tmp_path}", "run=r"]).work
    file = DescriptorFile(work / "descriptors", "train")
    file.write_ids(IDS, {})
    np.save(file.vectors_path, np.eye(5, dtype=np.float16))
    kept, contradicted = [True, False, False, False, False], [False, True, False, False, True]
    frame.assign(kept=kept, contradicted=contradicted).to_csv(work / "clean_decisions.csv", index=False)

    def load(kind):
        recipe = load_recipe("photos", [f"data={tmp_path}", "run=r", f"gallery={kind}"])
        return load_gallery(recipe, Competition(tmp_path, tmp_path))

    return load


@pytest.mark.parametrize(
    ("kind", "rows"), [("all", [0, 1, 2, 3, 4]), ("uncontradicted", [0, 2, 3]), ("clean", [0, 3, 4])]
)
def test_the_gallery_follows_the_decisions(gallery, kind, rows):
    found = gallery(kind)
    assert found.ids.tolist() == [IDS[row] for row in rows]
    assert found.labels.tolist() == [[7, 7, 7, 8, 8][row] for row in rows]
    assert found.vectors.argmax(axis=1).tolist() == rows
