"""Simulated event logs whose interests are known, because the simulator planted them.

Does not import TensorFlow.
"""

from tfdare.simulation.options import SimulatorOptions
from tfdare.simulation.simulator import like, simulate, truth, write_truth
from tfdare.simulation.writing import write_causes, write_log

__all__ = [
    "SimulatorOptions",
    "like",
    "simulate",
    "truth",
    "write_causes",
    "write_log",
    "write_truth",
]
