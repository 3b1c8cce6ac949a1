"""Four virtual devices for the tests of sharded steps, and data and runs that tests share.

Most of the tests' time is compilation, so LLVM optimises as little as leaves the results the same.
"""

import collections
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab_module import LAB
from tests.make_data import write_folder
from tests.tiny_run import QUICK_COMPILATION, start

_FLAGS = os.environ.get("XLA_FLAGS", "")
if os.environ.get("JAX_PLATFORMS", "cpu").startswith("cpu"):  # accelerators get what users have
    _FLAGS += f" {QUICK_COMPILATION}"
os.environ["XLA_FLAGS"] = f"{_FLAGS} --xla_force_host_platform_device_count=4"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs files with slow tests first, so that no worker is left alone with one at the end."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # stable: the order within a file is kept


@pytest.fixture(autouse=True)
def _exact_products(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keeps accelerators from rounding float32 to TF32 or bfloat16 in tests with their marker."""
    if not request.node.get_closest_marker("accelerator"):
        yield
        return
    import jax

    precision = None if jax.default_backend() == "cpu" else "highest"
    with jax.default_matmul_precision(precision):
        yield


@pytest.fixture(autouse=True)
def _registrations() -> Iterator[None]:
    """Ends with each test what it registers: no test sees what another has registered."""
    from tests.registries import temporary_registrations

    with temporary_registrations():
        yield


@pytest.fixture
def lab_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the module `lab` and an empty folder for a run."""
    (tmp_path / "lab.py").write_text(LAB)
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 64 training and 32 test images in four classes."""
    return write_folder(tmp_path_factory.mktemp("images") / "set", per_class=16, size=16)


@pytest.fixture(scope="session")
def trained(images: Path) -> Path:
    """The workdir of a teacher and a student; tests that change files take a copy."""
    from tests.trained_run import train

    workdir = images.parent / "trained"
    train(images, workdir)
    return workdir


@pytest.fixture
def limit_file_size() -> Iterator[Callable[[int], None]]:
    """Limits the bytes of a file until the test ends: writing more fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def start_process() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts commands like `tests.tiny_run.start`, and kills them at the end of the test."""
    processes = []

    def start_process(words: list[str], **environment: str) -> subprocess.Popen:
        processes.append(start(words, **environment))
        return processes[-1]

    yield start_process
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets runs of the test use one of the virtual devices."""
    import jax

    from amdjax import distributed

    mesh = distributed.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(distributed, "make_mesh", lambda: mesh)
