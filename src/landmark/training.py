"""Training a descriptor: stages of augmentation, the log, and exact continuation after a kill."""

from collections.abc import Callable

import numpy as np
from torch import nn

from landmark.batches import AspectBatches, Loader, TrainImages, check_batch
from landmark.checkpoints import Checkpoints, Position
from landmark.errors import UserError
from landmark.settings import Optimisation
from landmark.stepper import Run, Stepper
from landmark.training_log import TrainingLog
from landmark.trainset import TrainSet


def train(
    net: nn.Module,
    head: nn.Module,
    data: TrainSet,
    settings: Optimisation,
    run: Run,
    *,
    frozen_batch_norm: bool = False,
    judge: Callable[[nn.Module], dict[str, float]] | None = None,
) -> nn.Module:
    """Train net and head in place and return the net that is the result: itself, or its running average.

    net: a DescriptorNet or a DelfNet; head: see Stepper. judge: figures of a net, for each epoch's row of the log.
    If checkpoints with the run's key are there, training goes on from the newest, to the same weights as without
    the break. Raises UserError when the loss or a weight is no longer finite, or a batch is too small to share.
    """
    stages = [stage for stage in settings.stages for _ in range(stage.epochs)]
    batches = AspectBatches(data, settings, run.seed)
    sizes = [[len(batch.rows) for batch in batches.of_epoch(epoch)] for epoch in range(len(stages))]
    check_batch(min(map(min, sizes)), settings.accumulate, run.ranks)
    steps = list(map(len, sizes))
    stepper = Stepper(net, head, data, settings, run, sum(steps), frozen_batch_norm)
    images = TrainImages(data, settings.sizes, [stage.augmentation for stage in stages], run.seed)
    # On a CPU the network itself needs every core; a GPU is fed by loader processes.
    loader = Loader(images, run.recipe.threads if run.device.type == "cuda" else 0, run.device)

    checkpoints = Checkpoints(run.target, run.key, run.recipe, run.ranks)
    position = checkpoints.resume(stepper.parts)
    first = run.ranks.first
    if position.step and first:
        print(f"{run.title}: going on after step {position.step} of {sum(steps)}", flush=True)
    log = TrainingLog(run.target, run.tensorboard, position.step) if first else None

    def stop() -> None:
        raise UserError(_diverged(run, checkpoints, position))

    def save() -> None:
        # The loss is that of the weights before the step: only here it is seen what the last step made of them.
        if not stepper.is_finite():
            run.ranks.agree(stop)
        if first:
            log.flush()
        checkpoints.save(stepper.parts, position)

    while position.epoch < len(stages):
        epoch = position.epoch
        ahead = batches.of_epoch(epoch)[position.step_of_epoch :]
        title = f"{run.title} epoch {epoch + 1}/{len(stages)} {stages[epoch].augmentation}"
        for batch, loss, rate, seconds in stepper.epoch(loader, epoch, ahead, position.step, title):
            position.step += 1
            if not np.isfinite(loss):
                run.ranks.agree(stop)
            position.step_of_epoch += 1
            position.loss_sum += loss * len(batch.rows)
            position.images += len(batch.rows)
            if first:
                log.step(position.step, epoch + 1, loss, rate, len(batch.rows) / seconds)
            if position.step % run.recipe.checkpoint_steps == 0 and position.step_of_epoch < steps[epoch]:
                save()
        row = {
            "epoch": epoch + 1,
            "augmentation": stages[epoch].augmentation,
            "loss": round(position.loss_sum / position.images, 4),
            "learning_rate": stepper.learning_rate,
        }
        if judge and first:
            row |= judge(stepper.result)
        position.history.append(row)
        if first:
            log.epoch(position.history, position.step)
            figures = [f"{name} {value}" for name, value in row.items() if name in ("loss", "top1", "map")]
            print(f"{title}: {', '.join(figures)}", flush=True)
        position.epoch, position.step_of_epoch = epoch + 1, 0
        position.loss_sum, position.images = 0.0, 0
        save()
    if first:
        log.close()
    return stepper.result


def _diverged(run: Run, checkpoints: Checkpoints, position: Position) -> str:
    """What to tell when the loss or the weights are not finite after the position's last step."""
    kept = checkpoints.keep_last_good()
    way_out = "lower learning_rate or head_learning_rate"
    if kept:
        way_out += f"; {kept} is the last good checkpoint, from which a model may start with weights={kept}"
    return f"{run.title}: the loss or the weights are no longer finite in step {position.step}; {way_out}"
