"""The codes of a report's content items: SNOMED CT, DICOM and UCUM where they have one, hilum's own where they do not.

Sensitivity and specificity have codes of DICOM's (111088, 111090, CID 6048), but those count cases, and a release's are
counted over images: hilum's own say so. A reader that does not know them still has their meanings in words.
"""

from typing import Final

from pydicom.sr.coding import Code

SCHEME: Final = "99HILUM"
SCHEME_NAME: Final = "hilum: answers of image classifiers"


def _own(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


# What is asked, and of which kind of procedure.
QUESTION: Final = _own("QUESTION", "Finding asked about")
FINDINGS: Final = {"pneumonia": Code("233604007", "SCT", "Pneumonia")}
PROCEDURES: Final = {
    "XR": Code("168537006", "SCT", "Plain radiography"),
    "MR": Code("113091000", "SCT", "Magnetic resonance imaging"),
}

# What is answered.
PROBABILITY: Final = _own("PROBABILITY", "Calibrated probability of the finding")
OBSERVED: Final = _own("OBSERVED", "Held-out images of such a probability with the finding")
DECISION: Final = _own("DECISION", "Decision at the operating point")
DECISIONS: Final = {
    "at or above the threshold": _own("AT_OR_ABOVE", "At or above the threshold"),
    "below the threshold": _own("BELOW", "Below the threshold"),
    "abstained": _own("ABSTAINED", "No prediction given: abstained"),
    "refused": _own("REFUSED", "No prediction given: image refused"),
}
REASON: Final = _own("REASON", "Reason why no prediction is given")
REASONS: Final = {
    "out_of_distribution": _own("UNLIKE", "Unlike the training images"),
    "wrong_modality": _own("WRONG_MODALITY", "Looks like another modality"),
    "wrong_view": _own("WRONG_VIEW", "A view that was not trained on"),
    "unreadable_exposure": _own("UNREADABLE", "Exposure that cannot be read"),
    "refused": _own("NOT_ANSWERED", "Not an image that is answered for"),
}
WORDS: Final = _own("REASON_WORDS", "Reason in words")
SCORE: Final = _own("SCORE", "Distance from the training images")
LIMIT: Final = _own("LIMIT", "Largest distance at which a prediction is given")
MEANING: Final = _own("MEANING", "What the answer means")

# What the answer rests on.
THRESHOLD: Final = _own("THRESHOLD", "Threshold on the probability")
SENSITIVITY: Final = _own("SENSITIVITY", "Sensitivity over held-out images")
SPECIFICITY: Final = _own("SPECIFICITY", "Specificity over held-out images")
LOWER: Final = _own("LOWER_95", "Lower bound of the 95% interval")
UPPER: Final = _own("UPPER_95", "Upper bound of the 95% interval")
COUNT: Final = _own("COUNT", "Held-out images measured on")
OPERATING_POINT: Final = Code("111081", "DCM", "CAD Operating Point Description")

# Of the whole report.
EVALUATIONS: Final = Code("C0034375", "UMLS", "Qualitative Evaluations")  # the container of TID 1500
INTENDED_USE: Final = _own("INTENDED_USE", "Intended use")
CAUTION: Final = _own("CAUTION", "Caution")
GATE: Final = _own("GATE", "Gate of the release")
IMAGES: Final = _own("IMAGES", "Images of the study")

ONE: Final = Code("1", "UCUM", "no units")
COUNTS: Final = Code("{counts}", "UCUM", "Counts")


def finding(label: str) -> Code:
    """The code of a head's label."""
    return FINDINGS.get(label) or _own(label, label.replace("_", " ")[:64])
