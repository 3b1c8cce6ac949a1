"""Each setting of a config is checked by itself, before anything else."""

import functools
import math

import pytest

from amdjax.config import check_complete, disabling_setting, flat_settings, validate
from amdjax.configs import default
from amdjax.errors import UserError
from amdjax.ranges import check_loss_ranges


def test_validate_names_a_setting_without_a_value():
    config = default.get_config()
    config.data.name = None
    with pytest.raises(UserError, match=r"config\.data\.name is None; give a value, such as 'cif"):
        validate(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", 2**32),
        ("losses.kd.weight", -1.0),
        ("losses.kd.temperature", 0.0),
        ("losses.kd.temperature", -4.0),
        ("losses.kd.temperature", math.nan),
        ("losses.am.scale", 0.0),
        ("losses.am.margin", 0.0),
        ("losses.am.margin", -1.0),
        ("losses.am.ramp_up_epochs", -1.0),
        ("losses.kd.end_fraction", 2.0),
        ("losses.ce.label_smoothing", 1.0),
        ("losses.a_softmax.least", -1.0),
        ("losses.afd.dimension", 0),
        ("losses.cc.dimension", 0),
        ("losses.crd.dimension", 0),
        ("losses.crd.negatives", 0),
        ("losses.ctkd.start", 0.0),
        ("losses.dist.eps", -1.0),
        ("losses.ft_factor.rate", 0.0),
        ("losses.reviewkd.max_width", 0),
        ("losses.simkd.factor", 0),
        ("losses.spherical_softmax.eps", 0.0),
        ("losses.ttm.gamma", 0.0),
        ("losses.wkd_f.eps", -1.0),
        ("losses.wkd_f.grid", 0),
        ("losses.wkd_f.width", 0),
        ("losses.wkd_l.iterations", 0),
        ("losses.wttm.gamma", 0.0),
        ("optim.learning_rate", math.inf),
        ("optim.clip_norm", -1.0),
        ("optim.warmup_epochs", -0.5),
        ("data.memory_gib", math.nan),
        ("data.validation", 1.0),
        ("accumulate", 0),
        ("augment.erasing", 1.5),
        ("ema_decay", 1.0),
        ("log_every_steps", 0),
    ],
)
def test_validate_names_a_setting_that_is_out_of_range(key, value):
    config = default.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError) as caught:
        validate(config)
    assert key in str(caught.value)
    assert str(value) in str(caught.value)


def test_check_losses_has_the_ranges_of_a_size_for_the_loss_that_has_it():
    check_loss_ranges({"mine": {"dimension": 0, "temperature": (0.0, 1.0)}, "cc": {"dimension": 1}})
    message = r"config\.losses\.cc\.dimension must be a whole number of at least 1, not 64\.5"
    with pytest.raises(UserError, match=message):
        check_loss_ranges({"cc": {"dimension": 64.5}})
    with pytest.raises(UserError, match=r"losses\.mine\.temperature must be above 0, not 0"):
        check_loss_ranges({"mine": {"temperature": 0}})


@pytest.mark.parametrize("value", [(1, "a"), ("a",), (-1,), (math.nan,)])
def test_validate_names_boundaries_that_are_not_epochs(value):
    config = default.get_config()
    config.optim.boundaries = value
    with pytest.raises(UserError, match=r"config\.optim\.boundaries must be"):
        validate(config)


@pytest.mark.parametrize("seed", [-1, 2**32, "a", 0.5])
def test_validate_names_a_seed_that_is_out_of_range(seed):
    config = default.get_config()
    config.seeds = (0, 2**32 - 1)
    validate(config)
    config.seeds = (0, seed)
    message = rf"seeds must be whole numbers of at least 0 and at most 4294967295, not {seed!r}"
    with pytest.raises(UserError, match=message):
        validate(config)


def test_validate_names_a_setting_that_does_not_exist():
    config = default.get_config()
    config.student.nam = "resnet20"
    with pytest.raises(UserError, match=r"config key 'student\.nam'; did you mean student\.name"):
        validate(config)


@pytest.mark.parametrize("key", ["epochs", "teacher.outputs", "losses.kd.weight"])
def test_check_complete_names_what_is_missing(key):
    config = default.get_config()
    check_complete(config)
    *groups, name = key.split(".")
    with config.unlocked():
        del functools.reduce(lambda group, part: group[part], groups, config)[name]
    with pytest.raises(UserError, match=f"the config lacks 1 settings, such as {key}; start from"):
        check_complete(config)


def test_validate_accepts_the_defaults():
    validate(default.get_config())


def test_disabling_setting_leaves_other_settings_alone():
    settings = flat_settings(default.get_config())
    assert {key for key in settings if disabling_setting(key, settings)} == {
        *("data.validation_seed", "augment.pad_mode", "optim.end_learning_rate", "sweep.choices"),
        *("mix.alpha", "mix.probability", "mix.layer", "mix.moex_lam", "mix.teacher_sees_mixed"),
        *("optim.beta1", "optim.beta1_end", "optim.beta2"),
    }
