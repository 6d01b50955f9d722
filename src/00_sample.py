"""Step 00: render the sample competition, for recipes without data of their own.

Reads   nothing
Writes  the recipe's data folder: images, train.csv, index.csv, test.csv and the solutions, in the GLDv2 layout
Run     python src/00_sample.py --recipe sample
"""

from landmark.cli import run_step
from landmark.errors import UserError
from landmark.recipe import Recipe


def main(recipe: Recipe) -> None:
    if recipe.sample is None:
        print(f"00 sample: nothing to make, the data is {recipe.data}")
        return
    from landmark.sample import is_rendered, render_competition

    if is_rendered(recipe.data, recipe.sample, recipe.seed):
        print(f"00 sample: up to date ({recipe.data})")
        return
    try:
        render_competition(recipe.data, recipe.sample, recipe.seed, recipe.threads)
    except FileExistsError as error:
        raise UserError(f"{error}; for photographs of your own: --recipe photos") from error
    print(f"00 sample: {recipe.sample.landmarks} landmarks -> {recipe.data}")


if __name__ == "__main__":
    run_step(main)
