"""How fast amdjax trains, beside the same work in PyTorch."""
