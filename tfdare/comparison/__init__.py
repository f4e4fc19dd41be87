"""Comparison of models: trials, measurements, tables and plots."""

from tfdare.comparison.measure import Measurement, measure_costs
from tfdare.comparison.plan import Row, Trial, rows_of, shares_tables
from tfdare.comparison.plots import plot
from tfdare.comparison.report import summarize_trials
from tfdare.comparison.table import markdown
from tfdare.comparison.trials import Trials

__all__ = [
    "Measurement",
    "Row",
    "Trial",
    "Trials",
    "markdown",
    "measure_costs",
    "plot",
    "rows_of",
    "shares_tables",
    "summarize_trials",
]
