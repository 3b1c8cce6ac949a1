"""Outputs of any teacher in a file: reading, writing, `python -m amdjax.teacher_outputs`."""
