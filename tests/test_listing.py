from amdjax.data.mixing import MIXES
from amdjax.data.policies import AUGMENTATIONS
from amdjax.data.registry import DATASETS
from amdjax.listing import list_registries
from amdjax.losses import LOSSES
from amdjax.methods import METHODS
from amdjax.models import MODELS
from amdjax.recipes import RECIPES
from amdjax.training.optimizer import OPTIMIZERS
from amdjax.training.trackers import TRACKERS


def test_list_registries_has_a_line_for_every_entry():
    sections = {}
    for section in list_registries().split("\n\n"):
        title, *lines = section.splitlines()
        sections[title.partition(" (")[0]] = {line.split()[0]: line for line in lines}
    registries = {
        "methods": METHODS,
        "losses": LOSSES,
        "networks": MODELS,
        "data sets": DATASETS,
        "augmentations": AUGMENTATIONS,
        "mixes": MIXES,
        "optimisers": OPTIMIZERS,
        "trackers": TRACKERS,
    }
    assert sections.keys() == {"recipes", *registries}
    for title, registry in registries.items():
        assert sections[title].keys() == registry.keys()
        assert all(len(line.split()) > 1 for line in sections[title].values())
    assert "margin=1.35" in sections["losses"]["am"]
    assert "weight=0.1," in sections["losses"]["ce"]  # the default of the config
    recipes = {path.name for path in RECIPES.glob("[!_]*.py")} - {"default.py"}
    assert sections["recipes"].keys() == recipes
    assert sections["recipes"]["cifar10.py"].endswith("augmentation. Set-ups: a, b, c, d")
