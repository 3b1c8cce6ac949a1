"""The report of a workdir: `python -m amdjax.report --workdir=DIR`."""
