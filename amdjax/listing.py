"""What `python -m amdjax.main --list` prints: every registry, a line for each entry."""

from collections.abc import Iterable

from amdjax.data.mixing import MIXES
from amdjax.data.registry import DATASETS
from amdjax.losses import LOSSES
from amdjax.methods import METHODS
from amdjax.models import MODELS


def listing() -> str:
    """Returns methods, losses, models, data sets and mixes with one line each."""
    parts = (
        ("methods (config.methods; joined by + they add up)", _summaries(METHODS)),
        ("losses (config.losses.NAME)", _summaries(LOSSES)),
        ("models (config.teacher.name, config.student.name)", _summaries(MODELS)),
        ("data sets (config.data.name)", _summaries(DATASETS)),
        ("mixes (config.mix.name)", MIXES.items()),
    )
    return "\n\n".join(f"{title}\n{_lines(entries)}" for title, entries in parts)


def _summaries(registry: dict) -> Iterable[tuple[str, str]]:
    return ((name, entry.summary) for name, entry in registry.items())


def _lines(entries: Iterable[tuple[str, str]]) -> str:
    entries = list(entries)
    width = max(len(name) for name, _ in entries)
    return "\n".join(f"  {name.ljust(width)}  {text}" for name, text in entries)
