"""The paper's measurements, for any model and log: functions that return numbers, and plots.

Terms used in all modules:

* A table has two *sides*: attention reads rows to score behaviors, representation reads rows that
  are pooled for the head. A *shared* table serves both.
* A *truth* is a reference for how relevant each behavior of a history is to each candidate:
  mutual information, or the relations that the simulator planted.
* The first model is the *reference*: differences are the reference minus each other model.
* Intervals hold 95% of resamples, in which users (or rows of a table) are drawn with replacement.
"""

from tfdare.analysis.accuracy import measure_accuracy, plot_calibration, plot_slices
from tfdare.analysis.attention import (
    attention_accuracy,
    category_of,
    interest_counts,
    keep_positive_lift,
    plot_attention,
    position_edges,
)
from tfdare.analysis.batches import UserBatches
from tfdare.analysis.convergence import (
    AUCProbe,
    convergence_numbers,
    efficiency,
    plot_convergence,
    plot_efficiency,
)
from tfdare.analysis.discriminability import measure_discriminability, plot_discriminability
from tfdare.analysis.findings import Finding, list_findings
from tfdare.analysis.gradients import (
    GradientProbe,
    GradientSplit,
    gradient_numbers,
    gradients_of,
    plot_gradients,
)
from tfdare.analysis.retrace import retrace_training
from tfdare.analysis.search_quality import (
    InformationTruth,
    PlantedTruth,
    measure_search_quality,
    plot_search_quality,
)

__all__ = [
    "AUCProbe",
    "Finding",
    "GradientProbe",
    "GradientSplit",
    "InformationTruth",
    "PlantedTruth",
    "UserBatches",
    "attention_accuracy",
    "category_of",
    "convergence_numbers",
    "efficiency",
    "gradient_numbers",
    "gradients_of",
    "interest_counts",
    "keep_positive_lift",
    "list_findings",
    "measure_accuracy",
    "measure_discriminability",
    "measure_search_quality",
    "plot_attention",
    "plot_calibration",
    "plot_convergence",
    "plot_discriminability",
    "plot_efficiency",
    "plot_gradients",
    "plot_search_quality",
    "plot_slices",
    "position_edges",
    "retrace_training",
]
