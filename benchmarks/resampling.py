"""The patient bootstrap at the size of CheXpert: time, memory, and the ratio to a plain loop.

    python benchmarks/resampling.py

Draws predictions of the size of CheXpert's table (223,414 images of 64,540 patients, 20 groups, scores that tie), and
measures 2,000 replicates of the AUROC in every group with `stats.grouped_bootstrap`, then of other metrics. The plain
loop (scikit-learn's `roc_auc_score` on the rows of the patients drawn) is run for a few replicates of a tenth of the
patients, where the quick way is measured too; both draw the same patients, and their replicates are compared.

Exit status 1 where the AUROC takes longer than the limit, or where the two ways differ.
"""

import argparse
import os
import resource
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from hilum.judgement import stats
from hilum.judgement.stats.resampling import times_drawn

N_ROWS, N_PATIENTS, N_GROUPS = 223_414, 64_540, 20  # CheXpert's training set (Irvin et al. 2019)
LIMIT_SECONDS = 30.0  # of issue 4, for 2,000 replicates on 2 cores
SEED = 0


def cohort(n_rows: int, n_patients: int) -> dict[str, NDArray[np.float64]]:
    """Predictions with planted structure: a patient's films share an effect; scores are rounded, so some tie."""
    random = np.random.default_rng(SEED)
    patient = np.sort(np.r_[np.arange(n_patients), random.integers(0, n_patients, n_rows - n_patients)])
    group = random.integers(0, N_GROUPS, n_patients)[patient]
    truth = (random.random(n_rows) < 0.1 + 0.01 * group).astype(float)
    score = 1.2 * truth + random.normal(size=n_patients)[patient] + random.normal(size=n_rows)
    probability = np.round(1 / (1 + np.exp(2.5 - score)), 4)
    return {"patient": patient, "group": group, "truth": truth, "probability": probability}


def timed(work: Callable[[], stats.Grouped[int]]) -> tuple[stats.Grouped[int], float, float, float]:
    """What it returns, its seconds by the clock and of a core, and the MiB by which the process grew meanwhile."""
    grown, done = [resident()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            grown.append(resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began, busy = time.perf_counter(), time.process_time()
    found = work()
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    done.set()
    watcher.join()
    return found, seconds, busy, max(grown) - grown[0]


def resident() -> float:
    """Memory of the process now, MiB."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def plain_loop(rows: dict[str, NDArray[np.float64]], replicates: int) -> tuple[NDArray[np.float64], float]:
    """Replicates of every group's AUROC as one would write them down, and the seconds of a core they took."""
    names, code = np.unique(rows["patient"], return_inverse=True)
    times_RP = times_drawn(np.random.default_rng(SEED), replicates, len(names))
    of_patient = np.split(np.arange(len(code)), np.flatnonzero(np.diff(code)) + 1)
    found, began = np.empty((replicates, N_GROUPS)), time.process_time()
    for r, times_P in enumerate(times_RP):
        drawn = np.concatenate([np.tile(own, times) for own, times in zip(of_patient, times_P, strict=True)])
        for g in range(N_GROUPS):
            own = drawn[rows["group"][drawn] == g]
            found[r, g] = roc_auc_score(rows["truth"][own], rows["probability"][own])
    return found, time.process_time() - began


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--plain", type=int, default=20, help="replicates of the plain loop")
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} CPU cores, load of the machine now {os.getloadavg()[0]:.1f}")
    rows = cohort(N_ROWS, N_PATIENTS)
    groups = {g: np.flatnonzero(rows["group"] == g) for g in range(N_GROUPS)}
    truth, probability = rows["truth"], rows["probability"]
    called = (probability >= 0.2).astype(float)
    asked: dict[str, tuple[stats.Statistic, tuple[NDArray[np.float64], ...], stats.Method, int]] = {
        "AUROC": (stats.weighted_auroc, (truth, probability), "percentile", options.replicates),
        "AUROC, BCa": (stats.weighted_auroc, (truth, probability), "bca", options.replicates),
        "sensitivity": (stats.weighted_sensitivity, (truth, called), "percentile", options.replicates),
        "Brier score": (stats.weighted_brier, (truth, probability), "percentile", options.replicates),
        "ECE": (stats.weighted_ece, (truth, probability), "percentile", options.replicates // 10),
        "AUPRC": (stats.weighted_auprc, (truth, probability), "percentile", options.replicates // 10),
    }
    auroc_seconds = 0.0
    print(f"{N_ROWS:,} rows, {N_PATIENTS:,} patients, {N_GROUPS} groups")
    print("| metric | replicates | seconds | of a core | memory added, MiB | first group |\n| - | - | - | - | - | - |")
    for name, (statistic, columns, method, replicates) in asked.items():
        found, seconds, busy, grown = timed(
            lambda statistic=statistic, columns=columns, method=method, replicates=replicates: stats.grouped_bootstrap(
                statistic, rows["patient"], groups, replicates, SEED, *columns, method=method
            )
        )
        auroc_seconds = seconds if name == "AUROC" else auroc_seconds
        print(
            f"| {name} | {replicates:,} | {seconds:.1f} | {busy:.1f} | {grown:.0f} | {found.interval(0)} |", flush=True
        )
    small = cohort(N_ROWS // 10, N_PATIENTS // 10)
    slow, slow_seconds = plain_loop(small, options.plain)
    groups = {g: np.flatnonzero(small["group"] == g) for g in range(N_GROUPS)}
    quick, _, quick_seconds, _ = timed(
        lambda: stats.grouped_bootstrap(
            stats.weighted_auroc, small["patient"], groups, options.replicates, SEED, small["truth"],
            small["probability"],
        )
    )  # fmt: skip
    apart = float(np.abs(quick.drawn_RG[: options.plain] - slow).max())
    ratio = (slow_seconds / options.plain) / (quick_seconds / options.replicates)
    print(
        f"a tenth of the patients, core time a replicate: plain loop {1000 * slow_seconds / options.plain:.1f} ms, "
        f"grouped_bootstrap {1000 * quick_seconds / options.replicates:.2f} ms, ratio {ratio:.0f}; "
        f"largest difference of a replicate {apart:.1g}"
    )
    print(f"most memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    return 0 if auroc_seconds < LIMIT_SECONDS and apart < 1e-9 else 1


if __name__ == "__main__":
    sys.exit(main())
