"""The parts of judgement that benchmarks/growth.py measures, each as a pipeline step or a reader would ask for it.

A part is handed a folder with the cohort (benchmarks/growth_cohort.py), and writes what it makes beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from growth_cohort import DATASET_FOLDER, ENCODER, SEED, VECTORS_FOLDER

from hilum.data.store import read_json, write_json

LABEL: Final = "pleural_effusion"  # known for more images than any other finding with many on either side
REPLICATES, GROUPS = 2_000, 20  # of the bootstrap, as issue 4 asks
Work = Callable[[], str]  # what is timed; what it returns is a remark


@dataclass(frozen=True)
class Part:
    """Something that is measured.

    Attributes:
        ready: Imports what the part needs, so that the clock does not see it; returns the part.
        needs: Parts whose files it reads.
    """

    ready: Callable[[Path], Work]
    needs: tuple[str, ...] = ()


def probing(kernel: str) -> Part:
    """All tasks by one machine."""

    def ready(home: Path) -> Work:
        from hilum.judgement.probing import probes
        from hilum.recipe import Probe

        def work() -> str:
            recipe = Probe.model_validate({"kernels": [kernel], "seed": SEED})
            scores = probes.run(*folders(home), recipe, home / f"probe-{kernel}", LABEL)
            asked = scores[scores["value"].notna() & (scores["kind"] != "mean")]["task"].nunique()
            return f"{asked} questions"

        return work

    return Part(ready)


def folders(home: Path) -> tuple[Path, Path]:
    """Dataset and vectors."""
    return home / DATASET_FOLDER, home / VECTORS_FOLDER


def efficiency(home: Path) -> Work:
    """Label-efficiency curves of all labels."""
    from hilum.judgement.probing import efficiency as curves
    from hilum.recipe import Probe

    def work() -> str:
        scores = curves.run(*folders(home), Probe(seed=SEED), home / "efficiency")
        return f"{int(scores['auroc'].notna().sum())} fits"

    return work


def policies(home: Path) -> Work:
    """Uncertain labels, three ways."""
    from hilum.judgement.probing import policies as compared
    from hilum.recipe import Probe

    def work() -> str:
        scores = compared.compare(*folders(home), Probe(seed=SEED), home / "policies")
        return f"{scores[scores['value'].notna()]['label'].nunique()} labels"

    return work


def head(home: Path) -> Work:
    """The label's head, in the folder of the RBF probe, as `hilum probe` writes it."""
    from hilum.judgement.probing import head as heads
    from hilum.recipe import Probe

    def work() -> str:
        said = heads.run(*folders(home), LABEL, home / "probe-rbf", Probe(seed=SEED))
        return f"fitted on {said['train']['n']:,} rows" if said["answered"] else str(said["why"])

    return work


def read_off(home: Path) -> tuple[Any, Any, Any]:
    """Manifest rows, embeddings, and scores of the label by its difference of means: quick, whatever the size."""
    from hilum.data.store import Dataset
    from hilum.data.vectors import Vectors

    embedded = Vectors.open(home / VECTORS_FOLDER)
    table = embedded.joined(Dataset.open(home / DATASET_FOLDER))
    truth = table[LABEL].where(table[LABEL] >= 0).to_numpy(dtype=float)
    some = [np.flatnonzero(truth == value)[:1000] for value in (0, 1)]
    apart_D = embedded.z_ND[some[1]].mean(axis=0) - embedded.z_ND[some[0]].mean(axis=0)
    score = np.asarray(embedded.z_ND @ apart_D, dtype=float)
    return table, truth, (score - score.mean()) / score.std()


def bootstrap(home: Path) -> Work:
    """2,000 patient-bootstrap replicates of the AUROC of sex in 20 groups: every row has a truth."""
    from hilum.judgement import stats

    table, _, score = read_off(home)
    random = np.random.default_rng(SEED)
    names, patient = np.unique(table["patient_id"], return_inverse=True)
    group = random.integers(0, GROUPS, len(names))[patient]
    female = (table["sex"] == "F").to_numpy(dtype=float)
    groups = {g: np.flatnonzero(group == g) for g in range(GROUPS)}

    def work() -> str:
        mixed = score + female
        stats.grouped_bootstrap(stats.weighted_auroc, patient, groups, REPLICATES, SEED, female, mixed)
        return f"{len(female):,} rows in {GROUPS} groups"

    return work


