"""The recipe: a whole run, read from a YAML file in src/recipes (or a path) with `--set key=value` overrides.

The classes here, in settings.py and in retrieval_settings.py are the whole list of what can be set; an unknown or
ill-typed setting is an error that names it.
"""

import difflib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from landmark.errors import UserError
from landmark.parallel import cores
from landmark.retrieval_settings import Ensemble, Recognition, Retrieval, Search
from landmark.settings import (
    Bucket,
    Cleaning,
    Delf,
    Kaggle,
    LocalFeatureSettings,
    Model,
    Positive,
    Sample,
    Scales,
    Settings,
    Validation,
    VerificationSettings,
)

ROOT = Path(__file__).resolve().parents[2]
PACKAGED = "tf_efficientnet_lite0"  # the backbone whose ImageNet weights come as a Python package
# Those of others, as BACKBONE.pt, for a machine without internet, as the dataset of a notebook brings them.
CARRIED = ROOT / "input" / "weights"
RECIPES = Path(__file__).resolve().parents[1] / "recipes"

# Settings that are text, whatever YAML would make of it: --set data="Trip: Rome #1"
_TEXT = {"data", "run", "device", "weights", "published", "url", "title"}


class Recipe(Settings):
    """A whole run.

    bootstrap: another round, of steps 01 and 02 alone, that comes before and whose models step 01 may start from.
    The recipe file gives the settings in which it differs; it has a run folder of its own.
    checkpoint_steps: a killed training loses at most so many steps.
    """

    name: str
    data: Path
    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    seed: Annotated[int, Field(ge=0)] = 2019
    device: str = "auto"
    workers: Positive | None = None
    memory_gib: Annotated[float, Field(gt=0)] = 4.0
    sample: Sample | None = None
    bucket: Bucket | None = None
    kaggle: Kaggle = Kaggle()
    cleaning: Cleaning = Cleaning()
    gallery: Literal["all", "uncontradicted", "clean"] = "all"
    local_features: LocalFeatureSettings = LocalFeatureSettings()
    verification: VerificationSettings = VerificationSettings()
    models: list[Model] = Field(min_length=1)
    validation: Validation = Validation()
    checkpoint_steps: Positive = 1000
    delf: Delf | None = None
    extraction: Scales = Scales()
    ensemble: Ensemble = Ensemble()
    search: Search = Search()
    retrieval: Retrieval = Retrieval()
    recognition: Recognition = Recognition()
    bootstrap: "Recipe | None" = None

    @model_validator(mode="after")
    def _names_differ(self) -> "Recipe":
        names = [m.name for m in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"models: two have the same name: {sorted(names)}")
        if any(name.endswith("-finetuned") for name in names):
            raise ValueError("models: a name must not end in -finetuned, as the files of step 03 do")
        return self

    @model_validator(mode="after")
    def _delf_of_a_model(self) -> "Recipe":
        if self.delf is None:
            return self
        names = [m.name for m in self.models]
        if self.delf.of not in names:
            raise ValueError(f"delf.of: {self.delf.of!r} is none of the models: {names}")
        if "delf" in names:
            raise ValueError("models: the name delf is taken by models/delf.pt")
        return self

    @model_validator(mode="after")
    def _bootstrap_is_there(self) -> "Recipe":
        first, local = self.cleaning.representation, self.local_features
        if self.cleaning.looks and first.weights == "bootstrap" and self.first_model is None:
            raise ValueError(
                "cleaning.representation.weights: bootstrap wants a `bootstrap` round with a trained model"
            )
        has_delf = self.bootstrap is not None and self.bootstrap.delf is not None
        if local.features == "delf" and local.weights == "bootstrap" and not has_delf:
            raise ValueError("local_features.weights: bootstrap wants a `bootstrap` round with `delf`")
        return self

    @property
    def uses_bootstrap(self) -> bool:
        """Whether something starts from the bootstrap round."""
        local = self.local_features
        by_delf = local.features == "delf" and local.weights == "bootstrap"
        return by_delf or (self.cleaning.looks and self.cleaning.representation.weights == "bootstrap")

    @property
    def first_model(self) -> Model | None:
        """The bootstrap round's first trained model."""
        return next((m for m in self.bootstrap.models if m.loss), None) if self.bootstrap else None

    @property
    def delf_model(self) -> Model | None:
        """The model whose backbone DELF is built on."""
        return next((m for m in self.models if self.delf and m.name == self.delf.of), None)

    def chosen(self, names: Sequence[str]) -> list[Model]:
        """The models of these names; of none, all. `delf` names DELF. Raises UserError for an unknown name."""
        known = [m.name for m in self.models] + ["delf"] * bool(self.delf)
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
                raise UserError(f"--model {name}: the recipe has no such model; did you mean {close[0]}?")
        return [m for m in self.models if not names or m.name in names]

    @property
    def threads(self) -> int:
        """Threads (or loader processes) that prepare images: `workers`, or one per core."""
        return self.workers or cores()

    @property
    def process_gib(self) -> float:
        """`memory_gib`, or under torchrun this process's share of it."""
        return self.memory_gib / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    @property
    def work(self) -> Path:
        """Where the run's intermediate files lie."""
        return ROOT / "input" / self.run

    @property
    def submissions(self) -> Path:
        """Where the run's results lie."""
        return ROOT / "submissions" / self.run


