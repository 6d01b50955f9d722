"""Step 04: the ensemble's descriptors of the train, index and test images.

Reads   input/<run>/models/*.pt and the images
Writes  input/<run>/descriptors/<model>/<split>.npy with ids in <split>.txt, and concatenated in descriptors/
Run     python src/04_extract.py --recipe sample
"""

from pathlib import Path

from landmark.cli import run_step
from landmark.competition import SPLITS, Competition, open_competition
from landmark.descriptor_files import DescriptorFile, concatenate
from landmark.errors import UserError
from landmark.fitting import model_path
from landmark.recipe import Model, Recipe
from landmark.store import Job


def main(recipe: Recipe) -> None:
    competition = open_competition(recipe)
    for model in recipe.models:
        extract_model(recipe, competition, model)
    for split in SPLITS:
        join_models(recipe, split)


def checkpoint_of(recipe: Recipe, model: Model) -> dict[Path, str]:
    """The trained model's file, and how to make it; nothing for a model that is not trained."""
    if model.loss is None:
        return {}
    step = (
        "step 03 makes it: python src/03_finetune.py"
        if model.finetune
        else "step 02 makes it: python src/02_train.py"
    )
    return {model_path(recipe, model, finetuned=model.finetune is not None): step}


def extract_model(recipe: Recipe, competition: Competition, model: Model) -> None:
    checkpoint = checkpoint_of(recipe, model)
    net = None
    for split in SPLITS:
        file = DescriptorFile(recipe.work / "descriptors" / model.name, split)
        job = Job(
            recipe.work / "done" / f"04_extract-{model.name}-{split}.json",
            reads={competition.table(f"{split}.csv"): "it belongs to the competition's data", **checkpoint},
            settings={
                "model": model.model_dump(include={"backbone", "weights", "gem_p", "loss"}),
                "extraction": recipe.extraction.model_dump(),
                "images": competition.state(split),
            },
            writes=file.paths,
        )
        if job.is_done():
            print(f"04 extract: {model.name}, {split} is up to date")
            continue
        job.start()
        # Imported here, so that a step with nothing to do ends before torch is loaded.
        from landmark.descriptors import describe_split
        from landmark.network import DescriptorNet, load_backbone
        from landmark.training import load_model

        if net is None:
            net = DescriptorNet(model.backbone, model.training.dim if model.loss else 0, model.gem_p)
            if checkpoint:
                load_model(next(iter(checkpoint)), net)
            else:
                load_backbone(net, model.backbone, model.weights)
        vectors, ids, bad = describe_split(
            net, competition, split, recipe.extraction, recipe, f"04 {model.name} {split}"
        )
        file.write(vectors, ids, bad)
        job.finish()
        print(f"04 extract: {model.name}, {split}: {len(ids)} images, {len(bad)} left out")


def join_models(recipe: Recipe, split: str) -> None:
    folder = recipe.work / "descriptors"
    members = [DescriptorFile(folder / model.name, split) for model in recipe.models]
    weights = [model.weight for model in recipe.models]
    joined = DescriptorFile(folder, split)
    job = Job(
        recipe.work / "done" / f"04_extract-{split}.json",
        reads={path: "step 04 makes it: python src/04_extract.py" for m in members for path in m.paths},
        settings={"weights": weights, "models": [model.name for model in recipe.models]},
        writes=joined.paths,
    )
    if job.is_done():
        return
    job.start()
    vectors, ids = zip(*(member.read() for member in members), strict=True)
    if any(other != ids[0] for other in ids):
        raise UserError(f"{folder}: the models do not describe the same {split} images; delete it and run step 04")
    joined.write(concatenate(list(vectors), weights), ids[0], bad={})
    job.finish()
    print(f"04 extract: {split}: {len(ids[0])} descriptors of {sum(v.shape[1] for v in vectors)} numbers")


if __name__ == "__main__":
    run_step(main)
