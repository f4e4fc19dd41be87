"""The parts of :mod:`tfdare.simulate`: options, what is planted, events, times, and the fit."""
