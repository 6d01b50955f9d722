"""Step 03: fine-tune the trained models at full resolution, with batch norm frozen.

Reads   input/<run>/models/<model>.pt, train_clean.csv and the train images
Writes  input/<run>/models/<model>-finetuned.pt, with its epochs and steps as step 02 does;
        with --onnx each trained model's final file also as .onnx, for use outside the kit
Run     python src/03_finetune.py --recipe sample
        torchrun --nproc_per_node 2 --max-restarts 3 src/03_finetune.py --recipe sample --model arcface
"""

from landmark.cli import MODELS, run_step
from landmark.competition import open_competition
from landmark.fitting import export_models, fit_model
from landmark.ranks import Ranks
from landmark.recipe import Recipe

ONNX = {
    "--onnx": {
        "action": "store_true",
        "help": "also write the models as ONNX files (needs pip install onnx onnxscript onnxruntime)",
    }
}


def main(recipe: Recipe, ranks: Ranks, names: list[str], onnx: bool) -> None:
    competition = ranks.first_then_all(lambda: open_competition(recipe))
    models = recipe.chosen(names)
    for model in models:
        if model.loss and model.finetune:
            fit_model(recipe, competition, model, model.finetune, "03_finetune", finetune=True, ranks=ranks)
        elif ranks.first:
            print(f"03 finetune: {model.name} is not fine-tuned (it has no loss, or no `finetune`)")
    if onnx:
        ranks.agree(lambda: export_models(recipe, models))


if __name__ == "__main__":
    run_step(main, shared=True, flags=MODELS | ONNX)
