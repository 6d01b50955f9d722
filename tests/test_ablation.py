"""Parts of the method left out: the variants, their runs, and the table."""

import importlib
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest

from landmark.ablation import FULL, Judged, choose, compare, judge, markdown, report, variants
from landmark.errors import UserError
from landmark.plan import job_settings
from landmark.recipe import load_recipe
from landmark.submission import Solution

ALL = ["without-cleaning", "soft-only", "hard-only", "without-finetune", "only-imagenet", "only-arcface"]
ALL += ["single-scale", "without-dqe", "without-sort", "without-insert", "without-inliers", "without-ban"]


def overrides_of(*settings, recipe="sample"):
    found, _ = variants(load_recipe(recipe, list(settings)))
    return {variant.name: list(variant.overrides) for variant in found}


def test_each_variant_of_the_sample_overrides_what_it_leaves_out_and_no_more():
    found = overrides_of()
    assert list(found) == ALL
    assert found["without-cleaning"] == ["cleaning.more_than=-1", "gallery=all"]
    assert found["soft-only"] == ["models.arcface.training.stages=[{augmentation: soft, epochs: 5}]"]
    assert found["hard-only"] == ["models.arcface.training.stages=[{augmentation: hard, epochs: 7}]"]
    assert found["without-finetune"] == ["models.arcface.finetune=null"]
    assert found["single-scale"] == ["extraction.scales=[1.0]"]
    assert found["without-dqe"] == ["retrieval.rerank=[]"]
    assert found["without-sort"] == ["retrieval.sort=false"]
    assert found["without-insert"] == ["retrieval.insert_above=null"]
    assert found["without-inliers"] == ["recognition.verify=none"]
    assert found["without-ban"] == ["recognition.ban_above=null"]
    assert overrides_of("retrieval.rerank=[dqe, aqe]")["without-dqe"] == ["retrieval.rerank=[aqe]"]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        *[("without-cleaning", "01"), ("soft-only", "02"), ("hard-only", "02"), ("without-finetune", "04")],
        *[("only-imagenet", "04"), ("single-scale", "04"), ("without-dqe", "05"), ("without-sort", "05")],
        *[("without-insert", "05"), ("without-inliers", "06"), ("without-ban", "06")],
    ],
)
def test_the_first_job_that_a_variant_changes_is_of_the_step_that_the_part_belongs_to(name, step):
    recipe = load_recipe("sample")
    changed = load_recipe("sample", overrides_of()[name])
    before, after = job_settings(recipe), job_settings(changed)
    assert min(job[:2] for job, settings in after.items() if before.get(job) != settings) == step


@pytest.mark.parametrize("recipe", ["sample", "photos", "modern", "gld2019"])
def test_a_single_model_is_the_recipes_own_to_the_last_digit(recipe, tmp_path):
    data = [] if recipe == "sample" else [f"data={tmp_path}"]
    whole = load_recipe(recipe, data)
    for model in whole.models:
        only = overrides_of(*data, recipe=recipe)[f"only-{model.name}"]
        changed = load_recipe(recipe, [*data, *only])
        assert changed.models == [model] and changed.bootstrap == whole.bootstrap


@pytest.mark.parametrize(
    ("settings", "without", "reason"),
    [
        (["cleaning.more_than=-1"], ["without-cleaning"], "cleans nothing"),
        (["models=[{name: a, loss: null}]"], ["soft-only", "hard-only", "without-finetune", "only-a"], ""),
        (
            ["models.arcface.training.stages=[{augmentation: soft, epochs: 1}]"],
            ["soft-only", "hard-only"],
            "other",
        ),
        (
            ["models.arcface.training.stages=[{augmentation: none, epochs: 1}]"],
            ["soft-only", "hard-only"],
            "other",
        ),
        (["models.arcface.finetune=null"], ["without-finetune"], "no model is fine-tuned"),
        (["extraction.scales=[1.0]"], ["single-scale"], "the one scale"),
        (["retrieval.rerank=[aqe]"], ["without-dqe", "without-sort", "without-insert"], "the recipe has no"),
        (["retrieval.sort=false"], ["without-sort"], "no sort step"),
        (["retrieval.insert_above=null"], ["without-insert"], "no insert step"),
        (["recognition.verify=none"], ["without-inliers"], "no inlier term"),
        (["recognition.ban_above=null"], ["without-ban"], "bans no distractors"),
    ],
)
def test_what_the_recipe_does_not_have_cannot_be_left_out_and_the_reason_is_told(settings, without, reason):
    found, left_out = variants(load_recipe("sample", settings))
    assert list(left_out) == without and all(reason in why for why in left_out.values())
    assert not {variant.name for variant in found} & set(without)


