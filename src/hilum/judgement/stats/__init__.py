"""Scores with their uncertainty: metrics, the patient bootstrap, tests of a difference, and what a cohort can tell.

intervals       a score or a difference with its bounds; Wilson's interval of a proportion
metrics         weighted metrics, for many resamples at once
calibration     the calibration error of bins that stay, and what chance makes of it
bootstrap       resampling patients: one score, or every group on the same resamples
delong          AUROC without resampling, and the difference of two
permutation     swapping two scores patient by patient
multiplicity    p-values that were asked for together
power           what so many cases can tell apart
"""

from hilum.judgement.stats.bootstrap import CHUNK_ELEMENTS as CHUNK_ELEMENTS
from hilum.judgement.stats.bootstrap import MIN_DEFINED_SHARE as MIN_DEFINED_SHARE
from hilum.judgement.stats.bootstrap import Grouped as Grouped
from hilum.judgement.stats.bootstrap import Method as Method
from hilum.judgement.stats.bootstrap import grouped_bootstrap as grouped_bootstrap
from hilum.judgement.stats.bootstrap import grouped_bootstraps as grouped_bootstraps
from hilum.judgement.stats.bootstrap import patient_bootstrap as patient_bootstrap
from hilum.judgement.stats.calibration import ROWS_PER_BIN as ROWS_PER_BIN
from hilum.judgement.stats.calibration import calibrated_ece as calibrated_ece
from hilum.judgement.stats.calibration import equal_mass_bins as equal_mass_bins
from hilum.judgement.stats.calibration import weighted_binned_ece as weighted_binned_ece
from hilum.judgement.stats.delong import delong as delong
from hilum.judgement.stats.delong import delong_covariance as delong_covariance
from hilum.judgement.stats.delong import delong_difference as delong_difference
from hilum.judgement.stats.delong import midranks as midranks
from hilum.judgement.stats.intervals import CONFIDENCE as CONFIDENCE
from hilum.judgement.stats.intervals import Z_95 as Z_95
from hilum.judgement.stats.intervals import Difference as Difference
from hilum.judgement.stats.intervals import Floats as Floats
from hilum.judgement.stats.intervals import Interval as Interval
from hilum.judgement.stats.intervals import proportion as proportion
from hilum.judgement.stats.intervals import undefined as undefined
from hilum.judgement.stats.intervals import undefined_difference as undefined_difference
from hilum.judgement.stats.intervals import wilson as wilson
from hilum.judgement.stats.kernels import Asked as Asked
from hilum.judgement.stats.metrics import CALIBRATION_BINS as CALIBRATION_BINS
from hilum.judgement.stats.metrics import Statistic as Statistic
from hilum.judgement.stats.metrics import weighted_auprc as weighted_auprc
from hilum.judgement.stats.metrics import weighted_auroc as weighted_auroc
from hilum.judgement.stats.metrics import weighted_balanced_accuracy as weighted_balanced_accuracy
from hilum.judgement.stats.metrics import weighted_brier as weighted_brier
from hilum.judgement.stats.metrics import weighted_ece as weighted_ece
from hilum.judgement.stats.metrics import weighted_macro_auroc as weighted_macro_auroc
from hilum.judgement.stats.metrics import weighted_mae as weighted_mae
from hilum.judgement.stats.metrics import weighted_mean as weighted_mean
from hilum.judgement.stats.metrics import weighted_ppv as weighted_ppv
from hilum.judgement.stats.metrics import weighted_r2 as weighted_r2
from hilum.judgement.stats.metrics import weighted_selection_rate as weighted_selection_rate
from hilum.judgement.stats.metrics import weighted_sensitivity as weighted_sensitivity
from hilum.judgement.stats.metrics import weighted_specificity as weighted_specificity
from hilum.judgement.stats.metrics import weighted_sum as weighted_sum
from hilum.judgement.stats.multiplicity import benjamini_hochberg as benjamini_hochberg
from hilum.judgement.stats.multiplicity import holm as holm
from hilum.judgement.stats.permutation import swap_test as swap_test
from hilum.judgement.stats.power import POWER as POWER
from hilum.judgement.stats.power import auroc_error as auroc_error
from hilum.judgement.stats.power import auroc_half_width as auroc_half_width
from hilum.judgement.stats.power import auroc_sentence as auroc_sentence
from hilum.judgement.stats.power import detectable_auroc as detectable_auroc
from hilum.judgement.stats.power import detectable_auroc_difference as detectable_auroc_difference
from hilum.judgement.stats.power import detectable_difference as detectable_difference
from hilum.judgement.stats.power import detectable_proportion as detectable_proportion
from hilum.judgement.stats.power import detectable_proportion_difference as detectable_proportion_difference
from hilum.judgement.stats.power import order_sentence as order_sentence
from hilum.judgement.stats.resampling import two_sided as two_sided
