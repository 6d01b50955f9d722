"""One training run of one model, as steps 02 and 03 do it: what it reads, what it writes, when it is done."""

from collections.abc import Callable, Sequence
from pathlib import Path

from landmark.competition import Competition
from landmark.errors import UserError
from landmark.plan import made_by, open_job
from landmark.ranks import Ranks
from landmark.recipe import Recipe
from landmark.settings import Model, Optimisation, weights_files
from landmark.training_log import history_files
from landmark.trainset import Found, hold_out, load_train_set, scan, scanned_images


def model_path(recipe: Recipe, model: Model, finetuned: bool) -> Path:
    """Where a model lies after step 02, or after step 03."""
    return recipe.work / "models" / f"{model.name}{'-finetuned' if finetuned else ''}.pt"


def delf_path(recipe: Recipe) -> Path:
    """Where DELF lies after step 02."""
    return recipe.work / "models" / "delf.pt"


def fit_model(
    recipe: Recipe,
    competition: Competition,
    model: Model,
    settings: Optimisation,
    step: str,
    finetune: bool,
    ranks: Ranks,
) -> None:
    """Train `model` from its backbone's weights or, to fine-tune, go on from step 02 with batch norm frozen."""
    source = model_path(recipe, model, finetuned=False)
    target = model_path(recipe, model, finetune)

    def build(found: Found) -> tuple:
        from landmark.checkpoints import load_model
        from landmark.losses import cosine_head
        from landmark.network import descriptor_net, load_backbone

        shape = model.training
        net = descriptor_net(model)
        classes = len(found.landmark_ids)
        head = cosine_head(shape.dim, classes, model.loss, shape.margin, shape.scale, shape.sample_rate, ranks)
        if finetune:
            if load_model(source, net, head) != found.landmark_ids:
                raise UserError(f"{source}: it has other landmarks than {scanned_images(recipe)}; run step 02")
        else:
            load_backbone(net, model.backbone, model.weights)
        return net, head

    def save(net, head, found, device) -> None:
        from landmark.checkpoints import save_model

        save_model(target, net, head, found.landmark_ids, model, recipe, ranks)

    _fit(
        recipe,
        competition,
        job_name=f"{step}-{model.name}",
        title=f"{step.replace('_', ' ')}: {model.name}",
        reads=weights_files(model.weights) | ({source: made_by("02_train")} if finetune else {}),
        target=target,
        settings=settings,
        build=build,
        save=save,
        ranks=ranks,
        finetune=finetune,
    )


def export_models(recipe: Recipe, models: Sequence[Model]) -> None:
    """Write the final file of each trained model among `models` as ONNX beside it, unless that is up to date."""
    for model in models:
        if not model.loss:
            continue
        finetuned = model.finetune is not None
        source = model_path(recipe, model, finetuned)
        target = source.with_suffix(".onnx")
        reads = {source: made_by("03_finetune" if finetuned else "02_train")}
        job = open_job(recipe, f"03_onnx-{model.name}", reads=reads, writes=[target])
        if job.is_done():
            print(f"03 onnx: {model.name} is up to date ({target})")
            continue
        job.start()
        from landmark.checkpoints import load_model
        from landmark.export import export_onnx
        from landmark.network import descriptor_net

        net = descriptor_net(model)
        load_model(source, net)
        difference = export_onnx(net, target)
        job.finish()
        print(f"03 onnx: {model.name} differs by at most {difference:.1g} from torch -> {target}")


def fit_delf(recipe: Recipe, competition: Competition, ranks: Ranks) -> None:
    """Train DELF's attention on the trunk of a model of step 02, then its PCA on the same images."""
    model, settings = recipe.delf_model, recipe.delf.training
    source = model_path(recipe, model, finetuned=False)
    target = delf_path(recipe)

    def build(found: Found) -> tuple:
        from landmark.delf import DelfNet, SoftmaxHead, load_trunk, take_trunk
        from landmark.network import DescriptorNet, load_backbone

        net = DelfNet(model.backbone, recipe.delf.dim)
        if model.loss:
            load_trunk(net, source)
        else:
            whole = DescriptorNet(model.backbone, 0)
            load_backbone(whole, model.backbone, model.weights)
            take_trunk(net, whole.state_dict(), f"weights {model.weights}")
        return net, SoftmaxHead(len(net.mean), len(found.landmark_ids), ranks)

    def save(net, head, found, device) -> None:
        from landmark.delf import fit_pca, save_delf
        from landmark.images import GROUP_SIZES

        if not ranks.first:
            return
        fit_pca(
            net,
            found.images,
            longest_side=max(map(max, GROUP_SIZES[settings.sizes])),
            seed=recipe.seed,
            device=device,
            workers=recipe.threads,
        )
        save_delf(target, net, recipe)

    _fit(
        recipe,
        competition,
        job_name="02_delf",
        title="02 train: delf",
        reads={source: made_by("02_train")} if model.loss else weights_files(model.weights),
        target=target,
        settings=settings,
        build=build,
        save=save,
        ranks=ranks,
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
    build: Callable[[Found], tuple],
    save: Callable,
    ranks: Ranks,
    finetune: bool = False,
) -> None:
    """Do the job, unless it is done: build(found) -> net and head; train them; save(net, head, found, device).

    Beside the target the rows of its epochs and steps are written (see training_log.py). A descriptor is judged
    after each epoch by images that are held out; DELF is no descriptor of images and learns from all.
    """
    state = ranks.agree(lambda: competition.state("train"))
    scan(recipe, competition, state, ranks)
    job = open_job(
        recipe,
        job_name,
        reads={scanned_images(recipe): made_by("02_train"), **reads},
        writes=[target, *history_files(target)],
        images=state,
    )
    if ranks.agree(job.is_done):
        if ranks.first:
            print(f"{title} is up to date ({target})")
        return
    if ranks.first:
        job.start()
    # Imported here and in `build`, so that a step with nothing to do ends before torch is loaded.
    import torch

    from landmark.checkpoints import clear_checkpoints
    from landmark.devices import pick_device
    from landmark.stepper import Run
    from landmark.training import train
    from landmark.validation import judge_by

    device = pick_device(recipe)
    found = load_train_set(recipe, competition)
    images, judge = found.images, None
    if job_name != "02_delf" and recipe.validation.share:
        rows, queries, gallery = hold_out(images.labels, recipe.validation, recipe.seed)
        # A few images, or two of each label, leave none to hold out.
        if len(queries):
            judge = judge_by(images.subset(queries), images.subset(gallery), settings, device)
            images = images.subset(rows)
    torch.manual_seed(recipe.seed)
    net, head = build(found)
    # Fine-tuning does not repeat the order of images that training began with.
    run = Run(recipe, title, target, job.key(), recipe.seed + finetune, device, ranks)
    net = train(net, head, images, settings, run, frozen_batch_norm=finetune, judge=judge)
    save(net, head, found, device)
    if ranks.first:
        job.finish()
        clear_checkpoints(target)
        print(
            f"{title} on {len(images.labels)} images, {len(found.landmark_ids)} labels, {found.left_out} left out"
            f" -> {target}"
        )
    ranks.wait()
