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
    lines = {line.split()[0]: line for line in list_registries().splitlines() if line[:2] == "  "}
    for registry in (METHODS, LOSSES, MODELS, DATASETS, AUGMENTATIONS, MIXES, OPTIMIZERS, TRACKERS):
        for name in registry:
            assert len(lines[name].split()) > 1
    assert "margin=1.35" in list_registries()
    for path in RECIPES.glob("[!_]*.py"):
        assert path.stem == "default" or len(lines[path.name].split()) > 1
    assert lines["cifar10.py"].endswith("augmentation. Set-ups: a, b, c, d")
