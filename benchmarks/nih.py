"""How much more than its pixels an X-ray tells `moco`: the NIH sample at 64 pixels, floor against encoder.

    hilum ingest --layout nih --source ../shared/data/nih-chestxray14-1000 --size 64 --out /tmp/nih
    python benchmarks/nih.py /tmp/nih --out /tmp/nih-benchmark

Protocols, from the most to the least cautious; probes never see a held-out patient's label in any of them:

crossfit       five patient-disjoint folds; both encoders are trained without the held-out fold, five times over
split          the dataset's own train and test split, once
transductive   one encoder on all images (without labels), then five-fold probes: held-out *images* were seen

Every difference `moco - pixels` has a 95% interval from resampling patients, both encoders on the same resamples.
An age error that falls is better; everything else should rise.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from hilum.data.store import FACTS, IMAGES, MANIFEST, Dataset, write_json
from hilum.identity import digest_json
from hilum.judgement import stats
from hilum.judgement.probing import probes, tasks
from hilum.learning import embedding, training
from hilum.recipe import Recipe, read

FOLDS = 5
RECIPE = Path(__file__).resolve().parents[1] / "pipelines" / "recipes" / "nih.yaml"
ENCODERS = ("pixels", "moco")
ASKED = {
    "sex": "balanced_accuracy",
    "view": "balanced_accuracy",
    "age": "mae",
    "no_finding": "auroc",
    "cardiomegaly": "auroc",
    "pleural_effusion": "auroc",
}


def resplit(dataset: Dataset, held_out: "np.ndarray[tuple[int], np.dtype[np.bool_]]", out: Path) -> Path:
    """The same images with another split: `held_out` rows are test, the others train."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    manifest = dataset.manifest.copy()
    manifest["split"] = np.where(held_out, "test", "train")
    manifest.to_parquet(out / MANIFEST, index=False)
    (out / IMAGES).symlink_to((dataset.path / IMAGES).resolve())
    name = digest_json({"data": dataset.facts.digest, "held_out": np.flatnonzero(held_out).tolist()})
    write_json(out / FACTS, {**dataset.facts.model_dump(mode="json"), "digest": name})
    return out


def answers(dataset: Path, recipe: Recipe, encoder: str, folds: int, out: Path) -> pd.DataFrame:
    """Train, embed and probe; the held-out scores of the RBF machine, one row per image and task."""
    run = training.run(dataset, recipe.train_of(encoder, "XR"), out / "encoder")
    embedding.run(dataset, run, out / "vectors")
    section = recipe.probe.model_copy(update={"folds": folds, "kernels": ("rbf",), "min_cases": 2, "bootstrap": 100})
    probes.run(dataset, out / "vectors", section, out / "probe", label="no_finding")
    return pd.read_parquet(out / "probe" / probes.PREDICTIONS)


def held_out_answers(dataset: Dataset, recipe: Recipe, encoder: str, protocol: str, out: Path) -> pd.DataFrame:
    """The held-out scores of one encoder under one protocol; `fold` says which fit each score comes from."""
    if protocol == "split":
        return answers(dataset.path, recipe, encoder, 0, out / encoder)
    if protocol == "transductive":
        everything = resplit(dataset, np.zeros(len(dataset.manifest), dtype=bool), out / "data")
        return answers(everything, recipe, encoder, FOLDS, out / encoder)
    fold_N = tasks.fold_of(dataset.manifest["patient_id"], FOLDS, recipe.probe.seed)
    parts = []
    for fold in range(FOLDS):
        data = resplit(dataset, fold_N == fold, out / f"data-{fold}")
        parts.append(answers(data, recipe, encoder, 0, out / f"{encoder}-{fold}").assign(fold=fold))
    return pd.concat(parts, ignore_index=True)


def told(answered: pd.DataFrame, task: str) -> pd.DataFrame:
    """Truth, score and fold of one task by row; a task of several classes (`view=AP`) as its last class against all."""
    names = sorted(name for name in answered["task"].unique() if name == task or name.startswith(f"{task}="))
    one = answered[answered["task"] == names[-1]].set_index("row").sort_index()
    if len(names) > 1:  # the class with the largest distance is the answer, so the sign of the difference is it
        others = [answered[answered["task"] == name].set_index("row")["score"] for name in names[:-1]]
        one = one.assign(score=one["score"] - pd.concat(others, axis=1).max(axis=1).reindex(one.index))
    return one


def row(task: str, metric: str, answered: dict[str, pd.DataFrame], seed: int) -> dict[str, str]:
    """One line of the table: both encoders and their paired difference, each with its interval."""
    judge = tasks.METRICS["regression" if metric == "mae" else "binary"][metric]
    one = {encoder: told(answered[encoder], task) for encoder in ENCODERS}
    floor, other = one["pixels"], one["moco"]
    assert floor.index.equals(other.index), "both encoders answer for the same held-out images"
    patients, truth, fold = (floor[name].to_numpy() for name in ("patient", "truth", "fold"))
    shown = {"task": task, "metric": metric, "n": f"{len(floor)} / {len(np.unique(patients))}"}
    for encoder in ENCODERS:
        found = stats.patient_bootstrap(judge, patients, 1000, seed, truth, one[encoder]["score"].to_numpy(), fold)
        shown[encoder] = f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
    gain = stats.patient_bootstrap(
        lambda w, y, a, b, f: judge(w, y, b, f) - judge(w, y, a, f),
        patients,
        1000,
        seed,
        truth,
        floor["score"].to_numpy(),
        other["score"].to_numpy(),
        fold,
    )
    shown["moco - pixels"] = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    return shown


def main() -> int:
    """Print the table; exit status 1 where the encoder does not beat the floor on the finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="what `hilum ingest --layout nih --size 64` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs; a run that is there is not repeated")
    parser.add_argument("--protocol", choices=("crossfit", "split", "transductive"), default="crossfit")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    options = parser.parse_args()
    dataset, recipe = Dataset.open(options.dataset), read(options.recipe)
    began = time.monotonic()
    out = options.out / options.protocol
    answered = {encoder: held_out_answers(dataset, recipe, encoder, options.protocol, out) for encoder in ENCODERS}
    table = pd.DataFrame([row(task, metric, answered, recipe.probe.seed) for task, metric in ASKED.items()])
    print(f"\n{options.protocol}, n = images / patients, {time.monotonic() - began:.0f} s\n")
    print(table.to_string(index=False))
    table.to_csv(out / "table.csv", index=False)
    floor, moco = (float(table.set_index("task").loc["no_finding", name].split()[0]) for name in ENCODERS)
    return 0 if moco > floor else 1


if __name__ == "__main__":
    sys.exit(main())
