"""What every step's command line does alike."""

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from landmark.errors import UserError
from landmark.ranks import open_ranks
from landmark.recipe import load_recipe
from landmark.runs import hold_run

# For steps that go model by model.
MODELS = {
    "--model": {
        "nargs": "+",
        "action": "extend",
        "default": [],
        "dest": "names",
        "metavar": "NAME",
        "help": "only these models; steps for different models may run at the same time",
    }
}


def recipe_parser(description: str) -> argparse.ArgumentParser:
    """A parser of --recipe and --set."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="sample", help="a name in src/recipes, or a YAML file")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override settings"
    )
    return parser


@contextmanager
def errors_told() -> Iterator[None]:
    """Tell the user's errors in one line with exit code 1; lines appear as they are printed also in a file."""
    sys.stdout.reconfigure(line_buffering=True)
    try:
        yield
    except (UserError, OSError) as error:
        # An OSError is a full disk, a missing right or the like; its text names the file.
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


def run_step(main: Callable[..., None], shared: bool = False, flags: dict[str, dict] | None = None) -> None:
    """Parse --recipe, --set and --round, run `main`, and tell the user's errors in one line with exit code 1.

    main takes the recipe and, where the processes of torchrun share the step's work, its place among them. flags:
    more of argparse's options, whose values main takes by name.
    """
    parser = recipe_parser(inspect.getdoc(sys.modules[main.__module__]))
    parser.add_argument(
        "--round", choices=["bootstrap", "main"], default="main", help="of a recipe with a bootstrap round"
    )
    added = [parser.add_argument(flag, **options).dest for flag, options in (flags or {}).items()]
    arguments = parser.parse_args()
    values = {name: getattr(arguments, name) for name in added}
    leads = int(os.environ.get("RANK", "0")) == 0
    if not (leads or shared):
        # Under torchrun the first process works alone: the same files as without it, though not sooner.
        return
    if not shared:
        # The machine is this process's alone.
        os.environ.pop("LOCAL_WORLD_SIZE", None)
    with errors_told():
        recipe = load_recipe(arguments.recipe, arguments.set)
        if arguments.round == "bootstrap":
            recipe = recipe.bootstrap
            if recipe is None:
                raise UserError(f"recipe {arguments.recipe}: it has no bootstrap round")
        with hold_run(recipe, values.get("names", [])) if leads else nullcontext():
            if shared:
                with open_ranks() as ranks:
                    main(recipe, ranks, **values)
            else:
                main(recipe, **values)
    if shared and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # A thread of gloo that lets go of its last message while the interpreter winds up aborts the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
