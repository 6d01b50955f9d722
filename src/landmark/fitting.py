"""One training run of one model, as steps 02 and 03 do it: what it reads, what it writes, when it is done."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from landmark.competition import Competition, read_table, write_table
from landmark.errors import UserError
from landmark.images import GROUP_SIZES, BadImage, aspect_group, read_image
from landmark.parallel import ordered_map
from landmark.plan import made_by, open_job
from landmark.progress import track
from landmark.recipe import Model, Optimisation, Recipe, weights_files


@dataclass(frozen=True)
class Found:
    """The images of train_clean.csv that can be read, and why the others cannot.

    paths of N images, labels (N,) int64 in 0..C-1, groups (N,) int64 aspect groups, the C landmark ids, and the
    images left out, id -> reason.
    """

    paths: list[Path]
    labels: np.ndarray
    groups: np.ndarray
    landmark_ids: list[int]
    bad: dict[str, str]


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
    source = model_path(recipe, model, finetuned=False)

    def build(classes: int) -> tuple:
        from landmark.losses import CosineHead
        from landmark.network import DescriptorNet, load_backbone
        from landmark.training import load_model

        shape = model.training
        net = DescriptorNet(model.backbone, shape.dim, model.gem_p)
        head = CosineHead(shape.dim, classes, model.loss, shape.margin, shape.scale)
        if finetune:
            load_model(source, net, head)
        else:
            load_backbone(net, model.backbone, model.weights)
        return net, head

    def save(target: Path, net, head, found: Found, device) -> None:
        from landmark.training import save_model

        save_model(target, net, head, found.landmark_ids, recipe)

    _fit(
        recipe,
        competition,
        job_name=f"{step}-{model.name}",
        title=f"{step.replace('_', ' ')}: {model.name}",
        reads=weights_files(model.weights) | ({source: made_by("02_train")} if finetune else {}),
        target=model_path(recipe, model, finetune),
        settings=settings,
        build=build,
        save=save,
        finetune=finetune,
    )


def fit_delf(recipe: Recipe, competition: Competition) -> None:
    """Train DELF's attention on the trunk of a model of step 02, then its PCA on the same images."""
    model, settings = recipe.delf_model, recipe.delf.training
    source = model_path(recipe, model, finetuned=False)

    def build(classes: int) -> tuple:
        from landmark.delf import DelfNet, SoftmaxHead, load_trunk, take_trunk
        from landmark.network import DescriptorNet, load_backbone

        net = DelfNet(model.backbone, recipe.delf.dim)
        if model.loss:
            load_trunk(net, source)
        else:
            whole = DescriptorNet(model.backbone, 0, model.gem_p)
            load_backbone(whole, model.backbone, model.weights)
            take_trunk(net, whole.state_dict(), f"weights {model.weights}")
        return net, SoftmaxHead(len(net.mean), classes)

    def save(target: Path, net, head, found: Found, device) -> None:
        from landmark.delf import fit_pca, save_delf

        longest_side = max(map(max, GROUP_SIZES[settings.sizes]))
        fit_pca(
            net, found.paths, longest_side=longest_side, seed=recipe.seed, device=device, workers=recipe.threads
        )
        save_delf(target, net, recipe)

    _fit(
        recipe,
        competition,
        job_name="02_delf",
        title="02 train: delf",
        reads={source: made_by("02_train")} if model.loss else weights_files(model.weights),
        target=delf_path(recipe),
        settings=settings,
        build=build,
        save=save,
    )


def _fit(
    recipe: Recipe,
    competition: Competition,
    *,
    job_name: str,
    title: str,
    reads: dict[Path, str],
    target: Path,
    settings: Optimisation,
    build: Callable[[int], tuple],
    save: Callable,
    finetune: bool = False,
) -> None:
    """Do the job, unless it is done: build(classes) -> net and head; train them; save(target, net, head, ...).

    Beside the target its loss per epoch (.csv) and the images left out (.skipped.csv) are written.
    """
    clean = recipe.work / "train_clean.csv"
    history, skipped = target.with_suffix(".csv"), target.with_suffix(".skipped.csv")
    half_way = target.with_suffix(".checkpoint.pt")
    job = open_job(
        recipe,
        job_name,
        reads={clean: made_by("01_clean"), **reads},
        writes=[target, history, skipped],
        images=competition.state("train"),
    )
    if job.is_done():
        half_way.unlink(missing_ok=True)
        print(f"{title} is up to date ({target})")
        return
    job.start()
    # Imported here and in `build`, so that a step with nothing to do ends before torch is loaded.
    import torch

    from landmark import training
    from landmark.devices import pick_device

    device = pick_device(recipe)
    found = load_train_set(clean, competition, recipe.threads)
    torch.manual_seed(recipe.seed)
    net, head = build(len(found.landmark_ids))
    rows = training.train(
        net,
        head,
        training.TrainSet(found.paths, found.labels, found.groups),
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
    save(target, net, head, found, device)
    write_table(history, pd.DataFrame(rows))
    write_table(skipped, pd.DataFrame(found.bad.items(), columns=["id", "reason"]))
    job.finish()
    half_way.unlink(missing_ok=True)
    images, labels, left_out = len(found.paths), len(found.landmark_ids), len(found.bad)
    print(f"{title} on {images} images, {labels} labels, {left_out} left out -> {target}")


def load_train_set(clean: Path, competition: Competition, workers: int) -> Found:
    """The images of a train_clean.csv (landmark_id,images) for training.

    Every image is decoded once, so that a broken file is found now and not in the middle of an epoch. Raises
    UserError when fewer than two labels are left.
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
    return Found(paths, labels.astype(np.int64), groups, landmark_ids.tolist(), bad)
