"""What a recipe costs at a given number of images: work, hours and disk of each step. Estimates, told as such.

Run     python tests/bench/budget.py [--recipe gld2019] [--train 4132914] [--clean 1580470] [--index 761757]
        python tests/bench/budget.py --recipe gldv2_micro --train 11600 --clean 11600 --index 7000 --test 4600
        python tests/bench/budget.py --measure

The multiply-adds of one image are counted by torch on the recipe's own networks and image sizes (4:3), and told in
images of ResNet-50 at 224 x 224, a unit in which nearly every machine has been measured. Hours are work by rate:
of an H100 and a T4 the rates are assumed, round figures for mixed precision in PyTorch; --training and --inference
put your own in their place, and --measure measures this machine's. Left out are decoding, which wants enough
cores beside the card, what geometry costs on them (tests/bench/verification.py), and that depthwise convolutions
(EfficientNet) keep a card less busy than a ResNet does.
"""

import argparse
import json
import statistics
import time

import common  # noqa: F401 - makes landmark known
import torch
from torch.utils.flop_counter import FlopCounterMode

from landmark.cli import errors_told
from landmark.delf import SCALES, DelfNet
from landmark.devices import pick_device, pick_precision
from landmark.images import GROUP_SIZES, inference_size
from landmark.network import DescriptorNet, descriptor_net
from landmark.recipe import Recipe, load_recipe
from landmark.settings import Model, Optimisation, Scales

# Images a second of ResNet-50 at 224 x 224: to train, to describe. Assumed, not measured here.
ASSUMED = {"H100": (2500, 7000), "T4": (300, 1000)}
LANDSCAPE = (3, 4)  # height, width


def flops(net: torch.nn.Module, sizes: list[tuple[int, int]]) -> int:
    """Of one image passed once at each (height, width), pooling left out, which a bare shape cannot go through."""
    backbone = net.to("meta").eval().backbone
    through = getattr(backbone, "forward_features", backbone)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for height, width in sizes:
            through(torch.empty(1, 3, height, width, device="meta"))
    return counter.get_total_flops()


def at_scales(settings: Scales) -> list[tuple[int, int]]:
    sizes = [inference_size(*LANDSCAPE, settings.longest_side * scale) for scale in settings.scales]
    return sizes * (1 + settings.flip)


def at_training(settings: Optimisation) -> list[tuple[int, int]]:
    width, height = GROUP_SIZES[settings.sizes][1]
    return [(height, width)]


def epochs(settings: Optimisation) -> int:
    return sum(stage.epochs for stage in settings.stages)


def work(recipe: Recipe, images: dict[str, int]) -> list[tuple[str, str, float]]:
    """Step, kind of work (training, inference) and its FLOPs, in the order of the steps."""
    rows = []
    if recipe.uses_bootstrap:
        first, delf = recipe.first_model, recipe.bootstrap.delf
        if first:
            rows.append(("bootstrap, first model", "training", training(first, "training", images["train"])))
        if delf:
            net = DelfNet(recipe.bootstrap.delf_model.backbone, delf.dim)
            # Its trunk is passed and not trained.
            passed = flops(net, at_training(delf.training)) * images["train"] * epochs(delf.training)
            rows.append(("bootstrap, DELF", "inference", passed))
    if recipe.cleaning.looks:
        source = recipe.cleaning.representation
        by_bootstrap = source.weights == "bootstrap"
        net = descriptor_net(recipe.first_model) if by_bootstrap else DescriptorNet(source.backbone, 0)
        rows.append(("01 first descriptors", "inference", flops(net, at_scales(source)) * images["train"]))
        local = recipe.local_features
        if local.features == "delf":
            net = DelfNet(recipe.bootstrap.delf_model.backbone, recipe.bootstrap.delf.dim)
            longest = local.longest_side
            sizes = [(round(longest * 0.75 * scale), round(longest * scale)) for scale in SCALES]
            rows.append(("01 DELF of every image", "inference", flops(net, sizes) * images["train"]))
    trained = [model for model in recipe.models if model.loss]
    for step, part in (("02 train", "training"), ("03 fine-tune", "finetune")):
        total = sum(training(model, part, images["clean"]) for model in trained if getattr(model, part))
        rows.append((step, "training", total))
    described = images["train"] + images["index"] + images["test"]
    each = sum(flops(descriptor_net(model), at_scales(recipe.extraction)) for model in recipe.models)
    rows.append(("04 extract", "inference", each * described))
    return rows


def training(model: Model, part: str, images: int) -> float:
    """FLOPs of a model's training or fine-tuning: a backward pass costs twice a forward pass."""
    settings = getattr(model, part)
    return 3.0 * flops(descriptor_net(model), at_training(settings)) * images * epochs(settings)


