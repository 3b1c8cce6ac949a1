"""The list of all that the package has by name: `--list`."""

from collections.abc import Iterable

from amdjax.configs import default
from amdjax.data.mixing import MIXES
from amdjax.data.policies import AUGMENTATIONS
from amdjax.data.registry import DATASETS
from amdjax.losses import LOSSES
from amdjax.losses.spec import WEIGHT_SETTINGS
from amdjax.methods import METHODS
from amdjax.models import MODELS
from amdjax.recipes import list_recipes
from amdjax.training.optimizer import OPTIMIZERS
from amdjax.training.trackers import TRACKERS


def list_registries() -> str:
    """Returns the packaged recipes and the entries of all registries, a line for each."""
    parts = (
        ("recipes (--config=NAME.py, or NAME.py:SETUP)", list_recipes()),
        ("methods (config.methods; + joins several)", _summaries(METHODS)),
        ("losses (config.losses.NAME.SETTING)", _losses()),
        ("networks (config.teacher.name, config.student.name)", _summaries(MODELS)),
        ("data sets (config.data.name)", _summaries(DATASETS)),
        ("augmentations (config.augment.policy; + joins several)", _summaries(AUGMENTATIONS)),
        ("mixes (config.mix.name)", MIXES.items()),
        ("optimisers (config.optim.name)", _summaries(OPTIMIZERS)),
        ("trackers (config.trackers)", _summaries(TRACKERS)),
    )
    return "\n\n".join(f"{title}\n{_lines(entries)}" for title, entries in parts)


def _losses() -> Iterable[tuple[str, str]]:
    """Yields each loss with its summary and its defaults, but for the schedule of the weight."""
    for name, settings in default.get_config().losses.to_dict().items():
        weight = settings.pop("weight")
        for key in WEIGHT_SETTINGS:
            settings.pop(key)
        text = ", ".join(f"{key}={value}" for key, value in {"weight": weight, **settings}.items())
        yield name, f"{LOSSES[name].summary}: {text}"


def _summaries(registry: dict) -> Iterable[tuple[str, str]]:
    return ((name, entry.summary) for name, entry in registry.items())


def _lines(entries: Iterable[tuple[str, str]]) -> str:
    entries = list(entries)
    width = max(len(name) for name, _ in entries)
    return "\n".join(f"  {name.ljust(width)}  {text}" for name, text in entries)
