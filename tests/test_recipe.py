"""Recipes: overrides, and errors that name the setting."""

import pytest

from landmark.devices import pick_device
from landmark.errors import UserError
from landmark.recipe import RECIPES, ROOT, load_recipe


@pytest.mark.parametrize("name", sorted(p.stem for p in RECIPES.glob("*.yaml")))
def test_every_recipe_that_is_shipped_loads(name, tmp_path):
    recipe = load_recipe(name, [f"data={tmp_path}"])
    assert recipe.data == tmp_path and recipe.name == name


def test_the_defaults_are_the_winners():
    recipe = load_recipe("gld2019", ["data=/x"])
    model = recipe.models[-2]
    assert recipe.cleaning.neighbours == 1000 and recipe.cleaning.same_label == 100
    assert recipe.cleaning.more_than == 2 and recipe.verification.min_inliers == 30
    assert [(s.augmentation, s.epochs) for s in model.training.stages] == [("soft", 5), ("hard", 7)]
    assert (model.training.margin, model.training.scale, model.training.dim, model.gem_p) == (0.3, 30, 512, 3)
    assert (model.training.sizes, model.finetune.sizes) == ("S2", "L2")
    assert (model.training.learning_rate, model.training.final_learning_rate) == (1e-3, 3e-6)
    assert (model.training.momentum, model.training.weight_decay, model.training.batch_size) == (0.9, 1e-5, 32)
    assert [m.weight for m in recipe.models] == [0.5, 1, 1, 0.5, 1, 1]
    assert [m.loss for m in recipe.models] == ["cosface", "arcface", "arcface", "arcface", "arcface", "cosface"]
    assert [bool(m.finetune) for m in recipe.models] == [True, False, True, True, True, False]
    assert recipe.extraction.scales == [0.75, 1.0, 1.25]
    assert recipe.retrieval.insert_above == 0.6 and recipe.retrieval.vote_neighbours == 3
    assert (recipe.recognition.inlier_cap, recipe.recognition.ban_above) == (70, 30)


def test_overrides_reach_nested_settings_and_models_by_name_or_number():
    recipe = load_recipe("sample", ["seed=7", "models.arcface.training.margin=0.4", "models.0.weight=0.25"])
    assert recipe.seed == 7
    assert recipe.models[1].training.margin == 0.4
    stages = (
        load_recipe("sample", ["models.1.training.stages=[{augmentation: hard, epochs: 7}]"])
        .models[1]
        .training.stages
    )
    assert [(s.augmentation, s.epochs) for s in stages] == [("hard", 7)]
    assert recipe.models[0].weight == 0.25


def test_an_override_reaches_one_model_alone_where_yaml_shares_settings():
    changed = load_recipe("gld2019", ["data=/x", "models.seresnext101-arcface.training.batch_size=4"])
    assert [m.training.batch_size for m in changed.models] == [32, 4, 32, 32, 32, 32]


@pytest.mark.parametrize("name", ["Photos #1", "007", "Trip: Rome", "[x]"])
def test_names_of_folders_are_taken_as_they_are(tmp_path, name):
    assert load_recipe("photos", [f"data={tmp_path / name}"]).data == tmp_path / name


def test_paths_of_weights_mean_the_same_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("sample", ["models.0.weights=w.pt"])
    assert recipe.models[0].weights == str(tmp_path / "w.pt") and recipe.models[1].weights == "imagenet"


def test_other_data_makes_another_run(tmp_path, monkeypatch):
    assert load_recipe("sample").run == "sample"
    assert load_recipe("sample").data == ROOT / "input" / "sample_competition"
    assert load_recipe("photos", [f"data={tmp_path / 'paris'}"]).run == "photos-paris"
    assert load_recipe("photos", [f"data={tmp_path / 'Père Lachaise 2'}"]).run == "photos-P-re-Lachaise-2"
    assert load_recipe("photos", [f"data={tmp_path}", "run=mine"]).run == "mine"
    monkeypatch.chdir(tmp_path)
    assert load_recipe("photos", ["data=paris"]).data == tmp_path / "paris"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("clening.more_than=2", "unknown setting clening; did you mean cleaning?"),
        ("cleaning.more=2", "unknown setting cleaning.more; did you mean more_than?"),
        ("models.1.training.stages=[{augmentation: soft, epoch: 2}]", "stages.0.epoch; did you mean epochs?"),
        ("seed=many", "seed: .*integer.*'many'"),
        ("models.arcface.training.learning_rate=-1", "learning_rate: .*greater than 0"),
        ("verification.model=euclid", "verification.model: .*'homography' or 'affine'.*'euclid'"),
        ("recognition.inlier_floor=30", "recognition: inlier_floor must be below inlier_cap, 30"),
        ("models.1.name=imagenet-finetuned", "must not end in -finetuned"),
        ("models.1.name=imagenet", "two have the same name"),
        ("models.1={name: a, loss: adacos, training: {sample_rate: 0.1}}", "sample_rate: AdaCos takes its scale"),
        ("models.1.training={sample_rate: 0.1, optimizer: adamw}", "sample_rate: goes with optimizer sgd"),
        ("models.1.training.precision=bf32", "precision: .*'fp32', 'bf16' or 'fp16'.*'bf32'"),
        ("models.cosface.weight=1", "nothing called 'cosface'"),
        ("models.arcface.name.x=1", "nothing called 'x'"),
        ("seed", "write it as key=value"),
        ("seed={", "is not a YAML value"),
        ("run=../elsewhere", "run: "),
    ],
)
def test_errors_name_the_setting(override, message):
    with pytest.raises(UserError, match=message):
        load_recipe("sample", [override])


def test_models_are_chosen_by_name_in_the_recipes_order():
    recipe = load_recipe("gld2019", ["data=/x"])
    assert recipe.chosen([]) == recipe.models
    assert recipe.chosen(["seresnext101-cosface", "resnet101-arcface"]) == [recipe.models[2], recipe.models[5]]
    with pytest.raises(UserError, match="--model resnet101-arcfce: .* did you mean resnet101-arcface"):
        recipe.chosen(["resnet101-arcfce"])


def test_errors_of_the_file_name_it(tmp_path):
    with pytest.raises(UserError, match="smaple.*recipes: .*photos.*sample"):
        load_recipe("smaple")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(UserError, match="broken.yaml"):
        load_recipe(str(broken))
    broken.write_text("- a list")
    with pytest.raises(UserError, match="must be settings"):
        load_recipe(str(broken))
    with pytest.raises(UserError, match="no data of its own; add --set data=FOLDER"):
        load_recipe("photos")


def test_each_recipe_has_a_notebook_of_its_own_on_kaggle(tmp_path):
    titles = [load_recipe(name, [f"data={tmp_path}"]).kaggle.title for name in ("sample", "photos", "gld2019")]
    assert titles == ["Landmarks by recipe sample", "Landmarks by recipe photos", "Google Landmarks 2019"]
    named = load_recipe("photos", [f"data={tmp_path}", "kaggle.title=My landmarks"])
    assert named.kaggle.title == "My landmarks"


def test_a_device_that_cannot_compute_is_told_with_the_way_out():
    with pytest.raises(UserError, match="device: .* cannot be used here .*--set device=cpu"):
        pick_device(load_recipe("sample", ["device=cuda:99"]))
