"""One vocabulary of findings for all layouts: what each source calls a finding, and what the manifest calls it.

A finding has the same name wherever it comes from, so that a probe trained on one source can be asked of another. That
the names agree does not say that the definitions do: who labelled, and how, stands in each layout's docstring.
"""

from typing import Final

# The 14 observations of Irvin et al. 2019 (CheXpert), table 1, in the order of the published columns; MIMIC-CXR-JPG
# has the same ones in alphabetical order.
CHEXPERT_FINDINGS: Final = {
    "No Finding": "no_finding",
    "Enlarged Cardiomediastinum": "enlarged_cardiomediastinum",
    "Cardiomegaly": "cardiomegaly",
    "Lung Opacity": "lung_opacity",
    "Lung Lesion": "lung_lesion",
    "Edema": "edema",
    "Consolidation": "consolidation",
    "Pneumonia": "pneumonia",
    "Atelectasis": "atelectasis",
    "Pneumothorax": "pneumothorax",
    "Pleural Effusion": "pleural_effusion",
    "Pleural Other": "pleural_other",
    "Fracture": "fracture",
    "Support Devices": "support_devices",
}

# The 14 findings of ChestX-ray14 (Wang et al. 2017 has the first eight; six were added with the release of 2017-12),
# in the order that ChestMNIST keeps for its label columns.
NIH_FINDINGS: Final = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Effusion": "pleural_effusion",
    "Infiltration": "infiltration",
    "Mass": "mass",
    "Nodule": "nodule",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Emphysema": "emphysema",
    "Fibrosis": "fibrosis",
    "Pleural_Thickening": "pleural_thickening",
    "Hernia": "hernia",
}
