"""The Kaggle notebook: what is written, where it finds things, and the notebook itself, run as Kaggle runs it."""

import base64
import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import cv2
import nbformat
import pandas as pd
import pytest
import yaml
from conftest import TINY
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from landmark.competition import Competition
from landmark.errors import UserError
from landmark.notebook import kaggle_user, notebook_metadata, slug_of
from landmark.packages import PACKAGES, install_missing
from landmark.settings import Kaggle
from landmark.submission import validate_recognition, validate_retrieval

KAGGLE = {
    "title": "Tiny landmarks, 2,019",
    "dataset": "somebody/photographs",
    "competitions": {"retrieval": "tiny-retrieval", "recognition": "tiny-recognition"},
}
# Refuses, and notes, any connection but to this machine, in the kernel and in what it starts.
NO_NETWORK = """
import os, sys

open(os.environ["CONNECTIONS"] + ".watched", "a").write(" ".join(sys.argv[:1]) + "\\n")

def refuse(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] in ("localhost", "127.0.0.1", "::1", None):
        return
    if event == "socket.connect":
        address = arguments[1]
        if not isinstance(address, tuple) or address[0] in ("localhost", "127.0.0.1", "::1"):
            return
    if event in ("socket.connect", "socket.getaddrinfo"):
        with open(os.environ["CONNECTIONS"], "a") as file:
            print(event, arguments, file=file)
        raise OSError("there is no internet")

sys.addaudithook(refuse)
"""


@pytest.fixture
def mine(project) -> Path:
    """The project with the tiny recipe as one for data that is attached on Kaggle."""
    recipe = json.loads(json.dumps({key: value for key, value in TINY.items() if key != "sample"}))
    recipe["kaggle"] = KAGGLE
    recipe["models"][1]["training"]["stages"] = [{"augmentation": "soft", "epochs": 1}]
    (project / "src/recipes/mine.yaml").write_text(yaml.safe_dump(recipe))
    return project


@pytest.fixture(autouse=True)
def somebody(monkeypatch, tmp_path):
    """No user's name and credentials are looked at."""
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "no-config"))
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")


