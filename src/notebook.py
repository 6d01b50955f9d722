"""The solution as a Kaggle notebook, and as the dataset that it needs there.

Reads   the recipe, the source, and of a trained recipe what steps 04 to 06 want of input/<run>/
Writes  submissions/notebook/: the notebook, kernel-metadata.json, and in dataset/ the folder to upload
Run     bash run.sh notebook --recipe sample
        python src/notebook.py --recipe gld2019 --task recognition
"""

import json
from pathlib import Path

from landmark.cli import errors_told, recipe_parser
from landmark.judging import TASKS
from landmark.kaggle_kit import files_elsewhere, missing_models, write_kit
from landmark.notebook import NOBODY, dataset_metadata, kaggle_user, make_notebook, notebook_metadata
from landmark.recipe import ROOT, load_recipe
from landmark.store import write_json

STEPS = sorted(Path(__file__).parent.glob("0[0-7]_*.py"))


def main(name: str, overrides: list[str], task: str | None) -> None:
    """name, overrides: of the recipe, as the steps' command lines have them; task: None for both competitions."""
    recipe = load_recipe(name, overrides)
    folder, user, lacking = ROOT / "submissions" / "notebook", kaggle_user(), missing_models(recipe)
    # Where data lies and what its run is called differ on Kaggle.
    settings = [o for o in overrides if o.partition("=")[0] not in ("data", "run")]
    metadata = notebook_metadata(recipe.kaggle, user, [task] if task else list(TASKS))
    notebook = folder / metadata["code_file"]
    about = dataset_metadata(recipe.kaggle, user)
    unfetched = write_kit(folder / "dataset", recipe, name, lacking is None, about)
    write_json(notebook, make_notebook(recipe, settings, task or next(iter(TASKS)), STEPS))
    remove_earlier(folder, notebook)
    write_json(folder / "kernel-metadata.json", metadata)
    print(f"notebook: {notebook}")
    if lacking:
        print(f"no trained models come along, so it will train ({lacking}; bash run.sh makes them all)")
    for why in dict.fromkeys(unfetched):
        print(f"as it is it cannot run without internet: {why}")
    for path in files_elsewhere(recipe, lacking is None):
        print(f"{path} does not come along; attach it on Kaggle and name it there in SET")
    if user == NOBODY:
        print(f"set KAGGLE_USERNAME to your name on Kaggle and run this again; {NOBODY} stands in its place")
    dataset = folder / "dataset"
    print(
        "to upload:\n"
        f"  pip download --no-deps --dest {dataset}/wheels --requirement {dataset}/wheels.txt\n"
        f"  kaggle datasets create -p {dataset} --dir-mode zip\n"
        f'  kaggle datasets version -p {dataset} --dir-mode zip -m "new"    (once it is there)\n'
        f"  kaggle kernels push -p {folder}"
    )


def remove_earlier(folder: Path, notebook: Path) -> None:
    """Remove the notebook that was written there before, if it has another name; a user's own ones stay."""
    about = folder / "kernel-metadata.json"
    if about.exists():
        earlier = folder / json.loads(about.read_text(encoding="utf-8"))["code_file"]
        if earlier != notebook:
            earlier.unlink(missing_ok=True)


if __name__ == "__main__":
    parser = recipe_parser(__doc__)
    parser.add_argument("--task", choices=list(TASKS), help="the competition that it enters; default: attach both")
    given = parser.parse_args()
    with errors_told():
        main(given.recipe, given.set, given.task)
