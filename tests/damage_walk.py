"""Damages to the files of a workdir: the kinds, and the long walk over all of them.

`python -m tests.damage_walk` trains a small run, damages every file and every folder of its student
in every way, and for each damage repeats the run's command, the report and the prediction, in one
process so that programs are compiled once. It prints the table of docs/reliability.md.
"""

import collections
import contextlib
import functools
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    if content:
        content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def _replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def _half_copy(folder: Path) -> None:
    """Leaves every second file, as a copy that was interrupted."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file())[1::2]:
        file.unlink()


FILE_DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut in half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda file: file.write_bytes(b""),
    "one bit flipped": _flip,
    "not UTF-8": lambda file: file.write_bytes(b"\xff\xfe\xff" + file.read_bytes()[3:]),
    "another JSON value": lambda file: file.write_text("[1]"),
    "JSON without its entries": lambda file: file.write_text("{}"),
    "deleted": Path.unlink,
    "replaced by a folder": _replace_by_folder,
}
FOLDER_DAMAGES: dict[str, Callable[[Path], object]] = {
    "folder deleted": shutil.rmtree,
    "folder replaced by a file": _replace_by_file,
    "folder half copied": _half_copy,
}

OLDER = ("deleted", "one bit flipped", "folder half copied")  # done to the older checkpoint, too


def files_of(workdir: Path, run: str) -> list[Path]:
    """Returns the files of a workdir and of one of its runs, relative to the workdir."""
    found = [*workdir.glob("*"), *(workdir / run).rglob("*")]
    return sorted(file.relative_to(workdir) for file in found if file.is_file())


def folders_of(workdir: Path, run: str) -> list[Path]:
    """Returns the folders of one run of a workdir, relative to the workdir."""
    found = [workdir / run, *(workdir / run).rglob("*")]
    return sorted(path.relative_to(workdir) for path in found if path.is_dir())


def _network(workdir: Path) -> tuple[int, bytes]:
    """Returns step and bytes of the student's variables."""
    import jax

    from amdjax.checkpoint import read_network

    step, variables = read_network(workdir / "kd")
    return step, b"".join(leaf.tobytes() for leaf in jax.tree.leaves(variables))


@contextlib.contextmanager
def _captured() -> Iterator[list[str]]:
    """Collects what is written to stderr, also by libraries that are not in Python."""
    lines: list[str] = []
    with tempfile.TemporaryFile("w+") as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield lines
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            lines += file.read().splitlines()


def main() -> None:
    """Walks over all damages and prints the table."""
    from absl import logging

    from amdjax.errors import UserError
    from amdjax.predict.loaded_models import load_models
    from amdjax.report.evaluate import evaluate_workdir
    from amdjax.training import run as run_module
    from tests.make_data import write_folder
    from tests.tiny_run import tiny_config

    logging.set_verbosity(logging.ERROR)  # as the commands do
    # One trainer, and so one compilation, for all repetitions of the command.
    trainers: dict[str, object] = {}
    build = run_module.build_trainer
    run_module.build_trainer = lambda config, spec, *more: trainers.setdefault(
        spec.method, build(config, spec, *more)
    )
    root = Path(tempfile.mkdtemp(prefix="damage_walk_"))
    config = tiny_config(write_folder(root / "images", per_class=16, size=16), ("kd",))
    whole, there = root / "whole", root / "damaged"
    run_module.run(config, whole)
    load_models(whole)  # stores the temperatures
    unbroken = _network(whole)
    commands: dict[str, Callable[[], object]] = {
        "run": functools.partial(run_module.run, config, there),
        "report": functools.partial(evaluate_workdir, there),
        "predict": functools.partial(load_models, there),
    }
    counts: dict[tuple[str, str], collections.Counter] = collections.defaultdict(
        collections.Counter
    )
    cases = [
        (kind, damage, path)
        for damages, paths in (
            (FILE_DAMAGES, files_of(whole, "kd")),
            (FOLDER_DAMAGES, folders_of(whole, "kd")),
        )
        for kind, damage in damages.items()
        for path in paths
    ]
    cases = [case for case in cases if case[0] in OLDER or "8" not in case[2].parts]
    for number, (kind, damage, path) in enumerate(cases, start=1):
        print(f"{number}/{len(cases)}: {kind}: {path}", file=sys.stderr)
        for name, command in commands.items():
            shutil.rmtree(there, ignore_errors=True)
            shutil.copytree(whole, there)
            damage(there / path)
            with _captured() as lines:
                try:
                    command()
                    outcome = "continues"
                    if name == "run" and _network(there) != unbroken:
                        outcome = "another network"
                except UserError as error:
                    outcome = "one line" if "\n" not in str(error) else "several lines"
                    lines.append(str(error))
                except Exception as error:
                    outcome = "traceback"
                    lines.append(repr(error))
            if any("Traceback" in line for line in lines):
                outcome = "traceback"
            counts[kind, name][outcome] += 1
            if outcome != "continues" or lines:
                print(f"  {name}: {outcome}: {' | '.join(lines)}", file=sys.stderr)
    shutil.rmtree(root)
    print("| damage | cases | run | report | predict |\n|---|---|---|---|---|")
    for kind in (*FILE_DAMAGES, *FOLDER_DAMAGES):
        cells = [
            ", ".join(f"{count} {outcome}" for outcome, count in counts[kind, name].most_common())
            for name in commands
        ]
        print(f"| {kind} | {counts[kind, 'run'].total()} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
