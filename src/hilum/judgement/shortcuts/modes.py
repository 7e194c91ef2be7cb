"""Does the embedding differ between groups along its main directions? Kolmogorov-Smirnov tests of principal components.

After Glocker et al. 2023 (Algorithmic encoding of protected characteristics in chest X-ray disease detection models,
eBioMedicine 89): groups are resampled to the same composition of label and view, so that a difference of prevalence is
not taken for one of the embedding, and p-values are corrected by Benjamini & Yekutieli (2001), whatever their
dependence. One image of each patient is taken, since the test asks for independent values.

Legend: N rows, D features, C components.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, ks_2samp

from hilum.judgement.shortcuts.attributes import Attribute
from hilum.judgement.shortcuts.permuting import Rows
from hilum.judgement.stats import Floats

MODES: Final = 4  # components that are tested, as in the paper


@dataclass(frozen=True)
class Mode:
    """One component, one level against the rest.

    Attributes:
        attribute: What is compared.
        level: Whose images.
        mode: Number of the component, from 1.
        ks: Largest difference between the two distribution functions, 0 to 1.
        p: As the test gives it.
        p_by: Corrected over all tests.
        n_patients: Patients behind it, of both sides together.
    """

    attribute: str
    level: str
    mode: int
    ks: float
    p: float
    p_by: float
    n_patients: int


def principal(z_ND: NDArray[Any], components: int) -> Floats:
    """Scores on the first principal components of the embedding, (N, C).

    Features keep their scale: those of `pixels` are principal components already, and standardising them would make
    every direction the first.
    """
    centred_ND = np.asarray(z_ND, dtype=float) - z_ND.mean(axis=0)
    _, vectors_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    leading_DC = vectors_DD[:, ::-1][:, :components]
    sign_C = np.sign(leading_DC[np.abs(leading_DC).argmax(axis=0), np.arange(leading_DC.shape[1])])
    return np.asarray(centred_ND @ (leading_DC * sign_C))


def differ(
    score_NC: Floats,
    attributes: Sequence[Attribute],
    label_N: NDArray[Any],
    view_N: NDArray[Any],
    patient_N: Rows,
    min_group: int,
    seed: int,
) -> list[Mode]:
    """Test every level of every attribute along the first MODES components.

    Args:
        score_NC: `principal`.
        attributes: Of each row.
        label_N: State of the label, as text or number.
        view_N: View, as text.
        patient_N: Number of each row's patient.
        min_group: Patients that both sides need after they were made alike.
        seed: Of the draws.
    """
    found: list[tuple[str, str, int, float, float, int]] = []
    for attribute in attributes:
        alike = [label_N.astype(str)] if attribute.name == "view" else [label_N.astype(str), view_N.astype(str)]
        kind_N = np.unique(np.stack(alike), axis=1, return_inverse=True)[1].ravel()
        levels = attribute.levels[1:] if len(attribute.levels) == 2 else attribute.levels
        for level in levels:
            ours, theirs = _made_alike(attribute, level, kind_N, patient_N, seed)
            if len(ours) < min_group:
                continue
            for c in range(min(MODES, score_NC.shape[1])):
                test = ks_2samp(score_NC[ours, c], score_NC[theirs, c])
                found.append((attribute.name, level, c + 1, float(test.statistic), float(test.pvalue), 2 * len(ours)))
    if not found:
        return []
    corrected = false_discovery_control([one[4] for one in found], method="by")
    return [Mode(*one[:5], float(p), one[5]) for one, p in zip(found, corrected, strict=True)]


def _made_alike(attribute: Attribute, level: str, kind_N: Rows, patient_N: Rows, seed: int) -> tuple[Rows, Rows]:
    """Rows of the level and of the rest, one of each patient, as many of each kind on either side."""
    random = np.random.default_rng(seed)
    known = random.permutation(np.flatnonzero(np.isfinite(attribute.code_N)))
    known = known[np.unique(patient_N[known], return_index=True)[1]]
    known = random.permutation(known)
    is_level = attribute.code_N[known] == attribute.levels.index(level)
    ours, theirs = [], []
    for kind in np.unique(kind_N[known]):
        a = known[is_level & (kind_N[known] == kind)]
        b = known[~is_level & (kind_N[known] == kind)]
        ours.append(a[: min(len(a), len(b))])
        theirs.append(b[: min(len(a), len(b))])
    return np.concatenate(ours), np.concatenate(theirs)
