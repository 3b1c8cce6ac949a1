"""The training of a run: step, loop, optimiser, logs and results."""
