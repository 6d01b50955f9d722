"""The device that a run computes on."""

import os

import torch

from landmark.errors import UserError
from landmark.parallel import cores
from landmark.recipe import Recipe


def pick_device(recipe: Recipe) -> torch.device:
    """The recipe's device; `auto` is CUDA where there is one, else the CPU. Raises UserError.

    The processes that torchrun starts on a machine take its GPUs in turn.
    """
    torch.set_num_threads(cores())
    # Without these the same run on the same GPU may end with other bytes.
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    name = recipe.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device(
                "cuda", int(os.environ.get("LOCAL_RANK", "0")) % max(1, torch.cuda.device_count())
            )
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # Something is computed: a card that this torch has no code for shows itself only then.
        torch.ones(1, device=device).add_(1).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"device: {name} cannot be used here ({reason}); --set device=cpu does without") from error
    return device


def pick_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type that autocast computes in; float32 means none. `auto` takes what the hardware computes fast."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float16
    has = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 does not tell
    return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16") else torch.float32


def search_devices(recipe: Recipe) -> list[str]:
    """The devices that a search is shared among: the recipe's, or all GPUs when one process has them to itself."""
    device = pick_device(recipe)
    alone = "LOCAL_WORLD_SIZE" not in os.environ and ":" not in recipe.device
    if device.type == "cuda" and alone:
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(device)]
