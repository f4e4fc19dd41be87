"""What the paper measures, on any model and log: each a function of numbers, and its plot."""
