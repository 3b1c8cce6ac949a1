"""How a command ends after Ctrl-C, a closed pipe or a fault."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict

from amdjax import cli
from amdjax.errors import UserError
from tests.parse_config import parse_config
from tests.tiny_run import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

SCRIPT = """
import os, sys
from amdjax.cli import run_command

def main(arguments):
    {body}

run_command(main)
"""


def _run(body, **settings):
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8:strict"},
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
        **settings,
    )
    return process.returncode, getattr(process, "stdout", None), process.stderr


def test_ctrl_c_prints_one_word():
    assert _run("raise KeyboardInterrupt") == (130, None, b"interrupted\n")


def test_closed_pipe_is_not_an_error():
    end, write = os.pipe()
    os.close(end)
    try:
        code, _, err = _run("print('x', flush=True)", stdout=write)
    finally:
        os.close(write)
    assert (code, err) == (1, b"")


def test_names_that_are_not_utf8_are_printed():
    code, out, err = _run(r"print(os.fsdecode(b'\xff.png'))", stdout=subprocess.PIPE)
    assert (code, out, err) == (0, b"\\udcff.png\n", b"")


def test_full_memory_is_reported_in_one_line():
    error = "RESOURCE_EXHAUSTED: Out of memory allocating 42 bytes.\\nThe largest are ..."
    code, _, err = _run(f"import jax; raise jax.errors.JaxRuntimeError('{error}')")
    assert code == 2
    assert err.startswith(b"error: the memory is full (RESOURCE_EXHAUSTED: Out of memory alloc")
    assert b"42 bytes.); end other programs" in err
    assert b"config.accumulate" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("kind", ["ValueError", "OSError"])
def test_faults_show_a_traceback(kind):
    code, _, err = _run(f"raise {kind}('an unexpected fault')")
    assert code == 1
    assert b"Traceback" in err and b"an unexpected fault" in err


@pytest.mark.parametrize(
    "error",
    [
        "FileNotFoundError(2, 'No such file', 'runs/x/a.json')",
        """ValueError('NOT_FOUND: Metadata at local file "runs/x/a.json" does not exist')""",
    ],
)
def test_files_that_vanish_are_named_in_one_line(error):
    code, _, err = _run(f"raise {error}")
    assert code == 2
    assert err.startswith(b"error: a file was removed while it was in use: ")
    assert b"a.json" in err
    assert len(err.splitlines()) == 1


def test_files_that_vanish_are_named_where_the_config_has_numbers_as_paths(monkeypatch):
    config = ConfigDict({"teacher": {"ensemble": (1, "b")}})
    monkeypatch.setattr(flags.FlagValues, "flag_values_dict", lambda _: {"config": config})
    assert {Path("1"), Path("b")} <= set(cli._folders_in_use())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.optim.lr=x", "unknown config key 'optim.lr'; known: .* optim.learning_rate, "),
        ("--config.studnt.name=x", "unknown config key 'studnt.name'; did you mean student.name"),
        ("--config.losses.am.margn=2", r"'losses\.am\.margn'; did you mean losses\.am\.margin"),
        ("--config.epochs=1.5", r"^--config\.epochs must be a whole number, not '1\.5'$"),
        ("--config.seed=: a", r"^--config\.seed must be a whole number, not ': a'$"),
        ("--config.ema_decay=much", r"^--config\.ema_decay must be a number, not 'much'$"),
        (
            "--config.teacher.cached=yes",
            r"^--config\.teacher\.cached must be True or False, not 'y",
        ),
        ("--config.teacher=resnet18", r"group of settings; .*, such as --config\.teacher\.name$"),
        ("--config.losses.kd=3", r"kd is a group of settings; .* such as --config\.losses\.kd\."),
        ("--methods=kd", r"unknown flag --methods; did you mean --config\.methods\?"),
        ("--config.augment.mean=(1.0,", "is not a Python tuple"),
        ("--config.imports=(a", r"^--config\.imports: '\(a' is not a Python tuple$"),
        ("--wrkdir=x", "Did you mean: workdir"),
    ],
)
def test_parse_flags_names_a_wrong_flag(flag, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_config("--config=digits.py", flag)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--config.methods=kd,amd_gl", ("kd", "amd_gl")),
        ("--config.methods=kd, at", ("kd", "at")),
        ("--config.methods=amd_gl+sp", ("amd_gl+sp",)),
        ("--config.methods=('kd',)", ("kd",)),
        ("--config.seeds=0,1,2", (0, 1, 2)),
        ("--config.seeds=(1)", (1,)),
        ("--config.optim.boundaries=(3,5)", (3, 5)),
        ("--config.optim.boundaries=", ()),
        ("--config.sweep.choices=(1.1,1.35)", (1.1, 1.35)),
        (
            "--config.sweep.choices=(('angular',),('angular','positive'))",
            (("angular",), ("angular", "positive")),
        ),
    ],
)
def test_parse_flags_reads_lists_with_and_without_brackets(flag, expected):
    config = parse_config("--config=digits.py", flag)
    for part in flag.partition("=")[0].split(".")[1:]:
        config = config[part]
    assert config == expected


def test_parse_flags_takes_the_last_of_several_lists():
    flag = "--config.optim.boundaries"
    config = parse_config("--config=digits.py", f"{flag}=(30,60,90)", f"{flag}=(100,150)")
    assert config.optim.boundaries == (100, 150)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", "line 1: invalid syntax"),
        ("import nothing_there\n", "line 1: ModuleNotFoundError: No module named 'nothing_there'"),
        ("def get_config():\n    return {}['a']\n", "line 2: KeyError: 'a'"),
        ("def get_config():\n    return int('a')\n", "line 2: ValueError: invalid literal"),
        ("def get_config():\n    return {'a': 1}\n", "returns a dict, not a ml_collections.Conf"),
        ("x = 1\n", "the file has no function get_config"),
        (
            "import ml_collections\ndef get_config():\n"
            "    return ml_collections.ConfigDict({'epochs': 1})\n",
            r"lacks \d+ settings, such as ",
        ),
    ],
)
def test_parse_flags_names_the_fault_of_a_config_file(tmp_path, text, message):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        parse_config(f"--config={file}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("config.methods = 'kd'", r"methods must be a tuple, such as \('kd',\) .*, not 'kd'"),
        ("config.optim.boundaries = 5", "boundaries must be a tuple, .*, not 5"),
        ("config.epochs = '8'", "epochs must be a whole number, not '8'"),
        ("config.student = 'wrn_16_1'", "student is a group of settings; set one of them"),
        ("config.losses.kdd.weight = 1.0", "there is no setting 'kdd'. Did you mean 'kd'"),
        ("config.losses['kdd'].weight = 1.0", "there is no setting 'kdd'. Did you mean 'kd'"),
        ("config.epochs = {'a': 1}", "epochs must be a whole number, not a: 1"),
        ("raise AttributeError", "AttributeError"),
        ("raise AttributeError('no such thing')", "AttributeError: no such thing"),
        ("raise KeyError(5)", "KeyError: 5"),
        ("raise KeyError", "KeyError$"),
    ],
)
def test_parse_flags_says_what_a_recipe_must_set(tmp_path, statement, message):
    file = tmp_path / "mine.py"
    file.write_text(
        "from amdjax.configs import default\n"
        "def get_config():\n    config = default.get_config()\n"
        f"    {statement}\n    return config\n"
    )
    with pytest.raises(UserError) as caught:
        parse_config(f"--config={file}")
    text = str(caught.value).replace('"', "'")
    assert re.fullmatch(f"--config: {file}, line 4: {message}.*", text)


@pytest.mark.parametrize(
    ("parameters", "setup", "message"),
    [
        ("", ":a", r"mine\.py has no set-ups; write --config=\S+mine\.py$"),
        ("setup", "", r"mine\.py needs a set-up; write --config=\S+mine\.py:SETUP$"),
    ],
)
def test_parse_flags_names_a_setup_too_many_or_too_few(tmp_path, parameters, setup, message):
    (tmp_path / "mine.py").write_text(f"def get_config({parameters}):\n    return 1\n")
    with pytest.raises(UserError, match=message):
        parse_config(f"--config={tmp_path / 'mine.py'}{setup}")
    with pytest.raises(UserError, match=r"^digits\.py has no set-ups; write --config=digits\.py$"):
        parse_config("--config=digits:a")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config=nowhere/a.py"], r"^--config: nowhere/a\.py does not exist$"),
        (["--config="], "^--config: give a recipe or a file"),
        (["--config"], "^--config: give a recipe or a file"),
    ],
)
def test_parse_flags_refuses_a_missing_config_file(words, message):
    with pytest.raises(UserError, match=message):
        parse_config(*words)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("cifar11.py", "unknown file or recipe 'cifar11'; did you mean cifar10 or cifar100"),
        ("tinyimagenet:a", "unknown file or recipe 'tinyimagenet'; did you mean tiny_imagenet"),
        ("nowhere/cifar10.py:b", "no folder: --config=cifar10.py$"),
        ("zzzz.py", "unknown file or recipe 'zzzz'; known: amc, amc_cifar10, cifar10, "),
    ],
)
def test_parse_flags_names_similar_recipes(value, message):
    with pytest.raises(UserError, match=message):
        parse_config(f"--config={value}")
