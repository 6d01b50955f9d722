"""A training step: beside its images in memory, a plain float32 loop, and the machine's rate; and the head alone.

    python tests/bench/training.py                                        4 minutes on 2 free cores
    python tests/bench/training.py --parts loader,speed --compile         what to set for precision and compile

The step is that of landmark.training, with 1,000 labels, over photographs made square. Parts:

loader   steps fed by the loader (decoding, resizing, augmentation `hard`) beside steps over images in memory
speed    every precision that the device computes fast, beside the loop that one writes first: contiguous float32,
         no autocast, ArcFace as in its formula
head     time and memory of the head alone, over all labels and over a sample of them
rate     the share of the measured rate of matrix products that the step over images in memory reaches; on a GPU
         that of ResNet-101 over images of 448 x 448
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count, cycle, islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import photographs, train_images
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from landmark.batches import AspectBatches, Batch, Loader, TrainImages
from landmark.devices import pick_device, pick_precision
from landmark.images import read_image
from landmark.losses import cosine_head
from landmark.network import DescriptorNet, descriptor_net
from landmark.ranks import ALONE
from landmark.recipe import load_recipe
from landmark.settings import Model, Training
from landmark.stepper import Run, Stepper, make_optimizer
from landmark.trainset import TrainSet

PARTS = ("loader", "speed", "head", "rate")
CLASSES, SEED = 1_000, 2019
# More than are done, so that annealing does not come to its end.
ANNEALED = 100_000
SAMPLE_RATE = 0.1
# What the rate is measured with on a GPU: of the winners' networks, at their size.
GPU_BACKBONE, GPU_SIDE = "resnet101", 448
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}

# A way to do a step: what it returns does one, and is made anew for each block of steps.
Kind = Callable[[], Callable[[], None]]


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def alternate(kinds: dict[str, Kind], steps: int, rounds: int, device: torch.device) -> dict[str, float]:
    """The median seconds of a step of each kind, over blocks of steps in turn; a first round warms up."""
    spent = {name: [] for name in kinds}
    for _ in range(rounds + 1):
        for name, prepare in kinds.items():
            step = prepare()
            begin = clock(device)
            for _ in range(steps):
                step()
            spent[name].append((clock(device) - begin) / steps)
    return {name: statistics.median(seconds[1:]) for name, seconds in spent.items()}


class OurStep:
    """The project's step with a network of random weights."""

    def __init__(self, backbone: str, data: TrainSet, run: Run, settings: Training):
        model = Model(name="bench", backbone=backbone, weights="none", training=settings)
        torch.manual_seed(SEED)
        head = cosine_head(settings.dim, CLASSES, model.loss, settings.margin, settings.scale, None, ALONE)
        self.stepper = Stepper(descriptor_net(model), head, data, settings, run, ANNEALED, frozen_batch_norm=False)
        self.numbers = count()

    def over(self, batch: Batch, images: Iterator[torch.Tensor]) -> None:
        self.stepper.step(next(self.numbers), batch, images)

    def in_memory(self, batch: Batch, images: torch.Tensor) -> Kind:
        return lambda: lambda: self.over(batch, iter([images]))

    def flops(self, batch: Batch, images: torch.Tensor) -> float:
        """Of a step's forward and backward: those of two images, since all but the labels' part is so shared."""
        with FlopCounterMode(display=False) as counter:
            self.over(Batch(batch.group, batch.rows[:2]), iter([images[:2]]))
        return counter.get_total_flops() * len(batch.rows) / 2


class PlainStep:
    """The loop that one writes first; nothing of it is the project's but the network."""

    def __init__(self, backbone: str, labels: torch.Tensor, images: torch.Tensor):
        settings = Training()
        torch.manual_seed(SEED)
        self.net = DescriptorNet(backbone, settings.dim).to(images.device)
        self.centres = nn.Parameter(torch.empty(CLASSES, settings.dim, device=images.device))
        nn.init.xavier_uniform_(self.centres)
        parameters = [*self.net.parameters(), self.centres]
        rate, momentum, decay = settings.learning_rate, settings.momentum, settings.weight_decay
        self.optimizer = torch.optim.SGD(parameters, rate, momentum, weight_decay=decay)
        self.mean, self.deviation = (v.to(images.device)[:, None, None] for v in self.net.normalisation())
        self.margin, self.scale = settings.margin, settings.scale
        self.labels, self.images = labels, images

    def __call__(self) -> None:
        # As PyTorch has it; the project's steps want the same bytes from every run.
        torch.backends.cudnn.deterministic = False
        self.optimizer.zero_grad()
        descriptors = self.net((self.images.float() / 255 - self.mean) / self.deviation)
        cosine = F.linear(F.normalize(descriptors), F.normalize(self.centres))
        shifted = torch.cos(cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos() + self.margin)
        one_hot = F.one_hot(self.labels, CLASSES).float()
        loss = F.cross_entropy(self.scale * (one_hot * shifted + (1 - one_hot) * cosine), self.labels)
        loss.backward()
        self.optimizer.step()
        loss.item()
        torch.backends.cudnn.deterministic = True


