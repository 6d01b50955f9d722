"""Scores of the recipe's models on the benchmarks Revisited Oxford and Paris, which the user has.

Reads   input/<run>/models/*.pt (those of trained models), FOLDER/<name>/gnd_<name>.pkl and FOLDER/<name>/jpg/*.jpg
Writes  input/<run>/revisited/<name>/ (descriptors), submissions/<run>/revisited.json and revisited.csv
Run     python src/revisited.py --recipe photos --set data=PHOTOGRAPHS --benchmarks FOLDER
"""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

from landmark.cli import run_step
from landmark.competition import write_table
from landmark.descriptor_files import DescriptorFile, EnsembleFiles
from landmark.errors import UserError
from landmark.parts import Parts, clear_parts
from landmark.plan import open_job
from landmark.ranks import ALONE
from landmark.recipe import Recipe
from landmark.revisited import FIGURES, NAMES, Benchmark, evaluate, read_benchmark, truth_path
from landmark.settings import Model
from landmark.store import write_json
from landmark.weights import member_inputs, open_member, whitening_inputs

FLAGS = {
    "--benchmarks": {
        "type": lambda text: Path(text).expanduser().resolve(),
        "required": True,
        "metavar": "FOLDER",
        "help": "has a folder for each benchmark",
    },
    # Not called names, as the models are that a step holds alone.
    "--names": {
        "nargs": "+",
        "default": list(NAMES),
        "dest": "chosen",
        "metavar": "NAME",
        "help": f"only these benchmarks; default: {' '.join(NAMES)}",
    },
}
SPLITS = ("images", "queries")
_TRUTH = "it belongs to the benchmark"


def main(recipe: Recipe, benchmarks: Path, chosen: list[str]) -> None:
    every = [read_benchmark(benchmarks, name) for name in dict.fromkeys(chosen)]
    # Before the first hour of work, so that a missing image is told at once.
    states = {b.name: [b.state(b.images), b.state(b.queries)] for b in every}
    for model in recipe.models:
        describe_benchmarks(recipe, model, every, states)
    figures_path, table_path = (recipe.submissions / f"revisited.{kind}" for kind in ("json", "csv"))
    members = [member_file(recipe, b, split, model) for b in every for split in SPLITS for model in recipe.models]
    job = open_job(
        recipe,
        "revisited",
        reads={truth_path(benchmarks, b.name): _TRUTH for b in every}
        | {path: "run the same command again" for file in members for path in file.paths}
        | whitening_inputs(recipe),
        writes=[figures_path, table_path],
        images=states,
    )
    if job.is_done():
        print(f"revisited: up to date ({figures_path})")
    else:
        job.start()
        write_figures({b.name: score(recipe, b) for b in every}, figures_path, table_path)
        job.finish()
    print_table(json.loads(figures_path.read_text(encoding="utf-8")))


def member_file(recipe: Recipe, benchmark: Benchmark, split: str, model: Model | None = None) -> DescriptorFile:
    """Where a model's descriptors lie, or those of the whole ensemble; split: images or queries."""
    folder = recipe.work / "revisited" / benchmark.name
    return DescriptorFile(folder / model.name if model else folder, split)


def describe_benchmarks(
    recipe: Recipe, model: Model, benchmarks: list[Benchmark], states: dict[str, list[str]]
) -> None:
    """Write one model's descriptors of images and queries, those that are missing or out of date."""
    weights = member_inputs(recipe, model)
    net = None
    for benchmark in benchmarks:
        for split, state in zip(SPLITS, states[benchmark.name], strict=True):
            file = member_file(recipe, benchmark, split, model)
            truth = truth_path(benchmark.folder.parent, benchmark.name)
            job = open_job(
                recipe,
                f"revisited-{model.name}",
                split=f"{benchmark.name}.{split}",
                reads={truth: _TRUTH, **weights},
                writes=file.paths,
                images=state,
            )
            if job.is_done():
                print(f"revisited: {model.name}, {benchmark.name} {split} is up to date")
                continue
            job.start()
            if net is None:
                net = open_member(recipe, model)
            describe(net, recipe, benchmark, split, file, job.key(), f"{model.name} {benchmark.name} {split}")
            job.finish()
            clear_parts(file.vectors_path)


