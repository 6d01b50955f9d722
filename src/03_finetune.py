"""Step 03: fine-tune the trained models at full resolution, with batch norm frozen.

Reads   input/<run>/models/<model>.pt, train_clean.csv and the train images
Writes  input/<run>/models/<model>-finetuned.pt, and its loss per epoch in <model>-finetuned.csv
Run     python src/03_finetune.py --recipe sample
"""

from landmark.cli import run_step
from landmark.competition import open_competition
from landmark.fitting import fit_model
from landmark.recipe import Recipe


def main(recipe: Recipe) -> None:
    competition = open_competition(recipe)
    for model in recipe.models:
        if model.loss is None or model.finetune is None:
            print(f"03 finetune: {model.name} is not fine-tuned (it has no loss, or no `finetune`)")
        else:
            fit_model(recipe, competition, model, model.finetune, "03_finetune", finetune=True)


if __name__ == "__main__":
    run_step(main)
