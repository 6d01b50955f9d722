"""Step 02: train the ensemble's models on the cleaned train set, soft then hard; then DELF, if the recipe has it.

Reads   input/<run>/train_clean.csv and the train images
Writes  input/<run>/models/<model>.pt, its epochs in <model>.history.csv, steps in <model>.steps.csv; delf.pt;
        train_images.csv; events for TensorBoard in tensorboard/
Run     python src/02_train.py --recipe sample
        torchrun --nproc_per_node 2 --max-restarts 3 src/02_train.py --recipe sample --model arcface
"""

from landmark.cli import MODELS, run_step
from landmark.competition import open_competition
from landmark.fitting import fit_delf, fit_model
from landmark.ranks import Ranks
from landmark.recipe import Recipe


def main(recipe: Recipe, ranks: Ranks, names: list[str]) -> None:
    competition = ranks.first_then_all(lambda: open_competition(recipe))
    for model in recipe.chosen(names):
        if model.loss:
            fit_model(recipe, competition, model, model.training, "02_train", finetune=False, ranks=ranks)
        elif ranks.first:
            print(f"02 train: {model.name} is not trained (it has no loss)")
    if recipe.delf and (not names or "delf" in names):
        fit_delf(recipe, competition, ranks)


if __name__ == "__main__":
    run_step(main, shared=True, flags=MODELS)
