"""Experiment trackers, which get the settings and the metrics of each run: `config.trackers`."""

import contextlib
import importlib.util
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import flax.traverse_util

from amdjax.errors import UserError, one_line, unknown_name, warn
from amdjax.files import write_atomically
from amdjax.registry import registering

_ID_FILE = "tracker_id"
_EXTRAS = ("wandb", "mlflow")  # trackers, their packages, and the extras that install these
_PROJECT = "amdjax"
_MAX_PARAMS, _MAX_PARAM_LENGTH = 100, 6000  # of MLflow: in one request, of one value


class Tracker(Protocol):
    """A client of a tracking service, for one run. Any method may raise any error."""

    def start(self, name: str, folder: Path, config: Mapping[str, Any], run_id: str) -> None:
        """Starts the run at the service, or continues it.

        Args:
          name: of the run, for people: "WORKDIR/RUN".
          folder: of the run, for files of the tracker.
          config: nested settings of the run, as JSON values.
          run_id: 16 hexadecimal digits; the same again when the run is resumed.
        """
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the values of a step, such as "train/loss"; two calls may have the same step."""
        ...

    def finish(self) -> None:
        """Ends the connection: the run is finished, or stopped and may be resumed."""
        ...


class TrackerSpec(NamedTuple):
    """An entry of the registry.

    Attributes:
      create: returns a tracker that is not started.
      summary: one line for `--list`.
    """

    create: Callable[[], Tracker]
    summary: str


_Create = TypeVar("_Create", bound=Callable[[], Tracker])

TRACKERS: dict[str, TrackerSpec] = {}


def register_tracker(name: str, summary: str) -> Callable[[_Create], _Create]:
    """Returns a decorator that registers a tracker: a class with the methods of `Tracker`.

    Args:
      name: of the tracker, for `config.trackers`.
      summary: description in one line, for `--list`.

    Raises:
      UserError: if the name is taken.
    """
    return registering(TRACKERS, "tracker", name, lambda create: TrackerSpec(create, summary))


@register_tracker("wandb", "Weights & Biases")
class _WandB:
    def start(self, name: str, folder: Path, config: Mapping[str, Any], run_id: str) -> None:
        # The training waits for these, with WANDB_MODE=online.
        os.environ.setdefault("WANDB_INIT_TIMEOUT", "60")  # seconds
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", "60")
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=run_id,
            resume="allow",
            name=name,
            dir=str(folder),
            config=dict(config),
            reinit="create_new",  # the seeds of config.seeds_at_once are several runs at a time
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def finish(self) -> None:
        self._run.finish()


@register_tracker("mlflow", "MLflow")
class _MLflow:
    def start(self, name: str, folder: Path, config: Mapping[str, Any], run_id: str) -> None:
        # The training waits for each request; MLflow's defaults are minutes without a server.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # seconds
        import mlflow

        self._client = mlflow.MlflowClient()
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self._client.get_experiment_by_name(project)
        experiment_id = (
            self._client.create_experiment(project)
            if experiment is None
            else experiment.experiment_id
        )
        # MLflow chooses the ids of runs itself.
        tag = f"{_PROJECT}.run_id"
        started = self._client.search_runs([experiment_id], f"tags.`{tag}` = '{run_id}'")
        if started:
            self._run_id = started[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return
        run = self._client.create_run(experiment_id, tags={tag: run_id}, run_name=name)
        self._run_id = run.info.run_id
        settings = flax.traverse_util.flatten_dict(dict(config), sep=".")
        params = [
            mlflow.entities.Param(key, str(value)[:_MAX_PARAM_LENGTH])
            for key, value in settings.items()
        ]
        for first in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(self._run_id, params=params[first : first + _MAX_PARAMS])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def finish(self) -> None:
        self._client.set_terminated(self._run_id)


def check_trackers(names: Sequence[str]) -> None:
    """Makes sure that trackers exist and that their packages are installed.

    Args:
      names: `config.trackers`.

    Raises:
      UserError: naming the trackers that exist, or the command that installs a package.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("config.trackers", str(name), TRACKERS)
        if name in _EXTRAS:
            found = importlib.util.find_spec(name)
            if found is None or found.origin is None:  # a folder of that name is not the package
                raise UserError(
                    f"config.trackers={name} needs the package {name}: pip install "
                    f'"amdjax[{name}]", or ".[{name}]" in the repository'
                )


class RunTrackers:
    """The started trackers of one run.

    A tracker that fails, for instance without a network, is left out from then on, with a warning:
    the training goes on.
    """

    def __init__(self, names: Sequence[str], run: str, folder: Path, config: Mapping[str, Any]):
        """Starts trackers, or continues the runs that they have.

        Args:
          names: `config.trackers`; empty: nothing is done.
          run: name of the run.
          folder: of the run.
          config: nested settings of the run, as JSON values.
        """
        self._run = run
        self._active: dict[str, Tracker] = {}
        for name in names:
            with self._guard(name):
                self._active[name] = TRACKERS[name].create()
        if names:
            run_id, title = _run_id(folder), f"{folder.resolve().parent.name}/{run}"
            self._each(lambda tracker: tracker.start(title, folder, config, run_id))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the values of a step."""
        self._each(lambda tracker: tracker.log(step, values))

    def finish(self) -> None:
        """Ends the connections."""
        self._each(lambda tracker: tracker.finish())

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._active.items()):
            with self._guard(name):
                call(tracker)

    @contextlib.contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        """Leaves out a tracker that raises an error inside, with a warning."""
        try:
            yield
        except Exception as error:  # a service may raise anything
            self._active.pop(name, None)
            reason = one_line(f"{type(error).__name__}: {error}")
            warn(
                f"{self._run}: the tracker {name} failed and gets nothing more from this command; "
                f"the training goes on ({reason})"
            )


def _run_id(folder: Path) -> str:
    """Returns the id of a run, which is kept in its folder.

    It is random: one from the path would continue a run whose folder was removed, or that of
    another machine.
    """
    path = folder / _ID_FILE
    saved = path.read_bytes().strip() if path.is_file() else b""
    if re.fullmatch(rb"[0-9a-f]{16}", saved):
        return saved.decode()
    run_id = secrets.token_hex(8)
    write_atomically(path, run_id + "\n")
    return run_id
