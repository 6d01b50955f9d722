"""The Kaggle notebook of a recipe: its cells, from what the steps say of themselves, and its metadata."""

import ast
import json
import os
import re
import unicodedata
from pathlib import Path

from landmark.errors import UserError
from landmark.recipe import Recipe
from landmark.settings import Kaggle

# As the kaggle client's own templates have it.
NOBODY = "INSERT_OWNER_SLUG_HERE"
_CUT = 500  # images a split that show within minutes whether all works

_HEAD = """\
# {title}

Cleans, trains, retrieves, re-ranks and recognises landmarks, by the numbered scripts of the attached kit; the
recipe is `{recipe}`. It needs no internet. Where the kit brings trained models, only steps 04 to 07 have something
to do.

{attach}
"""
_ATTACH = """\
Attach the kit's dataset and the photographs: a competition's, Google Landmarks v2, GLDv2-micro, or a dataset with
one folder per landmark."""
_ATTACH_KIT = "Attach the kit's dataset; the pictures of this recipe are rendered."
_PARAMETERS_TEXT = """\
## Parameters

Where Kaggle runs the notebook anew to score it, all data is taken. Any other run, "Save & Run All" among them, is
a trial on `CUT_ON_COMMIT` images a split; its submission still has a row for every test image, empty where it was
cut. **A competition that takes an uploaded file, as those of 2019 do, runs nothing anew: set
`CUT_ON_COMMIT = None`** for the submission that counts.
"""
_PARAMETERS = """\
import os

RECIPE = {recipe}
SET = {overrides}  # more settings, such as "retrieval.insert_above=0.7"
TASK = {task}  # whose prediction becomes submission.csv; the other: {other}
CUT_ON_COMMIT = {cut}
INPUT = os.environ.get("KIT_INPUT", "/kaggle/input")
WORKING = os.environ.get("KIT_WORKING", "/kaggle/working")
"""
_KIT_TEXT = """\
## The kit and the data

Both are looked for below `INPUT`. The kit and all that the steps make on the way lie beside `WORKING`, in `temp/`:
Kaggle keeps `WORKING`, up to 20 GB of it, and descriptors can be larger.
"""
_KIT = """\
import shutil
import sys
from pathlib import Path

KIT = Path(WORKING).parent / "temp" / "kit"
places = [place for depth in range(1, 4) for place in sorted(Path(INPUT).glob("*/" * depth + "kit*"))]
kits = [place for place in places if place.name == "kit.zip" or (place / "run.sh").exists()]
if not kits:
    sys.exit(f"error: the kit is nowhere below {{INPUT}}; attach the dataset that `bash run.sh notebook` wrote")
# Of several, this notebook's own.
kit = min(kits, key=lambda place: place.parent.name != {dataset})
print(f"kit: {{kit}}")
if kit.is_dir():
    shutil.copytree(kit, KIT, dirs_exist_ok=True)
else:
    shutil.unpack_archive(kit, KIT)
sys.path.insert(0, str(KIT / "src"))

from landmark.packages import install_missing

install_missing(kit.parent)
"""
_SESSION = """\
from landmark.kaggle_session import Session

session = Session(kit.parent, INPUT, WORKING, RECIPE, SET, TASK, CUT_ON_COMMIT)
run = session.run
"""
_BOOTSTRAP_TEXT = """\
## Bootstrap round

Step 01 starts from models that this first round of steps 01 and 02 trains.
"""
_BOOTSTRAP = """\
run("01_clean", "--round", "bootstrap")
run("02_train", "--round", "bootstrap")
"""
_SHOW_TEXT = """\
## What came of it

Scores where the data has solutions; then queries (left) and what was retrieved for them, framed green where right.
"""
_SUBMIT_TEXT = """\
## Submission

`submission.csv` is the prediction of `TASK`; beside it lie both tasks' predictions, the scores and the picture.
"""


