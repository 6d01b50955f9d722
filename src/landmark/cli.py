"""What every step's command line does alike."""

import argparse
import inspect
import os
import sys
from collections.abc import Callable

from landmark.errors import UserError
from landmark.recipe import Recipe, load_recipe
from landmark.runs import hold_run


def run_step(main: Callable[[Recipe], None]) -> None:
    """Parse --recipe and --set, run `main`, and tell the user's errors in one line with exit code 1."""
    description = inspect.getdoc(sys.modules[main.__module__])
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="sample", help="a name in src/recipes, or a YAML file")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override settings"
    )
    arguments = parser.parse_args()
    # Lines appear as they are printed also where stdout is a file.
    sys.stdout.reconfigure(line_buffering=True)
    if int(os.environ.get("RANK", "0")) > 0:
        # Under torchrun the first process works alone: the same files as without it, though not sooner.
        return
    try:
        recipe = load_recipe(arguments.recipe, arguments.set)
        with hold_run(recipe):
            main(recipe)
    except (UserError, OSError) as error:
        # An OSError is a full disk, a missing right or the like; its text names the file.
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