def fairness(home: Path) -> Work:
    """All metrics of all groups and gaps, on all rows whose label is known."""
    from hilum.judgement.fairness import groups, tables
    from hilum.recipe import Audit

    table, truth, score = read_off(home)
    member = groups.attributes(table, groups.coverage(table))

    def work() -> str:
        recipe = Audit(label=LABEL, bootstrap=REPLICATES, seed=SEED)
        judged = tables.judge(truth, 1 / (1 + np.exp(-score)), 0.5, member, table["patient_id"], recipe)
        known = judged.groups[judged.groups["value"].notna()]
        n = len(known[["attribute", "group"]].drop_duplicates())
        return f"{n} groups of {int(np.isfinite(truth).sum()):,} rows"

    return work


def audit(home: Path) -> Work:
    """What `hilum audit` does on the test split."""
    from hilum.judgement.report import audit as report
    from hilum.recipe import Audit

    def work() -> str:
        recipe = Audit(label=LABEL, bootstrap=REPLICATES, seed=SEED)
        report.run(*folders(home), home / "probe-rbf", recipe, home / "audit")
        return f"audit.html {megabytes(home / 'audit' / report.PAGE)}"

    return work


def shortcuts(home: Path) -> Work:
    """The shortcut audit."""
    from hilum.judgement.shortcuts import scan
    from hilum.recipe import Shortcuts

    def work() -> str:
        said = scan.run(*folders(home), home / "probe-rbf", Shortcuts(seed=SEED), home / "shortcuts", LABEL)
        return f"{said['n_images']:,} images"

    return work


def drawn_map(home: Path) -> Work:
    """The map as a picture."""
    from hilum.judgement.explorer import maps

    def work() -> str:
        out = home / "map"
        out.mkdir(exist_ok=True)
        maps.map_picture(*folders(home), out, LABEL, SEED)
        return f"at most {maps.MAX_POINTS:,} points"

    return work


def tsne(home: Path) -> Work:
    """t-SNE of every row, which no step of the pipeline asks for."""
    from hilum.data.vectors import Vectors
    from hilum.judgement.explorer import maps

    z_ND = Vectors.open(home / VECTORS_FOLDER).z_ND

    def work() -> str:
        return f"{len(maps.project(z_ND, SEED)):,} points"

    return work


def explore(home: Path) -> Work:
    """The page."""
    from hilum.judgement.explorer import explore as explorer
    from hilum.recipe import Explore

    def work() -> str:
        recipe, out = Explore(seed=SEED), home / "explore.html"
        explorer.run(*folders(home), out, recipe, home / "probe-rbf")
        return f"page {megabytes(out)}, at most {recipe.max_points:,} points"

    return work


def gate(home: Path) -> Work:
    """The verdict, a gain over a floor among what is asked; the floor is the linear probe under the name `pixels`."""
    import shutil

    from hilum.judgement.gate import verdict
    from hilum.recipe import Gate

    floor = home / "floor"
    shutil.copytree(home / "probe-linear", floor, dirs_exist_ok=True)
    write_json(floor / "probe.json", {**read_json(floor / "probe.json"), "encoder": "pixels"})
    probed, audited = (home / "probe-rbf", floor), (home / "audit", home / "audit")

    def work() -> str:
        recipe = Gate(min_gain=0.0, shortcut_audit="required")
        shown = home / "shortcuts"
        said = verdict.run(probed, audited, recipe, ENCODER, LABEL, home / "gate", shortcut_dirs=(shown,))
        return f"{len(said.criteria)} criteria"

    return work


def megabytes(path: Path) -> str:
    """Of a file."""
    return f"{path.stat().st_size / 1e6:.1f} MB"


PARTS: Final[Mapping[str, Part]] = {
    "bootstrap": Part(bootstrap),
    "fairness": Part(fairness),
    "probe-linear": probing("linear"),
    "probe-rbf": probing("rbf"),
    "probe-logistic": probing("logistic"),
    "probe-knn": probing("knn"),
    "probe-mlp": probing("mlp"),
    "efficiency": Part(efficiency),
    "policies": Part(policies),
    "head": Part(head),
    "audit": Part(audit, ("probe-rbf", "head")),
    "shortcuts": Part(shortcuts, ("probe-rbf",)),
    "map": Part(drawn_map),
    "tsne": Part(tsne),
    "explore": Part(explore, ("probe-rbf",)),
    "gate": Part(gate, ("probe-linear", "audit", "shortcuts")),
}
