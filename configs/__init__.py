"""One file for each recipe: `amdjax --config=NAME.py`."""
