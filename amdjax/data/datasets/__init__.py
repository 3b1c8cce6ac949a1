"""One tfds builder a file."""