def files(folder: Path) -> dict[str, tuple]:
    """Size and time of every file."""
    return {
        str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*"))
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def execute(path: Path, kaggle: Path, monkeypatch, **parameters):
    """Run a notebook with the attached data in kaggle/input, without internet; returns it with its outputs."""
    notebook = nbformat.read(path, 4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    hook = kaggle / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(NO_NETWORK)
    (kaggle / "working").mkdir(exist_ok=True)
    environment = {"PYTHONPATH": hook, "CONNECTIONS": kaggle / "connections", "HF_HUB_OFFLINE": 1}
    environment |= {"KIT_INPUT": kaggle / "input", "KIT_WORKING": kaggle / "working"}
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": kaggle}}
    ).execute()
    assert (kaggle / "connections.watched").exists() and not (kaggle / "connections").exists()
    return notebook


def said(notebook) -> str:
    """All text that the cells printed."""
    return "".join(o.text for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "stream")


def shown(notebook, kind: str) -> list:
    """All outputs of a MIME type."""
    outputs = [o for c in notebook.cells for o in c.get("outputs", []) if "data" in o]
    return [o.data[kind] for o in outputs if kind in o.data]


def test_the_notebook_trains_on_a_part_and_with_its_models_attached_answers_the_whole(
    mine, run_sh, tiny_data, tmp_path, monkeypatch
):
    out = mine / "submissions/notebook"
    built = run_sh("notebook", "--recipe", "mine", "--set", "cleaning.min_images=1", "run=mine")
    assert built.returncode == 0, built.stderr
    assert "so it will train" in built.stdout and "arcface-finetuned.pt is missing; step 03" in built.stdout
    assert not (out / "dataset/checkpoints").exists()
    kaggle = tmp_path / "kaggle"
    shutil.copytree(out / "dataset", kaggle / "input/datasets/somebody/tiny-landmarks-2019-kit")
    shutil.copytree(tiny_data, kaggle / "input/competitions/tiny-retrieval")
    before = files(kaggle / "input")
    trial = execute(out / "tiny-landmarks-2019.ipynb", kaggle, monkeypatch, CUT_ON_COMMIT=12)
    assert files(kaggle / "input") == before
    assert "models: to be trained" in said(trial) and "02 train: arcface on" in said(trial)
    assert "a trial run: at most 12 images" in said(trial)

    working, whole = kaggle / "working", Competition(tiny_data, tiny_data)
    validate_retrieval(working / "submission.csv", whole.ids("test"), whole.ids("index"))
    assert (working / "submission.csv").read_bytes() == (working / "retrieval.csv").read_bytes()
    validate_recognition(working / "recognition.csv", whole.ids("test"), whole.train["landmark_id"].tolist())
    # Twelve index images; of train images six of each of two landmarks, as twelve hold no two whole ones.
    lists = pd.read_csv(working / "retrieval.csv", keep_default_na=False)["images"].str.split()
    kit = kaggle / "temp/kit"
    part = Competition(kit / "input/cut", kit / "input/cut")
    assert part.train["landmark_id"].value_counts().tolist() == [6, 6] and len(part.ids("index")) == 12
    assert (lists.str.len() == 12).sum() == len(part.ids("test")) < len(lists)
    assert (lists.str.len() == 0).sum() == len(lists) - len(part.ids("test"))
    scores = json.loads((working / "scores.json").read_text())
    assert scores["retrieval"]["map100"]["all"] > 0 and "recognition" in scores
    assert any("retrieval map100" in table for table in shown(trial, "text/html"))
    (picture,) = shown(trial, "image/jpeg")
    assert base64.b64decode(picture) == (working / "retrieved.jpg").read_bytes()
    assert cv2.imread(str(working / "retrieved.jpg")) is not None

    # What was trained there, as if it had been here; the dataset mounted the old way, its folders left packed.
    for name in ("models/arcface-finetuned.pt", "clean_decisions.csv"):
        (mine / "input/mine" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kit / "input/mine-cut" / name, mine / "input/mine" / name)
    built = run_sh("notebook", "--recipe", "mine", "--task", "recognition", "--set", "gallery=uncontradicted")
    assert built.returncode == 0 and "will train" not in built.stdout, built.stderr
    sent = out / "dataset/checkpoints/main"
    assert sorted(contents(sent)) == ["clean_decisions.csv", "models/arcface-finetuned.pt"]
    assert (sent / "models/arcface-finetuned.pt").samefile(mine / "input/mine/models/arcface-finetuned.pt")
    kaggle = tmp_path / "again"
    mounted = kaggle / "input/tiny-landmarks-2019-kit"
    mounted.mkdir(parents=True)
    for name in ("kit", "checkpoints"):
        shutil.make_archive(mounted / name, "zip", out / "dataset" / name)
    shutil.copytree(tiny_data, kaggle / "input/photographs/all")
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    before = files(kaggle / "input")
    scored = execute(out / "tiny-landmarks-2019.ipynb", kaggle, monkeypatch, CUT_ON_COMMIT=12)
    assert files(kaggle / "input") == before
    assert "02 train" not in said(scored) and said(scored).count("nothing to do, the models are ready") == 3
    assert not list((kaggle / "temp/kit/input").glob("*/train_clean.csv"))
    validate_recognition(kaggle / "working/submission.csv", whole.ids("test"), whole.train["landmark_id"].tolist())
    answers = pd.read_csv(kaggle / "working/submission.csv", keep_default_na=False)["landmarks"]
    assert (answers != "").all()
    assert (kaggle / "working/submission.csv").read_bytes() == (kaggle / "working/recognition.csv").read_bytes()


def test_a_notebook_that_lacks_something_tells_it_in_one_line(mine, run_sh, tmp_path, monkeypatch):
    assert run_sh("notebook", "--recipe", "mine").returncode == 0
    out, kaggle = mine / "submissions/notebook", tmp_path / "kaggle"
    (kaggle / "input").mkdir(parents=True)
    with pytest.raises(CellExecutionError, match="error: the kit is nowhere below /.*; attach"):
        execute(out / "tiny-landmarks-2019.ipynb", kaggle, monkeypatch)
    # Another kit that is attached too is not taken.
    other = kaggle / "input/datasets/another/kit-of-2018/kit/run.sh"
    other.parent.mkdir(parents=True)
    other.write_text("exit 1")
    shutil.copytree(out / "dataset", kaggle / "input/datasets/somebody/tiny-landmarks-2019-kit")
    with pytest.raises(CellExecutionError) as failed:
        execute(out / "tiny-landmarks-2019.ipynb", kaggle, monkeypatch)
    assert "Traceback" not in failed.value.traceback and "File " not in failed.value.traceback
    (line,) = [line for line in failed.value.traceback.splitlines() if line.startswith("error: ")]
    assert "holds no landmark data" in line and "attached: datasets" in line


def test_a_rebuild_keeps_every_byte_and_removes_what_is_stale(mine, run_sh):
    out = mine / "submissions/notebook"
    models = mine / "input/mine/models"
    models.mkdir(parents=True)
    (models / "arcface-finetuned.pt").write_bytes(b"weights")
    done = run_sh("notebook", "--recipe", "mine")
    assert done.returncode == 0 and "kaggle kernels push -p" in done.stdout, done.stderr
    kit = out / "dataset/kit"
    assert (kit / "src/recipes/mine.yaml").exists() and (kit / "src/landmark/kaggle_session.py").exists()
    assert not list(kit.rglob("__pycache__")) and not (kit / "input").exists()
    assert "faiss-cpu==" in (out / "dataset/wheels.txt").read_text()
    first = contents(out)
    assert run_sh("notebook", "--recipe", "mine").returncode == 0 and contents(out) == first

    (out / "dataset/wheels").mkdir()
    (out / "dataset/wheels/mine.whl").write_bytes(b"")
    (kit / "src/__pycache__").mkdir()
    (kit / "src/__pycache__/old.pyc").write_bytes(b"")
    (models / "arcface-finetuned.pt").unlink()
    (out / "my-own-copy.ipynb").write_text("{}")
    settings = ["kaggle.title=Another name", "cleaning.published=clean.csv", "ensemble.whiten=512"]
    named = run_sh("notebook", "--recipe", "mine", "--set", *settings)
    assert named.returncode == 0 and "/clean.csv does not come along" in named.stdout, named.stderr
    after = contents(out)
    stale = {"tiny-landmarks-2019.ipynb", "dataset/checkpoints/main/models/arcface-finetuned.pt"}
    assert first.keys() - after.keys() == stale
    assert after.keys() - first.keys() == {"another-name.ipynb", "my-own-copy.ipynb", "dataset/wheels/mine.whl"}
    notebook = nbformat.read(out / "another-name.ipynb", 4)
    nbformat.validate(notebook)
    assert f"SET = {json.dumps(settings)}" in notebook.cells[2].source
    assert "CUT_ON_COMMIT = 1024" in notebook.cells[2].source
    sources = [cell.source for cell in notebook.cells]
    for step in sorted((mine / "src").glob("0*.py")):
        assert sources.count(f'run("{step.stem}")') == 1
    assert not any("bootstrap" in source for source in sources)


def test_models_of_a_bootstrap_round_come_along_and_those_of_other_settings_do_not(mine, run_sh):
    recipe = yaml.safe_load((mine / "src/recipes/mine.yaml").read_text())
    recipe["local_features"] = {"features": "delf"}
    recipe["gallery"] = "clean"
    recipe["bootstrap"] = {"cleaning": {"more_than": -1}, "delf": {"of": "imagenet"}}
    (mine / "two.yaml").write_text(yaml.safe_dump(recipe))
    build = ["notebook", "--recipe", str(mine / "two.yaml")]
    made = ["input/two/models/arcface-finetuned.pt", "input/two-bootstrap/models/delf.pt"]
    for name in [*made, "input/two/clean_decisions.csv"]:
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_bytes(b"weights")
    scanned = mine / "input/two-bootstrap/done/02_scan.json"
    scanned.parent.mkdir()
    scanned.write_text(json.dumps({"settings": {"images": None}}))
    assert run_sh(*build).returncode == 0
    out = mine / "submissions/notebook"
    sent = {"main/models/arcface-finetuned.pt", "main/clean_decisions.csv", "bootstrap/models/delf.pt"}
    sent.add("bootstrap/done/02_scan.json")
    assert contents(out / "dataset/checkpoints").keys() == sent
    assert (out / "dataset/kit/src/recipes/two.yaml").read_bytes() == (mine / "two.yaml").read_bytes()
    sources = [cell.source for cell in nbformat.read(out / "tiny-landmarks-2019.ipynb", 4).cells]
    assert any('run("01_clean", "--round", "bootstrap")' in source for source in sources)

    record = mine / "input/two/done/02_train-arcface.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"settings": {"model": "another", "images": None}}))
    refused = run_sh(*build)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert "step 02 were made with other settings" in refused.stderr


def test_the_kaggle_client_takes_the_metadata(mine, run_sh, monkeypatch, tmp_path):
    monkeypatch.setenv("KAGGLE_KEY", "none")
    from kaggle.api.kaggle_api_extended import HTTPError, KaggleApi

    sent, api = [], KaggleApi()
    api.config_values = {"username": "somebody", "key": "none"}
    call = SimpleNamespace(
        kernels=SimpleNamespace(kernels_api_client=SimpleNamespace(save_kernel=sent.append)),
        datasets=SimpleNamespace(dataset_api_client=SimpleNamespace(create_dataset=sent.append)),
    )

    @contextmanager
    def client():
        yield call

    def not_there(name):
        raise HTTPError(name)

    uploaded = []
    monkeypatch.setattr(api, "build_kaggle_client", client)
    monkeypatch.setattr(api, "dataset_status", not_there)
    monkeypatch.setattr(api, "_upload_blob", lambda path, *_: uploaded.append(Path(path).name) or "token")
    monkeypatch.setattr(api, "with_retry", lambda call: lambda request: call(request) or SimpleNamespace(error=""))
    assert run_sh("notebook", "--recipe", "mine", "--task", "recognition").returncode == 0
    out = mine / "submissions/notebook"
    api.kernels_push(str(out))
    api.dataset_create_new(str(out / "dataset"), dir_mode="zip")
    kernel, dataset = sent
    assert (kernel.slug, kernel.new_title) == ("somebody/tiny-landmarks-2019", "Tiny landmarks, 2,019")
    assert (kernel.language, kernel.kernel_type) == ("python", "notebook")
    assert (kernel.is_private, kernel.enable_gpu, kernel.enable_internet) == (True, True, False)
    assert kernel.competition_data_sources == ["tiny-recognition"]
    assert kernel.dataset_data_sources == ["somebody/tiny-landmarks-2019-kit", "somebody/photographs"]
    assert (dataset.owner_slug, dataset.slug) == ("somebody", "tiny-landmarks-2019-kit")
    assert dataset.is_private and dataset.license_name == "other"
    assert sorted(uploaded) == ["kit.zip", "wheels.txt"]


def test_names_are_those_that_kaggle_makes_of_a_title(capsys, monkeypatch, tmp_path):
    from slugify import slugify

    titles = ["Landmarks 2019", " Tiny -- landmarks, 2,019!", "Église à Paris", "It's 5 o'clock_now", "Straße"]
    for title in titles:
        assert slug_of(title) == slugify(title)
    with pytest.raises(UserError, match="kaggle.title.*'a-b'"):
        slug_of("A - B")
    both = notebook_metadata(Kaggle(**KAGGLE), "somebody", ["retrieval", "recognition"])
    assert both["competition_sources"] == ["tiny-retrieval", "tiny-recognition"]
    long = notebook_metadata(Kaggle(title="x" * 50), "somebody", [])["dataset_sources"][0]
    assert len(long.split("/")[1]) == 50
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert kaggle_user() == "INSERT_OWNER_SLUG_HERE"
    (tmp_path / "config/kaggle").mkdir(parents=True)
    (tmp_path / "config/kaggle/kaggle.json").write_text('{"username": "me", "key": "secret"}')
    assert kaggle_user() == "me"


def test_missing_packages_want_wheels(tmp_path, monkeypatch):
    install_missing(tmp_path)
    monkeypatch.setitem(PACKAGES, "no_such_module", "no-such-package")
    with pytest.raises(UserError, match="lacks no-such-package, and no wheels"):
        install_missing(tmp_path)
    (tmp_path / "wheels").mkdir()
    with pytest.raises(UserError, match="no-such-package cannot be installed from"):
        install_missing(tmp_path)


def test_packages_that_pythonpath_brings_are_not_missing(project, run_sh, tmp_path, monkeypatch):
    packages = project / "src/landmark/packages.py"
    known = 'PACKAGES = {\n    "of_a_cluster": "no-such-package",'
    packages.write_text(packages.read_text().replace("PACKAGES = {", known))
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "of_a_cluster.py").touch()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert run_sh("notebook", "--recipe", "tiny").returncode != 0
    monkeypatch.setenv("PYTHONPATH", str(modules))
    done = run_sh("notebook", "--recipe", "tiny")
    assert done.returncode == 0, done.stderr
