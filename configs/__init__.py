"""One file a recipe: `amdjax --config=NAME.py`."""
