"""Classification of images with a trained student: `python -m amdjax.predict`."""
