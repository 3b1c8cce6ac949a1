"""One file a recipe: `python -m amdjax.main --config=configs/NAME.py`."""
