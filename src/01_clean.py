"""Step 01: clean the noisy train set.

Reads   train.csv and the train images
Writes  input/<run>/train_clean.csv, and why each image was kept or not in input/<run>/clean_decisions.csv
Run     python src/01_clean.py --recipe sample
"""

import numpy as np
import pandas as pd

from landmark.cli import run_step
from landmark.competition import Competition, open_competition, write_table
from landmark.plan import open_job
from landmark.recipe import Recipe, weights_files


def main(recipe: Recipe) -> None:
    competition = open_competition(recipe)
    clean, decisions = recipe.work / "train_clean.csv", recipe.work / "clean_decisions.csv"
    job = open_job(
        recipe,
        "01_clean",
        reads={competition.table("train.csv"): "it belongs to the competition's data"}
        | weights_files(recipe.cleaning.representation.weights),
        writes=[clean, decisions],
        images=competition.state("train"),
    )
    if job.is_done():
        print(f"01 clean: up to date ({clean})")
        return
    job.start()
    table = judge(recipe, competition)
    kept = table[table["kept"]]
    if kept.empty:
        # Written all the same: the decisions tell why.
        print("01 clean: no image was kept; --set cleaning.more_than=-1 keeps every one")
    by_label = kept.groupby("landmark_id")["id"].agg(" ".join)
    write_table(clean, by_label.rename("images").reset_index())
    write_table(decisions, table)
    job.finish()
    print(f"01 clean: kept {len(kept)} of {len(table)} images, {len(by_label)} labels -> {clean}")
    print(table["reason"].value_counts().to_string(header=False))


def judge(recipe: Recipe, competition: Competition) -> pd.DataFrame:
    """The decisions, one row per train image (see cleaning.decide)."""
    # Imported here, so that a step with nothing to do ends before torch is loaded.
    from landmark import cleaning
    from landmark.descriptors import describe_split
    from landmark.network import DescriptorNet, load_backbone

    settings = recipe.cleaning
    source = settings.representation
    net = DescriptorNet(source.backbone, dim=0, gem_p=source.gem_p)
    load_backbone(net, source.backbone, source.weights)
    vectors, ids, bad = describe_split(net, competition, "train", source, recipe, "01 descriptors")

    frame = competition.train.set_index("id")
    labels = frame.loc[ids, "landmark_id"].to_numpy()
    if settings.more_than < 0:
        # Every image is kept; nothing has to be verified for that.
        neighbours = [np.zeros(0, np.int64)] * len(ids)
    else:
        neighbours = cleaning.same_label_neighbours(
            vectors, labels, settings.neighbours, settings.same_label, recipe.memory_gib
        )
    verified = verified_pairs(recipe, competition, ids, labels, neighbours)
    seen = pd.DataFrame({"id": ids, "landmark_id": labels, "neighbours": [len(row) for row in neighbours]})
    seen["verified"] = cleaning.count_verified(neighbours, verified)
    minimum = None
    if settings.agreement:
        minimum = settings.agreement.min_support
        seeds = seen["verified"].to_numpy() > 0
        seen["voted"], support = cleaning.agreement(vectors, labels, seeds, settings.agreement, recipe.memory_gib)
        seen["support"] = support.round(4)
    judged = cleaning.decide(seen, settings.more_than, minimum, settings.min_images)
    unread = pd.DataFrame({"id": list(bad), "reason": list(bad.values())})
    unread = unread.assign(
        landmark_id=frame.loc[list(bad), "landmark_id"].to_numpy(), kept=False, contradicted=False
    )
    whole = pd.concat([judged, unread]) if bad else judged
    # Nullable numbers: what was never looked at stays empty.
    return whole.astype({name: "Int64" for name in ("neighbours", "verified", "voted") if name in whole})


def verified_pairs(
    recipe: Recipe, competition: Competition, ids: list[str], labels: np.ndarray, neighbours: list[np.ndarray]
) -> np.ndarray:
    """The pairs of same-label neighbours that spatial verification confirms: (V, 2) rows."""
    from landmark.cleaning import pairs_by_label, pairs_of
    from landmark.local_features import extract_local
    from landmark.progress import track
    from landmark.verification import count_inliers

    pairs = pairs_of(neighbours)
    groups = list(pairs_by_label(pairs, labels))
    confirmed = [np.zeros((0, 2), np.int64)]
    for group in track(groups, len(groups), f"01 verifying {len(pairs)} pairs", unit="labels"):
        paths = ((row, competition.path("train", ids[row])) for row in np.unique(group).tolist())
        features = extract_local(paths, recipe.local_features, recipe.threads)
        inliers = count_inliers(group, features, features, recipe.verification, recipe.threads)
        confirmed.append(group[inliers >= recipe.verification.min_inliers])
    return np.concatenate(confirmed)


if __name__ == "__main__":
    run_step(main)
