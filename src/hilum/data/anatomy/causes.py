"""What is planted in the phantom cohort: every effect and its size, once, as numbers that the generator uses.

`in_words` says the same in sentences with the numbers filled in; it becomes the cohort's `causes.json`.
"""

from typing import Any, Final

# Who there is.
SHARE_OF_WOMEN: Final = 0.5
SHARE_NORTH: Final = 0.55  # of patients; the others belong to site south
SHARE_XR_ONLY: Final = 0.50
SHARE_MR_ONLY: Final = 0.30  # the remaining patients have both
ADULT_AGES_YEARS: Final = (18.0, 92.0)

# What ails them.
PNEUMONIA_BASE: Final = 0.30  # probability in a first study at 50 years
PNEUMONIA_PER_DECADE: Final = 0.03
PNEUMONIA_AGAIN: Final = 0.20  # added where the study before had it
CARDIOMEGALY_BASE: Final = 0.14
CARDIOMEGALY_PER_DECADE: Final = 0.04
EFFUSION_BASE: Final = 0.08
EFFUSION_WITH_PNEUMONIA: Final = 0.14  # added
DEMENTIA_AT_75_YEARS: Final = 0.70  # a memory clinic's share
DEMENTIA_HALVES_IN_YEARS: Final = 20.0  # below 75 years

# What it looks like.
PNEUMONIA_CONTRAST: Final = (0.12, 0.28)  # brightness (0-1) at the centre, mildest and gravest
PNEUMONIA_CONTRAST_IN_WOMEN: Final = 0.55  # factor: the finding is harder to see in women
CARDIOMEGALY_HEART: Final = 1.30  # factor on the width of the heart
HEART_PER_DECADE: Final = 0.025
EFFUSION_HEIGHTS: Final = (0.10, 0.30)  # half-heights of the frame
BREAST_IN_WOMEN: Final = (0.05, 0.12)  # brightness; one in ten men has a faint one
SIZE_OF_WOMEN: Final = 0.94  # factor on the width of the trunk; half of the reduction on the head
VENTRICLES_PER_DECADE: Final = 0.16  # share of their width at 50 years
ATROPHY_PER_DECADE: Final = 0.09
DEMENTIA_VENTRICLES: Final = 0.45  # added
DEMENTIA_ATROPHY: Final = 0.28  # added

# How the picture is taken.
AP_WHEN_ILL: Final = 0.50  # probability that a frontal image is AP: a known confounder
AP_WHEN_WELL: Final = 0.25
LEADS_IN_AP: Final = 0.35
LATERAL_WITH_PA: Final = 0.90
SITE_SHIFT: Final = 0.04  # share of the width, to the right, at site south
SITE_GAIN: Final = {"north": 1.06, "south": 0.88}
SITE_GAMMA: Final = {"north": 0.95, "south": 1.10}
JITTER_SHIFT: Final = 0.018  # standard deviation, share of the width
JITTER_DEGREES: Final = 2.5
JITTER_SCALE: Final = 0.035
NOISE: Final = {"XR": 0.0135, "MR": 0.009}  # standard deviation of brightness

# What is measured with it: at rest in health, and added by a pneumonia of severity 1.
VITALS: Final = {
    "o2_saturation_pct": (97.3, -6.0, 1.2),  # mean in health, added by pneumonia, standard deviation
    "resp_rate_per_min": (15.5, 8.0, 2.2),
    "temperature_celsius": (36.7, 1.5, 0.35),
    "heart_rate_per_min": (75.0, 20.0, 9.0),
}
LABS: Final = {"leukocytes_per_nl": (7.2, 6.5, 1.8), "crp_mg_per_l": (4.0, 90.0, 0.5)}  # CRP: log-normal noise
VITALS_MEASURED: Final = {"ill": 0.93, "well": 0.60}  # missing not at random: who is ill is measured more
LABS_MEASURED: Final = {"ill": 0.80, "well": 0.30}
SOUTH_MEASURES: Final = 0.70  # factor on both at site south

# What is written down of it.
LABEL_NOISE: Final = 0.03  # probability that a label says the opposite
LABEL_UNKNOWN: Final = 0.03  # probability that it says nothing

CAUTION: Final = (
    "This is a test body, not a pretence of real data: every patient, image, label and measurement was drawn by "
    "hilum's phantom generator. No result on it says anything about people."
)


def in_words(seed: int, patients: int, size: int, site_shift: bool, site_contrast: bool) -> dict[str, Any]:
    """The planted truths as JSON: the constants by name, and what they mean."""
    constants = {
        name.lower(): value
        for name, value in globals().items()
        if name.isupper() and isinstance(value, (float, tuple, dict))
    }
    shift = f"{SITE_SHIFT:.0%} of the width to the right at site south" if site_shift else "none"
    contrast = (
        f"gain {SITE_GAIN['north']} and gamma {SITE_GAMMA['north']} at north, gain {SITE_GAIN['south']} and gamma "
        f"{SITE_GAMMA['south']} at south"
        if site_contrast
        else "the same at both sites"
    )
    return {
        "caution": CAUTION,
        "generator": {
            "seed": seed,
            "patients": patients,
            "size_px": size,
            "site_shift": site_shift,
            "site_contrast": site_contrast,
        },
        "truths": {
            "site_position": f"Systematic shift of position: {shift}.",
            "site_contrast": f"Contrast of the sites: {contrast}.",
            "harder_in_women": (
                f"The opacity of pneumonia has {PNEUMONIA_CONTRAST_IN_WOMEN} times the contrast in women; prevalence "
                "does not depend on sex."
            ),
            "sex": (
                f"Women have a breast shadow and a trunk of {SIZE_OF_WOMEN} times the width; one man in ten has a "
                "faint breast shadow."
            ),
            "age_in_chest": "With age: wider heart, larger and calcified aortic knob, paler bone, kyphosis.",
            "age_in_brain": "With age: wider ventricles, wider sulci, thinner cortex; dementia adds to all three.",
            "view_confounder": (
                f"A frontal image is AP with probability {AP_WHEN_ILL} in a study with any finding, {AP_WHEN_WELL} "
                f"without; monitor leads lie on {LEADS_IN_AP:.0%} of AP images whatever the finding."
            ),
            "vital_signs": (
                "Vital signs and laboratory values follow the severity of pneumonia linearly, C-reactive protein with "
                "log-normal noise; an effusion adds a fifth of what the gravest pneumonia adds."
            ),
            "missing_not_at_random": (
                f"Vital signs are measured in {VITALS_MEASURED['ill']:.0%} of studies with a finding and "
                f"{VITALS_MEASURED['well']:.0%} without, laboratory values in {LABS_MEASURED['ill']:.0%} and "
                f"{LABS_MEASURED['well']:.0%}; site south measures {SOUTH_MEASURES} times as often."
            ),
            "label_noise": f"{LABEL_NOISE:.0%} of labels say the opposite, {LABEL_UNKNOWN:.0%} are unknown.",
        },
        "constants": constants,
        "columns": "In cohort.csv, columns named cause_... hold what was drawn, not what was written down.",
    }
