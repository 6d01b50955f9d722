"""Step 04: the ensemble's descriptors of the train, index and test images.

Reads   input/<run>/models/*.pt and the images
Writes  input/<run>/descriptors/<model>/<split>.npy with ids in <split>.txt, and concatenated in descriptors/
Run     python src/04_extract.py --recipe sample
"""

from landmark.cli import run_step
from landmark.competition import SPLITS, Competition, open_competition
from landmark.descriptor_files import DescriptorFile
from landmark.parts import clear_parts
from landmark.plan import made_by, open_job
from landmark.ranks import ALONE
from landmark.recipe import Recipe
from landmark.settings import Model
from landmark.weights import member_inputs, open_member


def main(recipe: Recipe) -> None:
    competition = open_competition(recipe)
    for model in recipe.models:
        extract_model(recipe, competition, model)
    for split in SPLITS:
        join_models(recipe, split)


def extract_model(recipe: Recipe, competition: Competition, model: Model) -> None:
    weights = member_inputs(recipe, model)
    net = None
    for split in SPLITS:
        file = DescriptorFile(recipe.work / "descriptors" / model.name, split)
        job = open_job(
            recipe,
            f"04_extract-{model.name}",
            split=split,
            reads={competition.table(f"{split}.csv"): "it belongs to the competition's data", **weights},
            writes=file.paths,
            images=competition.state(split),
        )
        if job.is_done():
            print(f"04 extract: {model.name}, {split} is up to date")
            continue
        job.start()
        # Imported here, so that a step with nothing to do ends before torch is loaded.
        from landmark.descriptors import describe_split

        if net is None:
            net = open_member(recipe, model)
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