def load_recipe(name: str, overrides: list[str] = ()) -> Recipe:
    """Read src/recipes/<name>.yaml, or the file `name`, with `key=value` overrides; keys are dotted.

    Raises UserError that names the setting and, for an unknown one, its nearest valid neighbour.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise UserError(f"recipe {name!r}: {path} is not there; recipes: {known}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"recipe {path}: it must be settings, one `key: value` a line")
    # Settings that YAML aliases share become each entry's own, so that an override reaches one model alone.
    values = json.loads(json.dumps(values, default=str))
    own_data = values.get("data")
    for override in overrides:
        _override(values, override)
    values["name"] = path.stem
    data = values.get("data")
    if data in (None, ""):
        raise UserError(f"recipe {path.stem}: it has no data of its own; add --set data=FOLDER")
    if data == own_data:
        values["data"] = str(ROOT / str(data))
        values.setdefault("run", path.stem)
    else:
        # Pointed at other data a recipe makes another run, so that two folders do not share results.
        folder = Path(str(data)).expanduser().resolve()
        values["data"] = str(folder)
        values.setdefault("run", path.stem + "-" + re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.name))
    if isinstance(values.setdefault("kaggle", {}), dict):
        # A notebook by title: those of two recipes are two on Kaggle.
        values["kaggle"].setdefault("title", f"Landmarks by recipe {path.stem}"[:50])
    if isinstance(values.get("bootstrap"), dict):
        values["bootstrap"] = _bootstrap_round(values)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        # The bootstrap round has the whole recipe's settings, and so its faults.
        known = {e["loc"] for e in errors}
        told = [e for e in errors if e["loc"][0:1] != ("bootstrap",) or e["loc"][1:] not in known]
        raise UserError(f"recipe {path.stem}: " + "; ".join(_explain(e) for e in told)) from None


# What a bootstrap round begins with unless it says otherwise: nothing that only itself could make.
_BEGINNING = {"cleaning": {"representation": {"weights": "imagenet"}}, "local_features": {"features": "rootsift"}}


def _bootstrap_round(values: dict) -> dict:
    """The whole settings of a recipe's bootstrap round."""
    whole = json.loads(json.dumps({k: v for k, v in values.items() if k not in ("bootstrap", "delf")}))
    for changes in (_BEGINNING, values["bootstrap"]):
        _merge(whole, changes)
    whole["run"] = f"{values['run']}-bootstrap"
    return whole


def _merge(values: dict, changes: dict) -> None:
    for key, change in changes.items():
        if isinstance(change, dict) and isinstance(values.get(key), dict):
            _merge(values[key], change)
        else:
            values[key] = json.loads(json.dumps(change))


def _override(values: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set {override}: write it as key=value")
    *parents, last = key.split(".")
    try:
        value = text if last in _TEXT and text != "null" else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: {text!r} is not a YAML value") from error
    place = values
    for part in parents:
        where = _entry(place, part, override)
        if isinstance(place, dict) and place.get(where) is None:
            place[where] = {}
        place = place[where]
    place[_entry(place, last, override)] = value


def _entry(place: dict | list, part: str, override: str) -> str | int:
    """The key in a group of settings, or the index in a list: by number, or by the entry's name."""
    if isinstance(place, dict):
        return part
    if isinstance(place, list):
        for number, entry in enumerate(place):
            if part == str(number) or (isinstance(entry, dict) and entry.get("name") == part):
                return number
    raise UserError(f"--set {override}: there is nothing called {part!r} to set")


def _explain(error: dict) -> str:
    """One pydantic error in a line that names the setting."""
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        # A fault of several settings together would show them all.
        alone = error["type"] != "missing" and not isinstance(error["input"], dict)
        got = f" (got {error['input']!r})" if alone else ""
        return f"{where or 'settings'}: {error['msg'].removeprefix('Value error, ')}{got}"
    known = _fields(error["loc"][:-1])
    close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.0)
    return f"unknown setting {where}; did you mean {close[0]}?"


def _fields(location: tuple) -> list[str]:
    """Names of the settings in the group at a location."""
    model = Recipe
    for part in location:
        if not isinstance(part, str):
            continue
        annotation = model.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(o for o in options if isinstance(o, type) and issubclass(o, Settings))
    return list(model.model_fields)
