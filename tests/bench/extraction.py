"""Step 04's extraction, decoding included, beside the pure forward pass over the same shapes.

Run     python tests/bench/extraction.py [--backbone resnet50] [--images 32] [--longest-side 800] [--rounds 2]

Photographs of the mixed aspects of a real collection are rendered and written as JPEGs of 1600 pixels (or taken
from --folder). The whole step reads them, scales them, batches them by shape, describes them at three scales and
averages; the pure pass calls the network alone on tensors of these shapes that lie ready in full batches, on a CPU
in the faster of two ways: one thread to each small batch, or all threads at a batch of 32. They take turns.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from common import peak_gib

from landmark import descriptors
from landmark.devices import pick_precision
from landmark.images import inference_size, read_at_least
from landmark.network import DescriptorNet
from landmark.parallel import cores
from landmark.settings import Scales

ASPECTS = [3 / 4] * 6 + [4 / 3] * 3 + [2 / 3] * 2 + [3 / 2, 1, 9 / 16]  # height / width, about as photographs have


def render(folder: Path, count: int, longest_side: int = 1600) -> list[Path]:
    """Smooth noise with some edges: JPEGs of about the size in bytes that photographs have."""
    rng, paths = np.random.default_rng(0), []
    for number in range(count):
        aspect = ASPECTS[number % len(ASPECTS)]
        height, width = (
            (longest_side, longest_side / aspect) if aspect > 1 else (longest_side * aspect, longest_side)
        )
        small = rng.integers(0, 255, (int(height) // 16, int(width) // 16, 3), np.uint8)
        image = cv2.resize(small, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
        grain = rng.integers(-12, 13, image.shape, np.int16)
        paths.append(folder / f"{number}.jpg")
        cv2.imwrite(str(paths[-1]), np.clip(image + grain, 0, 255).astype(np.uint8))
    return paths


def whole_step(net, paths: list[Path], settings: Scales, device: torch.device) -> float:
    side = settings.longest_side * max(settings.scales)
    began = time.perf_counter()
    descriptors.extract(
        net, lambda row: read_at_least(paths[row], side), len(paths), settings, device, cores(), ""
    )
    return time.perf_counter() - began


def pure_forward(net, shapes: Counter, size: int, threads: int, device: torch.device, precision) -> float:
    """Seconds of the network alone for so many images of each shape, `threads` batches at a time.

    Batches are of `size` images, each shape's last one smaller; one tensor of each size lies ready.
    """
    ready = {}
    for (height, width), count in shapes.items():
        for images in {min(size, count), count % size} - {0}:
            x = torch.rand((images, 3, height, width), device=device)
            ready[height, width, images] = x.contiguous(memory_format=torch.channels_last)
    work = [
        (height, width, min(size, count - start))
        for (height, width), count in shapes.items()
        for start in range(0, count, size)
    ]
    reduced = precision != torch.float32

    def forward(key: tuple[int, int, int]) -> None:
        if threads > 1:
            torch.set_num_threads(1)
        with torch.inference_mode(), torch.autocast(device.type, precision if reduced else None, reduced):
            net(ready[key])

    if threads == 1:
        torch.set_num_threads(cores())
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(forward, work)) if threads > 1 else [forward(key) for key in work]
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50", help="a timm model; its speed does not need its weights")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="JPEGs to take instead of rendered ones")
    parser.add_argument("--longest-side", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    settings = Scales(longest_side=arguments.longest_side)
    torch.manual_seed(0)
    net = DescriptorNet(arguments.backbone, 512).to(device, memory_format=torch.channels_last).eval()
    precision = pick_precision(settings.precision, device)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.folder:
            paths = sorted(arguments.folder.rglob("*.jpg"))[: arguments.images]
        else:
            paths = render(Path(folder), arguments.images)
        sizes = [cv2.imread(str(path)).shape[:2] for path in paths]
        shapes = Counter(
            inference_size(*size, settings.longest_side * s) for size in sizes for s in settings.scales
        )
        ways = {"batches of 32": (settings.batch_size, 1)}
        if device.type == "cpu":
            ways[f"a thread to each batch of {descriptors._CPU_BATCH}"] = (descriptors._CPU_BATCH, cores())
        times = {name: [] for name in ("whole step", *ways)}
        for _ in range(arguments.rounds):
            times["whole step"].append(whole_step(net, paths, settings, device))
            for name, (size, threads) in ways.items():
                times[name].append(pure_forward(net, shapes, size, threads, device, precision))
    views = f"{len(shapes)} shapes, {sum(shapes.values())} views"
    print(f"{arguments.backbone}, {device}, {len(paths)} JPEGs, {views}")
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"  {name:34} {middle:7.2f} s ({spread}), {len(paths) / middle:6.2f} images/s")
    whole = statistics.median(times.pop("whole step"))
    pure = min(statistics.median(seconds) for seconds in times.values())
    print(json.dumps({"forward_share": round(pure / whole, 3), "peak_gib": round(peak_gib(), 2)}))


if __name__ == "__main__":
    main()
