#!/usr/bin/env bash
# The whole solution, step by step. See `bash run.sh --help`.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
    cat <<'TEXT'
bash run.sh [--recipe NAME] [--set KEY=VALUE ...] [--from NN | --only NN]
bash run.sh ablation [--recipe NAME] [--set KEY=VALUE ...] [--variants NAME ...]
bash run.sh test [pytest arguments]
bash run.sh download --recipe NAME [--set KEY=VALUE ...] [--splits NAME ...] [--shards NUMBERS] [--dry-run] ...
bash run.sh notebook [--recipe NAME] [--set KEY=VALUE ...] [--task retrieval|recognition]
bash run.sh revisited [--recipe NAME] [--set KEY=VALUE ...] --benchmarks FOLDER [--names NAME ...]

Sets up a Python environment (once), then runs the steps of the solution in order. What is done and still up to
date is not done again.

  --recipe NAME     a recipe of src/recipes (sample, photos, modern, gldv2_micro, gld2019), or a YAML file; default: sample
  --set KEY=VALUE   override settings; more may follow, or another --set. For example --set data=FOLDER, --set device=cpu,
                    --set models.arcface.weight=0.5
  --from NN         start with step NN (00 to 07)
  --only NN         run step NN alone
  ablation          run all steps, then the method with parts left out, reusing what is common, and write one table
                    of the scores, submissions/RUN/ablation.csv and ablation.md; the data must have its solutions
  --variants NAME   of the ablation, only these: without-cleaning, soft-only, hard-only, without-finetune, only-MODEL,
                    single-scale, without-dqe, without-sort, without-insert, without-inliers, without-ban
  test              run the tests
  download          fetch the recipe's data: Google Landmarks v2 (--recipe gld2019; about 600 GB, or a part of it by
                    --splits train, --shards 0-9, --set bucket.longest_side=512), or what it names on Kaggle;
                    stopped and run again it goes on. All options: bash run.sh download --help
  notebook          write a Kaggle notebook of the steps and the dataset that it needs, with the recipe's models where
                    they are trained, to submissions/notebook/; --task names the competition that it enters
  revisited         score the recipe's models on the benchmarks of FOLDER, roxford5k and rparis6k or those of --names;
                    FOLDER/NAME has gnd_NAME.pkl and jpg/. Trained models must be there: run the steps first

Steps: 00 sample  01 clean  02 train  03 fine-tune  04 extract  05 retrieve  06 recognize  07 submit
Where a recipe's step 01 starts from a bootstrap round, that round's 01 and 02 run before it.
Inside a Kaggle notebook, a virtual or a conda environment no new environment is made: only missing packages are
installed there.
TEXT
}

fail() {
    echo "error: $1" >&2
    exit 1
}

# Use the environment that is active, else make .venv from requirements.txt, once per version of that file.
set_up() {
    if [[ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}${KAGGLE_KERNEL_RUN_TYPE:-}" ]]; then
        python=python
        local missing
        missing="$(missing_packages)"
        [[ -z "$missing" ]] || "$python" -m pip install --disable-pip-version-check $missing
        return
    fi
    local venv="$here/.venv" stamp="$here/.venv/requirements.done"
    python="$venv/bin/python"
    if ! cmp -s "$here/requirements.txt" "$stamp"; then
        local base
        base="$(find_python)" || fail "no Python 3.11 to 3.13 found; install one, or activate an environment that has it"
        echo "setting up $venv (about 7 GB with torch's GPU libraries; some minutes, once)"
        "$base" -m venv "$venv"
        "$python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
        cp "$here/requirements.txt" "$stamp"
    fi
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

missing_packages() {
    PYTHONPATH="$here/src${PYTHONPATH:+:$PYTHONPATH}" "$python" -m landmark.packages
}

run_tests() {
    set_up
    local tools=(pytest hypothesis nbclient ipykernel)
    "$python" -c "import ${tools[0]}$(printf ', %s' "${tools[@]:1}")" 2>/dev/null ||
        "$python" -m pip install --disable-pip-version-check "${tools[@]}"
    cd "$here"
    exec "$python" -m pytest "$@"
}

run_ablation() {
    [[ -z "$first$only" ]] || fail "ablation runs all steps; leave out --from and --only"
    set_up
    exec "$python" "$here/src/ablation.py" --recipe "$recipe" ${overrides[@]+--set "${overrides[@]}"} "$@"
}

steps=(00_sample 01_clean 02_train 03_finetune 04_extract 05_retrieve 06_recognize 07_submit)

if [[ " revisited notebook download " == *" ${1:-} "* ]]; then
    set_up
    exec "$python" "$here/src/$1.py" "${@:2}"
fi

recipe=sample
first=
only=
overrides=()
while [[ $# -gt 0 ]]; do
    case "$1" in
        test) shift; run_tests "$@" ;;
        ablation) shift; run_ablation "$@" ;;
        -h | --help) usage; exit 0 ;;
        --recipe | --set | --from | --only)
            [[ $# -ge 2 ]] || fail "$1 needs a value; see bash run.sh --help"
            case "$1" in
                --recipe) recipe="$2" ;;
                --set)
                    overrides+=("$2")
                    while [[ "${3:-}" == *=* ]]; do
                        overrides+=("$3")
                        shift
                    done
                    ;;
                --from) first="$2" ;;
                --only) only="$2" ;;
            esac
            shift 2
            ;;
        *) fail "unknown argument $1; see bash run.sh --help" ;;
    esac
done
[[ -z "$first" || -z "$only" ]] || fail "give --from or --only, not both"
for number in ${first:+"$first"} ${only:+"$only"}; do
    [[ " ${steps[*]} " == *" ${number}_"* ]] || fail "there is no step $number; steps: ${steps[*]}"
done

run_step() {
    local started=$SECONDS
    "$python" "$here/src/$1.py" --recipe "$recipe" ${overrides[@]+--set "${overrides[@]}"} "${@:2}"
    echo "   ($((SECONDS - started)) s)"
}

# Whether step 01 starts from what a bootstrap round of steps 01 and 02 makes.
needs_bootstrap() {
    "$python" - "$here/src" "$recipe" ${overrides[@]+"${overrides[@]}"} <<'PYTHON'
import sys

sys.path.insert(0, sys.argv[1])
from landmark.errors import UserError
from landmark.recipe import load_recipe

try:
    sys.exit(not load_recipe(sys.argv[2], sys.argv[3:]).uses_bootstrap)
except UserError:
    sys.exit(1)  # the first step tells what is wrong
PYTHON
}

set_up
SECONDS=0
for step in "${steps[@]}"; do
    number="${step%%_*}"
    [[ -z "$only" || "$number" == "$only" ]] || continue
    [[ -z "$first" || ! "$number" < "$first" ]] || continue
    if [[ "$number" == 01 ]] && needs_bootstrap; then
        run_step 01_clean --round bootstrap
        run_step 02_train --round bootstrap
    fi
    run_step "$step"
done
echo "done in $SECONDS s"
