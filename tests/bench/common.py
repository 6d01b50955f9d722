"""What the benchmarks share: photographs with a known truth."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "src"))

import pandas as pd

from landmark.sample import render_competition
from landmark.settings import Sample

MONUMENTS = ROOT.parent / "shared" / "monuments"


@contextmanager
def photographs(data: Path | None) -> Iterator[Path]:
    """A folder in GLDv2 layout with label_noise.csv: the one given, else monuments, else a rendered sample."""
    data = data or (MONUMENTS if MONUMENTS.is_dir() else None)
    if data:
        yield data
        return
    with tempfile.TemporaryDirectory() as folder:
        render_competition(Path(folder) / "sample", Sample(), seed=2019, workers=2)
        yield Path(folder) / "sample"


def train_images(data: Path) -> pd.DataFrame:
    """Columns id, landmark_id, path and wrong (the label is not the image's), by label_noise.csv."""
    frame = pd.read_csv(data / "train.csv", dtype={"id": str})
    frame["path"] = [data / "train" / i[0] / i[1] / i[2] / f"{i}.jpg" for i in frame["id"]]
    frame["wrong"] = frame["id"].isin(pd.read_csv(data / "label_noise.csv", dtype=str)["id"])
    return frame


def peak_gib() -> float:
    """The largest memory this process has held so far (not its parent's, as ru_maxrss may tell)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