def test_of_several_models_those_with_both_kinds_of_stages_change_and_a_published_list_is_cleaning(tmp_path):
    found = overrides_of(f"data={tmp_path}", "cleaning.published=list.csv", recipe="gld2019")
    changed = ["models.resnet101-arcface-both.training.stages=[{augmentation: hard, epochs: 7}]"]
    assert found["hard-only"] == changed
    assert len(found["without-finetune"]) == 4
    assert found["without-cleaning"] == ["cleaning.more_than=-1", "cleaning.published=null"]


def test_delf_that_the_run_itself_trains_is_left_out_of_every_variant():
    settings = ["delf={of: imagenet}"]
    found = overrides_of(*settings)
    assert all(overrides[-1] == "delf=null" for overrides in found.values())
    assert load_recipe("sample", [*settings, *found["only-arcface"]]).delf is None


def test_variants_are_chosen_by_name_and_a_mistyped_name_is_told_its_nearest():
    found, left_out = variants(load_recipe("sample", ["retrieval.sort=false"]))
    chosen, why = choose(found, left_out, ["without-ban", "without-sort", "soft-only"])
    assert [variant.name for variant in chosen] == ["soft-only", "without-ban"] and list(why) == ["without-sort"]
    assert choose(found, left_out, []) == (found, left_out)
    with pytest.raises(UserError, match="no-sort: no such variant; did you mean .*sort") as error:
        choose(found, left_out, ["without-ban", "no-sort"])
    assert "\n" not in str(error.value)


def of_scores(score, samples):
    return Judged(dict.fromkeys(("all", "Public", "Private"), score), dict.fromkeys(("all", "Public"), samples))


def test_the_table_has_paired_differences_and_marks_those_whose_interval_excludes_zero():
    draws = np.linspace(0, 1, 41)
    judged = {
        FULL: of_scores(0.5, draws),
        "worse": of_scores(0.4, draws - 0.1),
        "noise": of_scores(0.5 + 1e-16, draws + 1e-16),
        "unsure": of_scores(0.5, draws + np.linspace(-0.2, 0.2, 41)),
    }
    for one in judged.values():
        one.scores["Private"], one.samples["Private"] = None, np.full(41, np.nan)
    table = compare("GAP", judged).set_index(["variant", "subset"])
    # 2.5 % of 41 values from either end is the place of the second value.
    assert table.loc[(FULL, "all"), ["score", "low", "high"]].tolist() == pytest.approx([0.5, 0.025, 0.975])
    assert table.loc[FULL, ["difference", "differs"]].isna().all(axis=None)
    differences = ["difference", "difference_low", "difference_high"]
    # Paired: whatever the scores vary, the difference does not.
    assert table.loc[("worse", "all"), differences].tolist() == pytest.approx([-0.1] * 3)
    assert table.loc[("unsure", "Public"), differences].tolist() == pytest.approx([0, -0.19, 0.19])
    marks = table["differs"].unstack()["all"]
    assert marks["worse"] is True and marks["noise"] is False and marks["unsure"] is False
    assert table.loc["worse", "score"].isna().tolist() == [False, False, True]
    assert table.loc[("worse", "Private")].drop("metric").isna().all()

    text = markdown(table.reset_index())
    lines = {line.split("|")[1].strip(): line for line in text.splitlines()}
    assert len(set(map(len, lines.values()))) == 1
    assert lines["worse"].count("-0.1000 (-0.1000 … -0.1000) *") == 2 and "–" in lines["worse"]
    assert "0.5000 (0.0250 … 0.9750) | +0.0000 (+0.0000 … +0.0000)  " in lines["noise"].replace("  | ", " | ")
    assert "difference" not in markdown(table.reset_index(), [])


def test_a_submission_is_judged_as_step_07_judges_it_and_its_draws_are_those_of_every_other(tmp_path):
    truth = {"a": {1}, "b": {2}, "c": set()}
    solution = Solution(truth, {"a": "Public", "b": "Private", "c": "Private"}, frozenset())
    for name, cells in {"good": ["1 0.9", "2 0.8", ""], "worse": ["1 0.9", "1 0.8", ""]}.items():
        rows = "".join(f"{i},{cell}\n" for i, cell in zip(truth, cells, strict=True))
        (tmp_path / f"{name}.csv").write_text("id,landmarks\n" + rows)
    good, worse = (judge("recognition", solution, tmp_path / f"{name}.csv") for name in ("good", "worse"))
    assert good.scores == {"all": 1, "Public": 1, "Private": 1}
    assert worse.scores == {"all": 0.5, "Public": 1, "Private": 0}
    drawn = ~np.isnan(good.samples["all"])
    assert (good.samples["all"][drawn] == 1).all() and np.array_equal(drawn, ~np.isnan(worse.samples["all"]))
    public = good.samples["Public"] - worse.samples["Public"]
    assert (public[~np.isnan(public)] == 0).all()


