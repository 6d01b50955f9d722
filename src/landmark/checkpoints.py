"""Files from which a killed training goes on, and the finished model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from landmark.errors import UserError
from landmark.losses import CosineHead
from landmark.network import DescriptorNet, load_torch
from landmark.ranks import Ranks
from landmark.recipe import Recipe
from landmark.settings import Model
from landmark.store import atomic_path, keyed_folder

_KEPT = 2


@dataclass
class Position:
    """How far a training is: steps done in all, epochs done, steps done of the epoch it is in, and what came out.

    loss_sum, images: of the epoch it is in. history: one row per epoch that is done.
    """

    step: int = 0
    epoch: int = 0
    step_of_epoch: int = 0
    loss_sum: float = 0.0
    images: int = 0
    history: list[dict] = field(default_factory=list)


class Checkpoints:
    """The newest checkpoints of one training, in a folder of their own; older ones go.

    key: of settings and data; checkpoints of another key are never gone on from. Everything that the next step
    depends on is in a checkpoint, or follows from seed and position alone, as the order of the images, their
    augmentation and the numbers that layers draw do.
    """

    def __init__(self, target: Path, key: str, recipe: Recipe, ranks: Ranks):
        self.target, self.key, self.ranks = target, key, ranks
        self._recipe = recipe.model_dump_json()

    def save(self, parts: dict, position: Position) -> None:
        """Write the state of all parts; every process calls it.

        parts: net, head, optimizer and others that have a state_dict.
        """
        states = {name: part.state_dict() for name, part in parts.items()}
        if isinstance(parts["head"], CosineHead):
            _of_the_head(states, parts, parts["head"].joined)
        if self.ranks.first:
            folder = keyed_folder(_folder(self.target), self.key)
            words = {"recipe": self._recipe, "position": json.dumps(asdict(position))}
            with atomic_path(folder / f"step-{position.step:09d}.pt") as part:
                torch.save(states | words, part)
            for old in self._files()[:-_KEPT]:
                old.unlink()
        self.ranks.wait()

    def resume(self, parts: dict) -> Position:
        """Bring the parts to the newest state there is, and say how far that is; every process calls it."""
        path = self.ranks.agree(self._newest)
        if path is None:
            return Position()
        saved = load_torch(path)
        if isinstance(parts["head"], CosineHead):
            _of_the_head(saved, parts, parts["head"].parted)
        for name, part in parts.items():
            # A scaler that is not needed has no state; on the next device it may be needed.
            if saved[name]:
                part.load_state_dict(saved[name])
        return Position(**json.loads(saved["position"]))

    def keep_last_good(self) -> Path | None:
        """Put the newest checkpoint beside the target, where it stays; None when there is none."""
        newest = self._newest()
        if newest is None:
            return None
        kept = self.target.with_suffix(".last-good.pt")
        with atomic_path(kept) as part:
            shutil.copyfile(newest, part)
        return kept

    def _files(self) -> list[Path]:
        return sorted((_folder(self.target) / self.key).glob("step-*.pt"))

    def _newest(self) -> Path | None:
        for path in reversed(self._files()):
            try:
                load_torch(path)
            except UserError as error:
                print(f"passing over a checkpoint: {error}", flush=True)
            else:
                return path
        return None


def _of_the_head(states: dict, parts: dict, change: Callable[[dict], dict]) -> None:
    """Change, in place, the states with a row for each label: the head's, and what the optimizer has of it."""
    states["head"] = change(states["head"])
    learned = [p for group in parts["optimizer"].param_groups for p in group["params"]]
    for number, parameter in enumerate(learned):
        if parameter is parts["head"].centres and number in states["optimizer"]["state"]:
            states["optimizer"]["state"][number] = change(states["optimizer"]["state"][number])


def clear_checkpoints(target: Path) -> None:
    """Remove the checkpoints of a training, once its result is recorded as done."""
    shutil.rmtree(_folder(target), ignore_errors=True)


def _folder(target: Path) -> Path:
    return target.parent / f"{target.stem}.checkpoints"


def save_model(
    path: Path,
    net: DescriptorNet,
    head: CosineHead,
    landmark_ids: list[int],
    model: Model,
    recipe: Recipe,
    ranks: Ranks,
) -> None:
    """Write a finished model: weights, class centres, their landmark ids, its settings and the recipe as JSON.

    Every process calls it; the first writes.
    """
    centres = head.joined({"centres": head.centres})["centres"]
    if not ranks.first:
        return
    with atomic_path(path) as part:
        torch.save(
            {
                "net": net.state_dict(),
                "head": {"centres": centres.detach(), "scale": head.scale},
                "landmark_ids": torch.tensor(landmark_ids),
                "model": model.model_dump_json(),
                "recipe": recipe.model_dump_json(),
            },
            part,
        )


def load_model(path: Path, net: DescriptorNet, head: CosineHead | None = None) -> list[int]:
    """Load a finished model into net (and head); return the landmark id of each class centre.

    Raises UserError when the file does not fit the recipe's network.
    """
    saved = load_torch(path)
    try:
        net.load_state_dict(saved["net"])
        if head is not None:
            _load_head(head, saved["head"])
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"{path}: the weights do not fit the recipe's model: {str(error).splitlines()[0]}"
        ) from None
    return saved["landmark_ids"].tolist()


def _load_head(head: CosineHead, saved: dict[str, torch.Tensor]) -> None:
    whole = (sum(head.counts), head.centres.shape[1])
    if saved["centres"].shape != whole:
        raise RuntimeError(f"{tuple(saved['centres'].shape)} class centres where {whole} are wanted")
    with torch.no_grad():
        head.centres.copy_(head.mine(saved["centres"]))
        head.scale.copy_(saved["scale"])
