"""Step 04: the ensemble's descriptors of the train, index and test images.

Reads   input/<run>/models/*.pt and the images
Writes  input/<run>/descriptors/<model>/<split>.npy with ids in <split>.txt, and concatenated in descriptors/
Run     python src/04_extract.py --recipe sample
"""

from pathlib import Path

from landmark.cli import run_step
from landmark.competition import SPLITS, Competition, open_competition
from landmark.descriptor_files import DescriptorFile
from landmark.fitting import model_path
from landmark.parts import clear_parts
from landmark.plan import made_by, open_job
from landmark.ranks import ALONE
from landmark.recipe import Recipe
from landmark.settings import Model, weights_files


def main(recipe: Recipe) -> None:
    competition = open_competition(recipe)
    for model in recipe.models:
        extract_model(recipe, competition, model)
    for split in SPLITS:
        join_models(recipe, split)


def checkpoint_of(recipe: Recipe, model: Model) -> dict[Path, str]:
    """The file with the model's weights, and how to come by it; nothing for ImageNet's or none."""
    if model.loss is None:
        return weights_files(model.weights)
    finetuned = model.finetune is not None
    return {model_path(recipe, model, finetuned): made_by("03_finetune" if finetuned else "02_train")}


def extract_model(recipe: Recipe, competition: Competition, model: Model) -> None:
    checkpoint = checkpoint_of(recipe, model)
    net = None
    for split in SPLITS:
        file = DescriptorFile(recipe.work / "descriptors" / model.name, split)
        job = open_job(
            recipe,
            f"04_extract-{model.name}",
            split=split,
            reads={competition.table(f"{split}.csv"): "it belongs to the competition's data", **checkpoint},
            writes=file.paths,
            images=competition.state(split),
        )
        if job.is_done():
            print(f"04 extract: {model.name}, {split} is up to date")
            continue
        job.start()
        # Imported here, so that a step with nothing to do ends before torch is loaded.
        from landmark.checkpoints import load_model
        from landmark.descriptors import describe_split
        from landmark.network import descriptor_net, load_backbone

        if net is None:
            net = descriptor_net(model)
            if model.loss:
                load_model(next(iter(checkpoint)), net)
            else:
                load_backbone(net, model.backbone, model.weights)
        count, bad = describe_split(
            net,
            competition,
            split,
            recipe.extraction,
            recipe,
            file,
            key=job.key(),
            ranks=ALONE,
            what=f"04 {model.name} {split}",
        )
        job.finish()
        clear_parts(file.vectors_path)
        print(f"04 extract: {model.name}, {split}: {count} images, {len(bad)} left out")
        for reason in list(bad.values())[:5]:
            print(f"  left out: {reason}")


def join_models(recipe: Recipe, split: str) -> None:
    folder = recipe.work / "descriptors"
    members = [DescriptorFile(folder / model.name, split) for model in recipe.models]
    weights = [model.weight for model in recipe.models]
    joined = DescriptorFile(folder, split)
    job = open_job(
        recipe,
        "04_join",
        split=split,
        reads={path: made_by("04_extract") for m in members for path in m.paths},
        writes=joined.paths,
    )
    if job.is_done():
        return
    job.start()
    joined.write_joined(members, weights)
    job.finish()
    vectors, _ = joined.read()
    print(f"04 extract: {split}: {len(vectors)} descriptors of {vectors.shape[1]} numbers")


if __name__ == "__main__":
    run_step(main)
