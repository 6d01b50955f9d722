"""Which settings each result depends on, so that nothing is built on results of other settings."""

import json
from pathlib import Path

from landmark.errors import UserError
from landmark.recipe import Recipe
from landmark.store import Job

# Settings of a model that its network is built from.
_NETWORK = {"backbone", "weights", "pooling", "gem_p", "gem_learned", "loss"}


def made_by(step: str) -> str:
    """How to come by a missing file that a step makes."""
    return f"step {step[:2]} makes it: src/{step}.py with the same --recipe and --set"


def job_settings(recipe: Recipe) -> dict[str, dict]:
    """Every job of the recipe, in the order of the steps, with the settings that its result depends on.

    A name is the step's, and behind a hyphen the model's.
    """
    trained = [model for model in recipe.models if model.loss]
    cleaning = recipe.cleaning.model_dump(mode="json")
    representation = cleaning.pop("representation")
    search = {name: cleaning.pop(name) for name in ("neighbours", "same_label")}
    plan = {}
    if recipe.cleaning.looks:
        plan["01_describe"] = representation
        plan["01_neighbours"] = {**search, "search": recipe.search.model_dump(mode="json")}
        geometry = recipe.model_dump(mode="json", include={"local_features", "verification"})
        plan["01_clean"] = {"cleaning": cleaning, **geometry}
    else:
        plan["01_clean"] = {"believes": "published" if recipe.cleaning.published else "labels"}
    plan["02_scan"] = {}
    for step, part in (("02_train", "training"), ("03_finetune", "finetune")):
        for model in trained:
            if getattr(model, part):
                plan[f"{step}-{model.name}"] = {
                    "model": model.model_dump(mode="json", exclude={"name", "weight", "finetune"}),
                    part: getattr(model, part).model_dump(mode="json"),
                    "validation": recipe.validation.model_dump(),
                    "seed": recipe.seed,
                }
        if step == "02_train" and recipe.delf:
            plan["02_delf"] = {
                "delf": recipe.delf.model_dump(mode="json"),
                "model": recipe.delf_model.model_dump(mode="json", include={"backbone", "weights", "loss"}),
                "seed": recipe.seed,
            }
    for model in trained:
        # The model's file says it all. Settings here would let step 04 stumble over a file that it does not read.
        plan[f"03_onnx-{model.name}"] = {}
    for model in recipe.models:
        plan[f"04_extract-{model.name}"] = {
            "model": model.model_dump(mode="json", include=_NETWORK),
            "finetuned": bool(model.loss and model.finetune),
            "extraction": recipe.extraction.model_dump(mode="json"),
        }
    weights = {model.name: model.weight for model in recipe.models}
    if recipe.ensemble.whiten:
        plan["04_whiten"] = {"weights": weights, "dim": recipe.ensemble.whiten}
    plan["04_join"] = {"weights": weights, "whiten": recipe.ensemble.whiten}
    shared = recipe.model_dump(mode="json", include={"gallery", "search"})
    geometry = recipe.model_dump(mode="json", include={"local_features", "verification"})
    recognition = recipe.recognition.model_dump(mode="json")
    ban = {"ban_above": recognition.pop("ban_above")}
    plan["05_retrieve"] = {"retrieval": recipe.retrieval.model_dump(mode="json"), **shared}
    plan["06_verify"] = {"recognition": recognition, **shared, **geometry}
    plan["06_recognize"] = {"recognition": recognition | ban, "gallery": recipe.gallery}
    plan["07_submit"] = {}
    for model in recipe.models:
        plan[f"revisited-{model.name}"] = plan[f"04_extract-{model.name}"]
    plan["revisited"] = plan["04_join"]
    return plan


def open_job(
    recipe: Recipe,
    name: str,
    *,
    split: str = "",
    reads: dict[Path, str],
    writes: list[Path],
    images: object = None,
) -> Job:
    """The job of that name in the plan; `split` tells the jobs of one name apart, `images` is the state of photos.

    Raises UserError when what an earlier step made lies there, but was made with other settings than these.
    """
    plan, done = job_settings(recipe), recipe.work / "done"
    # Steps 05 and 06 both build on 04 and not on each other; the benchmarks, as 04 does, on 03.
    before = "05" if name[:2] == "06" else "04" if name.startswith("revisited") else name[:2]
    for earlier, settings in plan.items():
        # What works on one model does not build on the others.
        of_other_model = "-" in name and "-" in earlier and name.split("-", 1)[1] != earlier.split("-", 1)[1]
        if earlier[:2] < before and not of_other_model:
            _refuse_other_settings(done, earlier, settings)
    if recipe.uses_bootstrap:
        for earlier, settings in job_settings(recipe.bootstrap).items():
            _refuse_other_settings(recipe.bootstrap.work / "done", earlier, settings, " of the bootstrap round")
    return Job(
        done / (f"{name}.{split}.json" if split else f"{name}.json"),
        reads=reads,
        settings={**plan[name], "images": images},
        writes=writes,
    )


def _refuse_other_settings(done: Path, name: str, settings: dict, of: str = "") -> None:
    for record in [done / f"{name}.json", *done.glob(f"{name}.*.json")]:
        try:
            known = json.loads(record.read_text(encoding="utf-8"))["settings"]
        except FileNotFoundError:
            continue
        known.pop("images")
        if known != settings:
            difference = _difference(known, settings)
            raise UserError(
                f"the results of step {name[:2]}{of} were made with other settings: {difference}; run that step"
                " with these first, or bash run.sh without --from and --only"
            )


def _difference(old: dict, new: dict, prefix: str = "") -> str:
    """The first setting that differs, in words."""
    for key in [*old, *new]:
        a, b = old.get(key), new.get(key)
        if a != b:
            if isinstance(a, dict) and isinstance(b, dict):
                return _difference(a, b, f"{prefix}{key}.")
            return f"{prefix}{key} was {a}, is now {b}"
    return "none"
