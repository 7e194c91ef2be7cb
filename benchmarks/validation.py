"""How long validation takes at real size: the 223,414 rows of CheXpert's training table, after imports.

The labels, ages and ids are CheXpert's; the pixel statistics are drawn, because the table comes without images.

    python benchmarks/validation.py [TRAIN.CSV]
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from hilum.data.expectations import check
from hilum.data.layouts import chexpert
from hilum.data.manifest import assign_splits, conform
from hilum.data.store import DatasetFacts
from hilum.data.tables import read_table
from hilum.data.vocabulary import CHEXPERT_FINDINGS
from hilum.recipe import Preprocessing

LIMIT_SECONDS = 10.0
TABLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "metadata" / "chexpert_train.csv.gz"


def manifest_of(path: Path, seed: int = 0) -> tuple[pd.DataFrame, DatasetFacts]:
    """CheXpert's table as a manifest with drawn pixel statistics, and the facts that go with it."""
    rows = chexpert.rows_of(read_table(path), path)
    random, n = np.random.default_rng(seed), len(rows)
    rows["split"] = assign_splits(rows["patient_id"], {"train": 0.7, "val": 0.1, "test": 0.2}, seed)
    rows["pixel_digest"] = [f"{number:032x}" for number in range(n)]
    rows["pixel_mean"] = random.uniform(90, 150, n)
    rows["pixel_std"] = random.uniform(40, 70, n)
    rows["pixel_min"], rows["pixel_max"], rows["saturated_share"] = 0.0, 255.0, random.uniform(0, 0.02, n)
    rows["o2_saturation_pct"] = np.where(random.random(n) < 0.3, np.nan, random.uniform(80, 100, n))
    labels = tuple(CHEXPERT_FINDINGS.values())
    manifest = conform(rows, labels, ("o2_saturation_pct",))
    facts = DatasetFacts(
        layout="chexpert",
        source_revision="folder",
        source_digest="0" * 64,
        digest="0" * 64,
        code_revision="benchmark",
        hilum_version="benchmark",
        preprocessing=Preprocessing(),
        labels=labels,
        covariates=("o2_saturation_pct",),
        n_images=n,
        n_patients=int(rows["patient_id"].nunique()),
        n_rejected=0,
        licence="Stanford University Dataset Research Use Agreement",
        citation="Irvin et al. 2019",
    )
    return manifest, facts


def main() -> int:
    """Print the seconds of three runs; exit status 1 where the best is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", default=TABLE, help="CheXpert's train.csv, or train.csv.gz")
    path = parser.parse_args().table
    if not path.is_file():
        print(f"validation: not measured, CheXpert's table does not lie at {path}")
        return 0
    manifest, facts = manifest_of(path)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        checks = check(manifest, facts)
        seconds.append(time.perf_counter() - start)
    failed = [one.name for one in checks if not one.ok]
    print(
        f"validation: {len(manifest):,} rows, {len(checks)} checks, best {min(seconds):.1f} s of "
        f"{', '.join(f'{second:.1f}' for second in seconds)} (limit {LIMIT_SECONDS:g} s); not passed: {failed}"
    )
    return int(min(seconds) > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