def of_one_aspect(paths: list[Path], size: int) -> TrainSet:
    """The readable photographs of the aspect that most have, a multiple of `size` of them, with drawn labels."""
    sizes = np.array([read_image(path).shape[:2] for path in paths], np.int64)
    rng = np.random.default_rng(SEED)
    data = TrainSet.of(paths, sizes, rng.integers(CLASSES, size=len(paths)))
    rows = np.flatnonzero(data.groups == np.bincount(data.groups).argmax())
    # Few photographs come several times.
    return data.subset(np.resize(rows, max(1, len(rows) // size) * size))


def keys_of(batch: Batch) -> list[tuple[int, int, int]]:
    return [(0, batch.group, int(row)) for row in batch.rows]


def timed(images: Iterator[torch.Tensor], waits: list[float]) -> Iterator[torch.Tensor]:
    """The images; to `waits` go the seconds that each batch was waited for."""
    begin = time.perf_counter()
    for some in images:
        waits.append(time.perf_counter() - begin)
        yield some
        begin = time.perf_counter()


def fed_by_loader(
    ours: OurStep, loader: Loader, batches: Iterator[Batch], steps: int, ahead: int, waits: list[float]
) -> Kind:
    """Steps over images that the loader brings; waits: of the last block.

    First come `ahead` steps that are not timed, so that no image was made while other kinds of steps ran.
    """

    def prepare() -> Callable[[], None]:
        coming = list(islice(batches, ahead + steps))
        images = timed(loader.load(map(keys_of, coming)), waits)
        upcoming = iter(coming)

        def step() -> None:
            ours.over(next(upcoming), images)

        for _ in range(ahead):
            step()
        waits.clear()
        return step

    return prepare


def matmul_rate(precision: torch.dtype, rounds: int, device: torch.device) -> float:
    """Operations per second of a product of two square matrices."""
    side, repeats = (4096, 50) if device.type == "cuda" else (2048, 1)
    a, b = torch.randn(2, side, side, device=device).to(precision)
    seconds = alternate({"matmul": lambda: lambda: torch.matmul(a, b)}, repeats, rounds, device)
    return 2 * side**3 / seconds["matmul"]


def memory(device: torch.device) -> tuple[int, int]:
    """Bytes that this process holds now, and the most that it has held."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    # Not ru_maxrss, which begins with what the parent process has held.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))


def step_head(classes: int, sample_rate: float | None, batch: int, device: torch.device) -> tuple[int, float]:
    """Bytes of the head and the optimizer's state, and the median seconds of a step of the head alone."""
    settings = Training()
    generator = torch.Generator().manual_seed(SEED)
    descriptors = torch.randn(batch, settings.dim, generator=generator).to(device).requires_grad_()
    labels = torch.randint(classes, (batch,), generator=generator).to(device)
    head = cosine_head(settings.dim, classes, "arcface", settings.margin, settings.scale, sample_rate, ALONE)
    head.to(device)
    for buffer in head.buffers():
        # Zeros that nothing has written take no memory yet; in training they soon do.
        buffer.add_(0)
    without_backbone = nn.Module()
    without_backbone.backbone = nn.Identity()
    optimizer, _ = make_optimizer(without_backbone, head, settings, ANNEALED)
    numbers = count()

    def step() -> None:
        with head.step(optimizer, labels, [SEED, next(numbers)]):
            head(descriptors, labels, None, [batch]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    seconds = alternate({"head": lambda: step}, 1, 5, device)["head"]
    states = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    held = [*head.parameters(), *head.buffers(), *states]
    return sum(value.numel() * value.element_size() for value in held), seconds


def measure_head(classes: int, kind: str, batch: int) -> dict:
    """A row of the head's table; in a process of its own, since the peak is all that the process has held."""
    device = pick_device(load_recipe("sample"))
    sample_rate = SAMPLE_RATE if kind == "sampled" else None
    # What the libraries take for themselves is no part of the head.
    step_head(CLASSES, sample_rate, batch, device)
    before, _ = memory(device)
    held, seconds = step_head(classes, sample_rate, batch, device)
    _, peak = memory(device)
    return {
        "labels": classes,
        "kind": kind,
        "held_mb": round(held / 2**20),
        "peak_mb": round((peak - before) / 2**20),
        "ms": round(1000 * seconds),
    }


def head_part(label_counts: list[int], batch: int) -> list[dict]:
    rows = []
    print(f"the head, {batch} descriptors of {Training().dim}; sampled: {SAMPLE_RATE:g} of the labels")
    print(f"{'labels':>10}  {'kind':<8}  {'with state MB':>13}  {'peak MB':>8}  {'ms/step':>8}")
    for classes in label_counts:
        for kind in ("full", "sampled"):
            command = [sys.executable, __file__, "--one-head", str(classes), kind, "--batch", str(batch)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            print("{labels:>10}  {kind:<8}  {held_mb:>13}  {peak_mb:>8}  {ms:>8}".format(**row), flush=True)
            rows.append(row)
    return rows


class Bench:
    """The parts that do whole steps; those over images in memory are done once for all of them."""

    def __init__(self, arguments: argparse.Namespace, data: Path):
        self.arguments = arguments
        self.recipe = load_recipe("photos", [f"data={data}"])
        self.device = pick_device(self.recipe)
        self.cuda = self.device.type == "cuda"
        self.auto = pick_precision("auto", self.device)
        self.precision = PRECISIONS[self.auto]
        self.data = of_one_aspect(list(train_images(data)["path"])[:1024], arguments.batch)
        self.run = Run(self.recipe, "bench", Path("unwritten.pt"), "", SEED, self.device, ALONE)
        self.steps = 64 if self.cuda else 1

    def our_step(self, backbone: str, precision: str = "auto", compile: bool = False) -> OurStep:
        settings = Training(batch_size=self.arguments.batch, precision=precision, compile=compile)
        return OurStep(backbone, self.data, self.run, settings)

    def measure(self) -> dict:
        """The figures of the parts asked for, and None for the others."""
        backbone, side, parts = self.arguments.backbone, self.arguments.side, self.arguments.parts
        batches = AspectBatches(self.data, Training(batch_size=self.arguments.batch), SEED).of_epoch(0)
        images = TrainImages(self.data, Training().sizes, ["hard"], SEED)
        # Square, whatever the photographs' aspect.
        images.sizes = [(side, side)] * len(images.sizes)
        # As landmark.training.train has it.
        workers = self.recipe.threads if self.cuda else 0
        loader = Loader(images, workers, self.device)
        batch = batches[0]
        [in_memory] = loader.load([keys_of(batch)])

        ours = self.our_step(backbone)
        kinds, waits = {self.precision: ours.in_memory(batch, in_memory)}, []
        if "loader" in parts:
            kinds["loader"] = fed_by_loader(ours, loader, cycle(batches), self.steps, 2 * workers, waits)
        if "speed" in parts:
            plain = PlainStep(backbone, ours.stepper.labels[torch.from_numpy(batch.rows)], in_memory)
            kinds["plain"] = lambda: plain
            for name in self.fast():
                if name not in kinds:
                    kinds[name] = self.our_step(backbone, name).in_memory(batch, in_memory)
        seconds = alternate(kinds, self.steps, self.arguments.rounds, self.device)
        if "speed" in parts and self.arguments.compile:
            # Last: on a busy CPU compiled code slowed down the steps of every kind in its process.
            kinds = {
                f"{name} compiled": self.our_step(backbone, name, compile=True).in_memory(batch, in_memory)
                for name in self.fast()
            }
            seconds |= alternate(kinds, self.steps, self.arguments.rounds, self.device)
        self.show(seconds)

        figures = {"loader_efficiency": None, "speedup_fp32": None, "rate_share": None}
        if "loader" in parts:
            print(f"fed by the loader, a step waits {statistics.fmean(waits):.3f} s for its images")
            figures["loader_efficiency"] = round(seconds[self.precision] / seconds["loader"], 3)
        if "speed" in parts:
            figures["speedup_fp32"] = round(seconds["plain"] / seconds[self.precision], 3)
        if "rate" in parts:
            if self.cuda:
                figures["rate_share"] = self.gpu_rate_share(batch)
            else:
                reached = ours.flops(batch, in_memory) / seconds[self.precision]
                figures["rate_share"] = self.rate_share(reached, backbone, in_memory)
        return figures

    def fast(self) -> list[str]:
        """The precisions that this device computes fast."""
        bf16 = ["bf16"] if self.auto == torch.bfloat16 else []
        return ["fp32", *bf16, "fp16"] if self.cuda else ["fp32", *bf16]

    def show(self, seconds: dict[str, float]) -> None:
        backbone, side, batch = self.arguments.backbone, self.arguments.side, self.arguments.batch
        names = {"loader": f"{self.precision}, fed by the loader", "plain": "plain loop, fp32"}
        print(f"{backbone}, {batch} images of {side} x {side}")
        print(f"{'step':<24}  {'s/step':>8}  {'images/s':>9}")
        for kind, value in seconds.items():
            name = names.get(kind, kind + " (auto)" * (kind == self.precision))
            print(f"{name:<24}  {value:>8.3f}  {batch / value:>9.1f}")
        if "plain" in seconds and self.auto != torch.bfloat16:
            print("bf16 is left out: this device does not compute it fast")

    def gpu_rate_share(self, batch: Batch) -> float:
        """Of a step large enough to keep a GPU busy; its images' content does not matter."""
        size = self.arguments.gpu_batch
        shape = (size, 3, GPU_SIDE, GPU_SIDE)
        images = torch.randint(256, shape, dtype=torch.uint8, device=self.device)
        batch = Batch(batch.group, np.resize(batch.rows, size))
        ours = self.our_step(GPU_BACKBONE)
        seconds = alternate({"": ours.in_memory(batch, images)}, 10, self.arguments.rounds, self.device)[""]
        return self.rate_share(ours.flops(batch, images) / seconds, GPU_BACKBONE, images)

    def rate_share(self, reached: float, backbone: str, images: torch.Tensor) -> float:
        """The share of the rate of matrix products that `reached`, in operations per second, is."""
        possible = matmul_rate(self.auto, self.arguments.rounds, self.device)
        size, _, side, _ = images.shape
        print(
            f"{backbone}, {size} images of {side} x {side} in memory: {reached / 1e12:.3g} TFLOP/s of the"
            f" {possible / 1e12:.3g} of matrix products in {self.precision}"
        )
        return round(reached / possible, 3)

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.cuda else "cpu"


def parts_of(text: str) -> list[str]:
    parts = text.split(",")
    for part in parts:
        if part not in PARTS:
            raise argparse.ArgumentTypeError(f"{part!r} is none of {', '.join(PARTS)}")
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="GLDv2 layout with label_noise.csv; default: monuments")
    parser.add_argument("--parts", type=parts_of, default=PARTS, help=f"only some of {','.join(PARTS)}")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--side", type=int, default=224, help="of the square images")
    parser.add_argument("--batch", type=int, default=32, help="images of a step, descriptors of a head's step")
    parser.add_argument("--gpu-batch", type=int, default=64, help="images of a step of part rate on a GPU")
    parser.add_argument("--labels", type=int, nargs="+", default=[81_313, 203_094], help="of part head")
    parser.add_argument("--rounds", type=int, default=3, help="blocks of steps of each kind, after one to warm up")
    parser.add_argument("--compile", action="store_true", help="part speed: each precision with compile too")
    parser.add_argument("--one-head", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_head:
        classes, kind = arguments.one_head
        print(json.dumps(measure_head(int(classes), kind, arguments.batch)))
        return
    with photographs(arguments.data) as data:
        bench = Bench(arguments, data)
        figures = bench.measure() if set(arguments.parts) != {"head"} else {}
    if "head" in arguments.parts:
        figures["head"] = head_part(arguments.labels, arguments.batch)
    figures |= {"precision": bench.precision, "backbone": arguments.backbone, "device": bench.device_name}
    print(json.dumps(figures | {"batch": arguments.batch, "side": arguments.side}))


if __name__ == "__main__":
    main()
