"""Where the weights lie that step 01 starts from and that images are described with, and their networks."""

from pathlib import Path

from landmark.fitting import delf_path, model_path
from landmark.plan import made_by
from landmark.recipe import Recipe
from landmark.settings import Model, weights_files

_MAKER = made_by("02_train") + " --round bootstrap"


def representation_inputs(recipe: Recipe) -> dict[Path, str]:
    """The file with the first representation's weights, if it is one, and how to come by it."""
    weights = recipe.cleaning.representation.weights
    if weights != "bootstrap":
        return weights_files(weights)
    model = recipe.first_model
    return {model_path(recipe.bootstrap, model, finetuned=False): _MAKER}


def open_representation(recipe: Recipe):
    """The network of the first representation, with its weights.

    Raises UserError when the weights do not fit the backbone that the recipe names.
    """
    import torch

    from landmark.checkpoints import load_model
    from landmark.network import DescriptorNet, descriptor_net, load_backbone, load_torch

    # With weights: none every process draws the same ones.
    torch.manual_seed(recipe.seed)
    source = recipe.cleaning.representation
    weights = next(map(str, representation_inputs(recipe)), source.weights)
    if source.weights == "bootstrap":
        net = descriptor_net(recipe.first_model)
        load_model(Path(weights), net)
        return net
    saved = {} if weights in ("imagenet", "none") else load_torch(Path(weights))
    if "model" in saved:
        # That step 02 saved: it tells its backbone, its pooling and its neck.
        net = descriptor_net(Model.model_validate_json(saved["model"]))
        load_model(Path(weights), net)
    else:
        net = DescriptorNet(source.backbone, 0, source.gem_p)
        load_backbone(net, source.backbone, weights)
    return net


def member_inputs(recipe: Recipe, model: Model) -> dict[Path, str]:
    """The file with the weights of a member of the ensemble, if it is one, and how to come by it."""
    if model.loss is None:
        return weights_files(model.weights)
    finetuned = model.finetune is not None
    return {model_path(recipe, model, finetuned): made_by("03_finetune" if finetuned else "02_train")}


def open_member(recipe: Recipe, model: Model):
    """The network of a member of the ensemble as its last step left it.

    Raises UserError when the weights are not to be had or do not fit the recipe's network.
    """
    import torch

    from landmark.checkpoints import load_model
    from landmark.network import descriptor_net, load_backbone

    # With `weights: none` it keeps what it is made with, which has to be the same in every process.
    torch.manual_seed(recipe.seed)
    net = descriptor_net(model)
    if model.loss:
        load_model(next(iter(member_inputs(recipe, model))), net)
    else:
        load_backbone(net, model.backbone, model.weights)
    return net


def whitening_inputs(recipe: Recipe) -> dict[Path, str]:
    """The file with the ensemble's whitening, where the recipe has one, and how to come by it."""
    return {recipe.work / "descriptors" / "whitening.npz": made_by("04_extract")} if recipe.ensemble.whiten else {}


def delf_weights(recipe: Recipe) -> Path | None:
    """The file with DELF's weights, where the recipe's local features are DELF."""
    local = recipe.local_features
    if local.features != "delf":
        return None
    return delf_path(recipe.bootstrap) if local.weights == "bootstrap" else Path(local.weights)


def delf_inputs(recipe: Recipe) -> dict[Path, str]:
    """The same as a job's input, with how to come by it."""
    path = delf_weights(recipe)
    if path is None:
        return {}
    made = recipe.local_features.weights == "bootstrap"
    return {path: _MAKER if made else "local_features.weights is the path of a DELF that step 02 trained"}
