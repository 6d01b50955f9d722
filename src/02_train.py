"""Step 02: train the ensemble's models on the cleaned train set, soft then hard; then DELF, if the recipe has it.

Reads   input/<run>/train_clean.csv and the train images
Writes  input/<run>/models/<model>.pt, and its loss per epoch in <model>.csv; delf.pt alike
Run     python src/02_train.py --recipe sample
"""

from landmark.cli import run_step
from landmark.competition import open_competition
from landmark.fitting import fit_delf, fit_model
from landmark.recipe import Recipe


def main(recipe: Recipe) -> None:
    competition = open_competition(recipe)
    for model in recipe.models:
        if model.loss is None:
            print(f"02 train: {model.name} is not trained (it has no loss)")
        else:
            fit_model(recipe, competition, model, model.training, "02_train", finetune=False)
    if recipe.delf:
        fit_delf(recipe, competition)


if __name__ == "__main__":
    run_step(main)
