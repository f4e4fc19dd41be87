"""Comparison of models: trials, measurements, tables and plots."""

from tfdare.comparison.measure import Measurement, measure_costs
from tfdare.comparison.plan import Row, Trial, rows_of, shares_tables
from tfdare.comparison.plots import plot, plot_logs
from tfdare.comparison.report import summarize_trials
from tfdare.comparison.table import logs_markdown, markdown
from tfdare.comparison.trials import Trials

__all__ = [
    "Measurement",
    "Row",
    "Trial",
    "Trials",
    "logs_markdown",
    "markdown",
    "measure_costs",
    "plot",
    "plot_logs",
    "rows_of",
    "shares_tables",
    "summarize_trials",
]
