"""L2 logistic regression on frozen embeddings; for a number its sibling, ridge regression.

Legend: N rows to fit on, M rows to score, D width of the embedding, K classes. C is the inverse strength of the
penalty, as scikit-learn has it: |w|^2 / 2 + C * loss. Embeddings come scaled to a mean squared length of 1.
"""

from collections.abc import Sequence
from typing import Any, Final

from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge

from hilum.judgement.probing.svm import Floats, Kind, answer, location

C_GRID: Final = (0.003, 0.03, 0.3, 3.0, 30.0, 300.0)  # weights on features of length 1 must be large to say much


def scores(z_ND: Floats, y_N: NDArray[Any], z_MD: Floats, kind: Kind, grid: Sequence[float]) -> list[Floats]:
    """Scores of the held-out rows for each C.

    Returns:
        For each C: (M,) log odds (binary) or values (regression), (M, K) one score per class (multiclass). Classes are
        weighed alike, so a log odds of 0 is an undecided row whatever the prevalence.
    """
    mean, sd = location(y_N, kind)
    found = []
    for c in grid:
        if kind == "regression":
            machine = Ridge(alpha=1 / (2 * c)).fit(z_ND, (y_N - mean) / sd)  # |w|^2 / 2 + C * squared error
        else:
            # Far more steps than it takes: a fit that stopped early would not be the one that its C names.
            machine = LogisticRegression(C=c, class_weight="balanced", max_iter=10_000).fit(z_ND, y_N)
        found.append(answer(machine, z_MD, kind, mean, sd))
    return found
