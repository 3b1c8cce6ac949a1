"""`launch/Dockerfile` copies what the package needs, and builds where docker runs."""

import re
import shutil
import subprocess

import pytest

from tests.test_package import SOURCES
from tests.tiny_run import ROOT

FILE = ROOT / "launch" / "Dockerfile"
INSTRUCTIONS = {"ARG", "COPY", "ENTRYPOINT", "ENV", "FROM", "RUN", "USER", "WORKDIR"}


@pytest.fixture(scope="module")
def instructions():
    """The instructions of the file and their arguments, in order."""
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line]


def test_dockerfile_has_known_instructions_only(instructions):
    assert {name for name, _ in instructions} <= INSTRUCTIONS
    assert [name for name, _ in instructions][:2] == ["ARG", "FROM"]
    assert instructions[-1] == ("ENTRYPOINT", '["amdjax"]')
    for name, text in instructions:
        if name == "RUN":
            subprocess.run(["sh", "-n", "-c", text], check=True)


def test_dockerfile_runs_as_another_user_than_root(instructions):
    names = [name for name, _ in instructions]
    (user,) = (text for name, text in instructions if name == "USER")
    assert "RUN" not in names[names.index("USER") :]  # which would need root
    assert int(user.split(":")[0]) > 0
    (folder,) = (text for name, text in instructions if name == "WORKDIR")
    assert any(f"--home-dir {folder} " in text for name, text in instructions if name == "RUN")


def test_dockerfile_copies_what_the_package_is_built_from(instructions):
    copied = [text.split()[:-1] for name, text in instructions if name == "COPY"]
    sources = {source for words in copied for source in words}
    assert sources == {*SOURCES, "requirements.txt"}
    ignored, *lines = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"
    ]
    assert ignored == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == sources
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize(("accelerator", "words"), [("", []), ("cuda12", ["jax[cuda12]"])])
def test_dockerfile_installs_jax_for_the_accelerator(instructions, accelerator, words):
    assert ("ARG", 'ACCELERATOR=""') in instructions
    (install,) = (text for name, text in instructions if name == "RUN" and "ACCELERATOR:+" in text)
    script = f'pip() {{ printf "%s\\n" "$@"; }}; {install}'
    done = subprocess.run(
        ["sh", "-c", script], env={"ACCELERATOR": accelerator}, capture_output=True, text=True
    )
    assert done.stdout.split()[4:] == words


@pytest.mark.slow
def test_image_runs_as_any_user():
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "info"], capture_output=True).returncode
    ):
        pytest.skip("docker does not run here")
    words = ["docker", "build", "--quiet", "-f", str(FILE), str(ROOT)]
    build = subprocess.run(words, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    run = ["docker", "run", "--rm", "--user=12345:12345", build.stdout.strip(), "--list"]
    done = subprocess.run(run, capture_output=True, text=True)
    assert "amd_gl" in done.stdout, done.stderr
