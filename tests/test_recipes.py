"""Recipes are found by name, and load each other by their place in the package."""

from pathlib import Path

import pytest
from ml_collections.config_flags import config_flags

from amdjax.recipes import RECIPES, find_recipe


@pytest.mark.parametrize("name", ["cifar10", "cifar10.py"])
def test_find_recipe_returns_the_packaged_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name) == str(RECIPES / "cifar10.py")
    assert find_recipe(f"{name}:b") == f"{RECIPES / 'cifar10.py'}:b"


def test_find_recipe_prefers_the_file_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cifar10.py").touch()
    assert find_recipe("cifar10.py:b") == "cifar10.py:b"
    assert find_recipe("./cifar10.py") == "./cifar10.py"


@pytest.mark.parametrize(
    "text", ["", "mine.py", "mine.py:a", "nowhere/cifar10.py", "../cifar10.py:a", "__init__"]
)
def test_find_recipe_leaves_other_values_unchanged(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(text) == text


@pytest.mark.filterwarnings("ignore:the load_module")
def test_config_flags_loads_a_packaged_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_flags.ConfigFileFlagParser("config").parse(find_recipe("figure8:cifar10-b"))
    assert (config.teacher.name, config.sweep.key) == ("wrn_28_1", "losses.am.weight")