def test_the_report_says_what_each_variant_sets_and_which_are_left_out():
    found, _ = variants(load_recipe("sample"))
    judged = {FULL: of_scores(0.5, np.ones(3))}
    judged[FULL].samples["Private"] = np.ones(3)
    text = report("sample", compare("GAP", judged), found[-1:], {"without-sort": "the recipe has no sort step"})
    assert "- without-ban: `recognition.ban_above=null`\n" in text
    assert text.endswith("- without-sort is left out: the recipe has no sort step\n")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('error: a disk is full', file=sys.stderr); print('a warning'); sys.exit(1)", "a disk is full"),
        ("raise ValueError('a bug')", "ValueError: a bug"),
        ("os.kill(os.getpid(), 9)", "stopped by signal 9"),
    ],
)
def test_a_step_of_a_variant_that_fails_is_told_in_its_own_words(tmp_path, code, message):
    step, log = tmp_path / "05_retrieve.py", tmp_path / "ablation.log"
    step.write_text(f"import os, sys\n{code}\n")
    with pytest.raises(UserError, match=message) as error:
        importlib.import_module("ablation").run_step(step, [], log)
    assert "05_retrieve" in str(error.value) and "\n" not in str(error.value)


def test_a_step_of_the_main_run_that_fails_ends_the_ablation_with_its_code(tmp_path):
    step = tmp_path / "05_retrieve.py"
    step.write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(SystemExit) as end:
        importlib.import_module("ablation").run_step(step, [], None)
    assert end.value.code == 3


def test_without_solutions_nothing_is_begun(tmp_path, tiny_data, monkeypatch):
    monkeypatch.setattr("landmark.recipe.ROOT", tmp_path)
    shutil.copytree(tiny_data, tmp_path / "data")
    (tmp_path / "data/retrieval_solution.csv").unlink()
    recipe, find = (
        load_recipe("photos", [f"data={tmp_path / 'data'}"]),
        importlib.import_module("ablation").find_solutions,
    )
    assert find(recipe) == {"recognition": tmp_path / "data/recognition_solution.csv"}
    (tmp_path / "data/recognition_solution.csv").unlink()
    with pytest.raises(UserError, match="has no solutions.*put retrieval_solution.csv or"):
        find(recipe)


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


def test_run_sh_ablation_compares_two_variants_with_the_whole_and_does_nothing_the_second_time(
    project, run_sh, tiny_data
):
    shutil.copytree(tiny_data, project / "input/tiny_data")
    quick = ["--set", "models=[{name: imagenet, loss: null}]", "--set", "cleaning.more_than=-1"]
    command = ["ablation", "--recipe", "tiny", *quick, "--variants", "without-sort", "single-scale", "soft-only"]
    first = run_sh(*command)
    assert first.returncode == 0, first.stderr
    assert "soft-only is left out: no model is trained with soft" in first.stdout
    main, out = project / "input/tiny", project / "submissions/tiny"
    table = pd.read_csv(out / "ablation.csv").set_index(["variant", "metric", "subset"])
    scores = json.loads((out / "scores.json").read_text())
    for metric, task, name in (("mAP@100", "retrieval", "map100"), ("GAP", "recognition", "gap")):
        for subset, score in scores[task][name].items():
            assert table.loc[(FULL, metric, subset), "score"] == score
        assert table.loc[(FULL, metric, "all"), ["low", "high"]].tolist() == scores["intervals"][task][name]
    assert table.index.unique("variant").tolist() == [FULL, "single-scale", "without-sort"]
    # Without the sort step labels and scores are what they were.
    assert (table.xs(("without-sort", "GAP"), level=(0, 1))["difference"] == 0).all()
    assert "- without-sort: `retrieval.sort=false`" in (out / "ablation.md").read_text()
    # What the variants do not change they have in common with the main run, whose files stay its own.
    vectors = "descriptors/imagenet/test.npy"
    assert os.path.samefile(main / vectors, project / "input/tiny-without-sort" / vectors)
    assert not os.path.samefile(main / vectors, project / "input/tiny-single-scale" / vectors)
    results = {
        name: path for name, path in files_of(main).items() if name not in ("recipe.json", "done/ablation.json")
    }
    seeded = (project / "input/tiny-single-scale/seeded.json").stat().st_mtime_ns
    assert all(path.stat().st_mtime_ns < seeded for path in results.values())

    times = {path: path.stat().st_mtime_ns for path in [*project.glob("input/**/*"), *out.iterdir()]}
    second = run_sh(*command)
    assert second.returncode == 0, second.stderr
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert "without-sort: up to date" in second.stdout and "single-scale: up to date" in second.stdout
    assert second.stdout.count("| without-sort") == 2

    assert run_sh("--only", "05", "ablation").stderr.startswith("error: ablation runs all steps")
    wrong = run_sh(*command, "without-srot")
    assert wrong.returncode == 1 and wrong.stderr.count("\n") == 1 and "without-sort" in wrong.stderr