def make_notebook(recipe: Recipe, overrides: list[str], task: str, steps: list[Path]) -> dict:
    """The notebook as its JSON: a section with text and a cell for each of the scripts `steps`.

    overrides: of the recipe, but without data and run, which differ on Kaggle.
    """
    other = {"retrieval": "recognition", "recognition": "retrieval"}[task]
    # Whitening is learned on the train images, and wants more of them than numbers.
    cut = max(_CUT, 2 * (recipe.ensemble.whiten or 0))
    values = {"recipe": recipe.name, "overrides": overrides, "task": task, "other": other, "cut": cut}
    # As JSON, these are Python in the double quotes of the cells.
    parameters = _PARAMETERS.format(**{name: json.dumps(value) for name, value in values.items()})
    attach = _ATTACH_KIT if recipe.sample else _ATTACH
    cells = [
        _text(_HEAD.format(title=recipe.kaggle.title, recipe=recipe.name, attach=attach)),
        _text(_PARAMETERS_TEXT),
        _code(parameters) | {"metadata": {"tags": ["parameters"]}},
        _text(_KIT_TEXT),
        _code(_KIT.format(dataset=json.dumps(kit_name(recipe.kaggle)))),
        _code(_SESSION),
    ]
    for step in steps:
        if step.name.startswith("01") and recipe.uses_bootstrap:
            cells += [_text(_BOOTSTRAP_TEXT), _code(_BOOTSTRAP)]
        cells += [_text(_section(step)), _code(f'run("{step.stem}")')]
    cells += [_text(_SHOW_TEXT), _code("session.scores()"), _code("session.picture()")]
    cells += [_text(_SUBMIT_TEXT), _code("session.submit()")]
    return {
        "cells": [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def notebook_metadata(kaggle: Kaggle, user: str, tasks: list[str]) -> dict:
    """kernel-metadata.json, as `kaggle kernels push` reads it; tasks: whose competitions are attached."""
    slug = slug_of(kaggle.title)
    datasets = [f"{user}/{kit_name(kaggle)}"] + [kaggle.dataset] * (kaggle.dataset is not None)
    return {
        "id": f"{user}/{slug}",
        "title": kaggle.title,
        "code_file": f"{slug}.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_tpu": False,
        "enable_internet": False,
        "dataset_sources": datasets,
        "competition_sources": list(dict.fromkeys(filter(None, map(kaggle.competitions.get, tasks)))),
        "kernel_sources": [],
        "model_sources": [],
    }


def dataset_metadata(kaggle: Kaggle, user: str) -> dict:
    """dataset-metadata.json, as `kaggle datasets create` reads it. Kaggle's list of licences has no MIT."""
    return {
        "id": f"{user}/{kit_name(kaggle)}",
        "title": f"{kaggle.title[:46].rstrip()} kit",
        "licenses": [{"name": "other"}],
        "description": "Code under the MIT licence (kit/LICENSE); in checkpoints/ the models that it trained.",
    }


def kit_name(kaggle: Kaggle) -> str:
    """The name of the kit's dataset."""
    return f"{slug_of(kaggle.title)[:46].rstrip('-')}-kit"


def slug_of(title: str) -> str:
    """The name that Kaggle derives from a title. Raises UserError for one that is shorter than Kaggle takes."""
    # casefold makes ss of ß.
    plain = unicodedata.normalize("NFKD", title.casefold()).encode("ascii", "ignore").decode()
    # A comma within a number is no break.
    plain = re.sub(r"(?<=\d),(?=\d)", "", plain)
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(slug) < 5:
        raise UserError(f"kaggle.title: {title!r} makes the name {slug!r}; Kaggle wants five letters or digits")
    return slug


def kaggle_user() -> str:
    """The name in KAGGLE_USERNAME or kaggle.json, where the kaggle client looks for it, else `NOBODY`."""
    if name := os.environ.get("KAGGLE_USERNAME"):
        return name
    config = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "kaggle"
    for folder in filter(None, (os.environ.get("KAGGLE_CONFIG_DIR"), "~/.kaggle", config)):
        path = Path(folder).expanduser() / "kaggle.json"
        if path.exists():
            try:
                return json.loads(path.read_text(encoding="utf-8"))["username"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: it has no username; fetch it anew, or set KAGGLE_USERNAME") from error
    return NOBODY


def _section(step: Path) -> str:
    """What a step's docstring says of it; how it is run stands in the cell below."""
    title, _, rest = ast.get_docstring(ast.parse(step.read_text(encoding="utf-8"))).partition("\n")
    files = rest.partition("\nRun ")[0].strip()
    return f"## {title}\n\n```\n{files}\n```\n"


def _text(source: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": _lines(source)}


def _code(source: str) -> dict:
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": _lines(source)}


def _lines(source: str) -> list[str]:
    return source.strip().splitlines(keepends=True)