def disk(recipe: Recipe, images: dict[str, int]) -> dict[str, float]:
    """GB that a step leaves in input/RUN, of float16 descriptors, float32 weights and int32 rows."""
    described = images["train"] + images["index"] + images["test"]
    sizes, saved = [], 0
    for model in recipe.models:
        net = descriptor_net(model)
        sizes.append(model.training.dim if model.loss else net.backbone.num_features)
        saved += 4 * sum(p.numel() for p in net.parameters()) if model.loss else 0
    whole = recipe.ensemble.whiten or sum(sizes)
    first = recipe.first_model.training.dim if recipe.first_model else sizes[0]
    found = images["train"] * (2 * first + 4 * recipe.cleaning.same_label) if recipe.cleaning.looks else 0
    return {
        "01 clean": found / 1e9,
        "02, 03": 2 * saved / 1e9,
        "04 extract": 2 * described * (sum(sizes) + whole) / 1e9,
    }


def card(model: Model, part: str, labels: int) -> float:
    """GB that a training step holds: what autograd saves of a batch in bf16, and weights, gradients, momentum."""
    settings, net, saved = getattr(model, part), descriptor_net(model), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        # Two, since batch norm wants more than one.
        net(torch.zeros(2, 3, *at_training(settings)[0]))
    each = sum(size for place, size in saved.items() if place not in weights) / 2
    numbers = sum(p.numel() for p in net.parameters()) + labels * model.training.dim
    return (each * settings.batch_size / settings.accumulate + 12 * numbers) / 1e9


def measure(recipe: Recipe, seconds: float) -> tuple[float, float]:
    """Images a second of ResNet-50 at 224 x 224 on this machine, to train and to describe: the median batch."""
    device = pick_device(recipe)
    kind = pick_precision("auto", device)
    net = DescriptorNet("resnet50", 512).to(device, memory_format=torch.channels_last)
    batch = torch.rand(32, 3, 224, 224).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(net.parameters(), 1e-3, 0.9)

    def describe():
        with torch.no_grad(), torch.autocast(device.type, kind, enabled=kind != torch.float32):
            net(batch)

    def train():
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            loss = net(batch).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    rates = []
    for one in (train, describe):
        one()
        times, until = [], time.monotonic() + seconds
        while time.monotonic() < until or len(times) < 3:
            began = time.perf_counter()
            one()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        rates.append(len(batch) / statistics.median(times))
    return tuple(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="gld2019")
    for name, count in (("train", 4_132_914), ("clean", 1_580_470), ("index", 761_757), ("test", 117_577)):
        parser.add_argument(f"--{name}", type=int, default=count, help="images")
    parser.add_argument("--labels", type=int, default=81_313, help="of the cleaned images")
    parser.add_argument(
        "--training", type=float, help="images/s of ResNet-50 at 224 x 224 that your machine trains"
    )
    parser.add_argument("--inference", type=float, help="and that you describe")
    parser.add_argument("--measure", action="store_true", help="measure these two on this machine")
    parser.add_argument("--seconds", type=float, default=30, help="to measure for, each")
    arguments = parser.parse_args()
    if (arguments.training is None) != (arguments.inference is None):
        parser.error("--training and --inference belong together")
    rates = dict(ASSUMED)
    if arguments.training:
        rates["yours"] = (arguments.training, arguments.inference)
    images = {name: getattr(arguments, name) for name in ("train", "clean", "index", "test")}
    with errors_told():
        recipe = load_recipe(arguments.recipe, [])
        if arguments.measure:
            rates["measured"] = measure(recipe, arguments.seconds)
        rows, gigabytes = work(recipe, images), disk(recipe, images)
    unit = flops(DescriptorNet("resnet50", 512), [(224, 224)])
    for name, (train, describe) in rates.items():
        known = "assumed" if name in ASSUMED else name
        print(f"{name}: {train:.3g} images/s trained, {describe:.3g} described ({known})")
    print(f"\n{'step':26}{'PFLOP':>10}" + "".join(f"{name + ', h':>14}" for name in rates))
    hours = dict.fromkeys(rates, 0.0)
    for step, kind, total in rows:
        cells = []
        for name, pair in rates.items():
            # A trained image of the unit costs three passes, as counted.
            images_of_unit = total / unit / (3 if kind == "training" else 1)
            cells.append(images_of_unit / pair[kind == "inference"] / 3600)
            hours[name] += cells[-1]
        print(f"{step:26}{total / 1e15:>10.3g}" + "".join(f"{cell:>14.3g}" for cell in cells))
    print(f"{'together':26}{'':>10}" + "".join(f"{value:>14.3g}" for value in hours.values()))
    print("\nGB in input/RUN: " + ", ".join(f"{step} {size:.3g}" for step, size in gigabytes.items()))
    for part in ("training", "finetune"):
        held = {m.name: card(m, part, arguments.labels) for m in recipe.models if m.loss and getattr(m, part)}
        print(f"GB on the card, {part}: " + ", ".join(f"{name} {size:.3g}" for name, size in held.items()))
    print(json.dumps({"hours": hours, "gigabytes": gigabytes}))


if __name__ == "__main__":
    main()
