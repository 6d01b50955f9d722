"""What a training shows of itself: a CSV of its steps, one of its epochs, and TensorBoard."""

import csv
import os
import shutil
from pathlib import Path

import pandas as pd

from landmark.competition import write_table
from landmark.store import atomic_path

_STEP_COLUMNS = ["step", "epoch", "loss", "learning_rate"]


def history_files(target: Path) -> tuple[Path, Path]:
    """Where the rows of a model's epochs and steps lie."""
    return target.with_suffix(".history.csv"), target.with_suffix(".steps.csv")


class TrainingLog:
    """Written while training goes on, and taken up again after `done` steps: later ones are forgotten then.

    tensorboard: a folder for its events.
    """

    def __init__(self, target: Path, tensorboard: Path, done: int):
        from torch.utils.tensorboard import SummaryWriter

        self._history, steps = history_files(target)
        known = steps.read_text(encoding="utf-8").splitlines()[1:] if steps.exists() else []
        with atomic_path(steps) as part:
            lines = [",".join(_STEP_COLUMNS), *known[:done]]
            part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        self._file = steps.open("a", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file, lineterminator="\n")
        if not done:
            shutil.rmtree(tensorboard, ignore_errors=True)
        self._events = SummaryWriter(tensorboard, purge_step=done + 1)

    def step(self, step: int, epoch: int, loss: float, learning_rate: float, images_per_second: float) -> None:
        """Note one step; step and epoch count from 1."""
        self._rows.writerow([step, epoch, loss, learning_rate])
        for name, value in (("loss", loss), ("learning_rate", learning_rate), ("images/s", images_per_second)):
            self._events.add_scalar(f"step/{name}", value, step)

    def epoch(self, history: list[dict], step: int) -> None:
        """Note the epochs that are done, of which the last one ended with this step."""
        write_table(self._history, pd.DataFrame(history))
        for name, value in history[-1].items():
            if isinstance(value, float):
                self._events.add_scalar(f"epoch/{name}", value, step)
        self.flush()

    def flush(self) -> None:
        """Bring the rows to disk, so that a checkpoint never knows of more steps than they do."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._events.flush()

    def close(self) -> None:
        self.flush()
        self._file.close()
        self._events.close()
