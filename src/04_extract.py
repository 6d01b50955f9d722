"""Step 04: the ensemble's descriptors of the train, index and test images.

Reads   input/<run>/models/*.pt and the images
Writes  input/<run>/descriptors/<model>/<split>.npy with ids in <split>.txt, and concatenated in descriptors/
Run     python src/04_extract.py --recipe sample     (or torchrun --nproc_per_node N src/04_extract.py …)
"""

from pathlib import Path

from landmark.cli import run_step
from landmark.competition import SPLITS, Competition, open_competition
from landmark.descriptor_files import DescriptorFile, EnsembleFiles
from landmark.parts import clear_parts
from landmark.plan import made_by, open_job
from landmark.ranks import Ranks
from landmark.recipe import Recipe
from landmark.settings import Model
from landmark.weights import member_inputs, open_member, whitening_inputs

_LEARNED_FROM = 250_000  # train images at most, from which whitening is learned


def main(recipe: Recipe, ranks: Ranks) -> None:
    competition = ranks.first_then_all(lambda: open_competition(recipe))
    ranks.agree(lambda: competition.require_images(*SPLITS))
    for model in recipe.models:
        extract_model(recipe, competition, model, ranks)
    if ranks.first:
        for whitening in whitening_inputs(recipe):
            learn(recipe, whitening)
        for split in SPLITS:
            join_models(recipe, split)
    ranks.wait()


def extract_model(recipe: Recipe, competition: Competition, model: Model, ranks: Ranks) -> None:
    weights = member_inputs(recipe, model)
    net = None
    for split in SPLITS:
        file = DescriptorFile(recipe.work / "descriptors" / model.name, split)
        state = ranks.agree(lambda split=split: competition.state(split))
        job = open_job(
            recipe,
            f"04_extract-{model.name}",
            split=split,
            reads={competition.table(f"{split}.csv"): "it belongs to the competition's data", **weights},
            writes=file.paths,
            images=state,
        )
        if ranks.agree(job.is_done):
            if ranks.first:
                print(f"04 extract: {model.name}, {split} is up to date")
            continue
        if ranks.first:
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
            ranks=ranks,
            what=f"04 {model.name} {split}",
        )
        if ranks.first:
            job.finish()
            clear_parts(file.vectors_path)
            print(f"04 extract: {model.name}, {split}: {count} images, {len(bad)} left out")
            for reason in list(bad.values())[:5]:
                print(f"  left out: {reason}")


def members_of(recipe: Recipe, split: str) -> tuple[list[DescriptorFile], list[float], dict[Path, str]]:
    """The models' descriptors, their weights, and the files as a job's inputs."""
    members = [DescriptorFile(recipe.work / "descriptors" / model.name, split) for model in recipe.models]
    reads = {path: made_by("04_extract") for member in members for path in member.paths}
    return members, [model.weight for model in recipe.models], reads


def learn(recipe: Recipe, target: Path) -> None:
    """Write the whitening that the train images teach."""
    members, weights, reads = members_of(recipe, "train")
    job = open_job(recipe, "04_whiten", reads=reads, writes=[target])
    if job.is_done():
        return
    job.start()
    from landmark.whitening import learn_whitening

    vectors = EnsembleFiles(members, weights).sample(_LEARNED_FROM)
    learn_whitening(vectors, recipe.ensemble.whiten).write(target)
    job.finish()


def join_models(recipe: Recipe, split: str) -> None:
    members, weights, reads = members_of(recipe, split)
    joined = DescriptorFile(recipe.work / "descriptors", split)
    job = open_job(recipe, "04_join", split=split, reads=reads | whitening_inputs(recipe), writes=joined.paths)
    if job.is_done():
        return
    job.start()
    from landmark.whitening import read_whitening

    joined.write_joined(EnsembleFiles(members, weights), *map(read_whitening, whitening_inputs(recipe)))
    job.finish()
    vectors, _ = joined.read()
    print(f"04 extract: {split}: {len(vectors)} descriptors of {vectors.shape[1]} numbers")


if __name__ == "__main__":
    run_step(main, shared=True)
