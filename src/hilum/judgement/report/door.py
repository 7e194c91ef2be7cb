"""The only file that imports Evidently: what this room uses of it.

Its own imports use names that numpy and litestar deprecate, which warns of nothing that a reader could act on.
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from evidently import BinaryClassification as BinaryClassification
    from evidently import DataDefinition as DataDefinition
    from evidently import Dataset as EvidentlyDataset
    from evidently import Report as Report
    from evidently.core.metric_types import ByLabelCalculation as ByLabelCalculation
    from evidently.core.metric_types import ByLabelMetric as ByLabelMetric
    from evidently.core.metric_types import ByLabelValue as ByLabelValue
    from evidently.core.metric_types import DataframeCalculation as DataframeCalculation
    from evidently.core.metric_types import DataframeMetric as DataframeMetric
    from evidently.core.metric_types import DataframeValue as DataframeValue
    from evidently.core.metric_types import MetricTest as MetricTest
    from evidently.core.metric_types import MetricTestResult as MetricTestResult
    from evidently.core.metric_types import SingleValue as SingleValue
    from evidently.core.metric_types import metric_tests_widget as metric_tests_widget
    from evidently.core.metric_types import render_widgets as render_widgets
    from evidently.legacy.renderers.html_widgets import group_widget as group_widget
    from evidently.legacy.renderers.html_widgets import table_data as table_data
    from evidently.legacy.tests.base_test import TestStatus as TestStatus
    from evidently.presets import ClassificationPreset as ClassificationPreset
    from evidently.presets import DataDriftPreset as DataDriftPreset

__all__ = ["EvidentlyDataset"]  # the one that is renamed
