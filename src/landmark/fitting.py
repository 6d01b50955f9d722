"""One training run of one model, as steps 02 and 03 do it: what it reads, what it writes, when it is done."""

from pathlib import Path

import numpy as np
import pandas as pd

from landmark.competition import Competition, read_table, write_table
from landmark.errors import UserError
from landmark.images import BadImage, aspect_group, read_image
from landmark.parallel import ordered_map
from landmark.plan import made_by, open_job
from landmark.progress import track
from landmark.recipe import Model, Optimisation, Recipe, weights_files


def model_path(recipe: Recipe, model: Model, finetuned: bool) -> Path:
    """Where a model lies after step 02, or after step 03."""
    return recipe.work / "models" / f"{model.name}{'-finetuned' if finetuned else ''}.pt"


def delf_path(recipe: Recipe) -> Path:
    """Where DELF lies after step 02."""
    return recipe.work / "models" / "delf.pt"


def fit_model(
    recipe: Recipe, competition: Competition, model: Model, settings: Optimisation, step: str, finetune: bool
) -> None:
    """Train `model` from its backbone's weights or, to fine-tune, go on from step 02 with batch norm frozen."""
    title = f"{step.replace('_', ' ')}: {model.name}"
    clean, target = recipe.work / "train_clean.csv", model_path(recipe, model, finetune)
    history, skipped = target.with_suffix(".csv"), target.with_suffix(".skipped.csv")
    source, half_way = model_path(recipe, model, finetuned=False), target.with_suffix(".checkpoint.pt")
    reads = {clean: made_by("01_clean"), **weights_files(model.weights)}
    if finetune:
        reads[source] = made_by("02_train")
    job = open_job(
        recipe,
        f"{step}-{model.name}",
        reads=reads,
        writes=[target, history, skipped],
        images=competition.state("train"),
    )
    if job.is_done():
        half_way.unlink(missing_ok=True)
        print(f"{title} is up to date ({target})")
        return
    job.start()
    # Imported here, so that a step with nothing to do ends before torch is loaded.
    import torch

    from landmark import training
    from landmark.devices import pick_device
    from landmark.losses import CosineHead
    from landmark.network import DescriptorNet, load_backbone

    device = pick_device(recipe)
    paths, labels, groups, landmark_ids, bad = load_train_set(clean, competition, recipe.threads)
    shape = model.training
    torch.manual_seed(recipe.seed)
    net = DescriptorNet(model.backbone, shape.dim, model.gem_p)
    head = CosineHead(shape.dim, len(landmark_ids), model.loss, shape.margin, shape.scale)
    if finetune:
        training.load_model(source, net, head)
    else:
        load_backbone(net, model.backbone, model.weights)
    rows = training.train(
        net,
        head,
        training.TrainSet(paths, labels, groups),
        settings,
        frozen_batch_norm=finetune,
        # Fine-tuning does not repeat the order of images that training began with.
        seed=recipe.seed + finetune,
        device=device,
        workers=recipe.threads,
        checkpoint=half_way,
        key=job.key(),
        what=title,
    )
    training.save_model(target, net, head, landmark_ids, recipe)
    write_table(history, pd.DataFrame(rows))
    write_table(skipped, pd.DataFrame(bad.items(), columns=["id", "reason"]))
    job.finish()
    half_way.unlink(missing_ok=True)
    print(f"{title} on {len(paths)} images, {len(landmark_ids)} labels, {len(bad)} left out -> {target}")


def load_train_set(clean: Path, competition: Competition, workers: int) -> tuple:
    """The images of a train_clean.csv (landmark_id,images) for training.

    Returns paths (N), labels (N,) int64 in 0..C-1, aspect groups (N,) int64, landmark ids (C), and the images
    left out, id -> reason. Every image is decoded once, so that a broken file is found now and not in the
    middle of an epoch. Raises UserError when fewer than two labels are left.
    """
    table = read_table(clean, ["landmark_id", "images"])
    entries = [(int(label), i) for label, images in table.itertuples(index=False) for i in images.split()]

    def group_of(entry: tuple[int, str]) -> int | str:
        try:
            height, width = read_image(competition.path("train", entry[1])).shape[:2]
        except BadImage as error:
            return str(error)
        return aspect_group(height, width)

    found = list(track(ordered_map(group_of, entries, workers), len(entries), "checking images", unit="images"))
    bad = {i: why for (_, i), why in zip(entries, found, strict=True) if isinstance(why, str)}
    good = [(label, i, g) for (label, i), g in zip(entries, found, strict=True) if not isinstance(g, str)]
    landmark_ids, labels = np.unique(np.array([label for label, _, _ in good], np.int64), return_inverse=True)
    if len(landmark_ids) < 2:
        raise UserError(
            f"{clean}: {len(landmark_ids)} landmark(s) were kept; training needs two or more"
            " (--set cleaning.more_than=-1 keeps every image)"
        )
    paths = [competition.path("train", i) for _, i, _ in good]
    groups = np.array([g for _, _, g in good], np.int64)
    return paths, labels.astype(np.int64), groups, landmark_ids.tolist(), bad