def describe(
    net, recipe: Recipe, benchmark: Benchmark, split: str, file: DescriptorFile, key: str, what: str
) -> None:
    """Write the net's descriptors of the benchmark's images or cropped queries, part by part.

    key: see Parts. Raises UserError for one that cannot be read, since the figures would not be the benchmark's.
    """
    # Imported here, so that a run with nothing to do ends before torch is loaded.
    from landmark.descriptors import extract
    from landmark.devices import pick_device

    device, settings = pick_device(recipe), recipe.extraction
    names, read = {
        "images": (benchmark.images, benchmark.read_image),
        "queries": (benchmark.queries, benchmark.read_query),
    }[split]

    def describe_part(rows: range) -> tuple[np.ndarray, dict]:
        title = f"{what} {rows.start + 1}-{rows.stop} of {len(names)}"
        vectors, bad = extract(
            net, lambda row: read(rows[row]), len(rows), settings, device, recipe.threads, title
        )
        if bad:
            raise UserError(f"{bad[min(bad)]}; the figures want every image of {benchmark.name}, fetch it again")
        return vectors.astype(np.float16), {}

    Parts(file.vectors_path, len(names), settings.shard_images, key).make(ALONE, describe_part)
    file.write_ids(names, {})
    print(f"revisited: {what}: {len(names)} described")


def score(recipe: Recipe, benchmark: Benchmark) -> dict[str, dict[str, float]]:
    """The ensemble's figures, by exact search in the whole database (see landmark.revisited.evaluate)."""
    # Imported here, so that a run with nothing to do ends before faiss and torch are loaded.
    from landmark.devices import search_devices
    from landmark.neighbours import top_k
    from landmark.whitening import read_whitening

    vectors = {}
    for split in SPLITS:
        members = [member_file(recipe, benchmark, split, model) for model in recipe.models]
        joined = member_file(recipe, benchmark, split)
        ensemble = EnsembleFiles(members, [model.weight for model in recipe.models])
        joined.write_joined(ensemble, *map(read_whitening, whitening_inputs(recipe)))
        vectors[split], _ = joined.read()
    images = vectors["images"]
    _, ranks = top_k(vectors["queries"], images, len(images), recipe.process_gib, search_devices(recipe))
    return evaluate(benchmark, ranks)


def write_figures(figures: dict[str, dict[str, dict[str, float]]], path: Path, table: Path) -> None:
    """Write benchmark -> setup -> figure as JSON, and as CSV with a row for each setup.

    A figure that is NaN, since no query of the setup has an image to find, is null there and empty here.
    """
    rows = [(name, setup, *values.values()) for name, of in figures.items() for setup, values in of.items()]
    write_table(table, pd.DataFrame(rows, columns=["benchmark", "setup", *FIGURES]))
    write_json(
        path,
        {
            name: {
                setup: {figure: None if math.isnan(value) else value for figure, value in values.items()}
                for setup, values in of.items()
            }
            for name, of in figures.items()
        },
    )


def print_table(figures: dict[str, dict[str, dict[str, float | None]]]) -> None:
    print(f"{'':18}" + "".join(f"{figure:>9}" for figure in FIGURES))
    for name, of in figures.items():
        for setup in ("easy", "medium", "hard"):
            values = (of[setup][figure] for figure in FIGURES)
            shown = "".join(f"{'–' if value is None else f'{value:.4f}':>9}" for value in values)
            print(f"{name:11}{setup:7}{shown}")


if __name__ == "__main__":
    run_step(main, flags=FLAGS)
