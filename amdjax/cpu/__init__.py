"""Work-arounds for XLA on CPU, and nothing else."""
