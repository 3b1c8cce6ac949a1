"""Shows what was distilled: `python -m amdjax.report --workdir=DIR` writes DIR/report/."""

from pathlib import Path

from absl import flags

from amdjax.cli import run_command
from amdjax.errors import UserError
from amdjax.report.evaluate import collect
from amdjax.report.page import write_report
from amdjax.report.summary import score
from amdjax.training.preflight import check_writable

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of amdjax.main.")
_IMAGES = flags.DEFINE_list(
    "images", None, "Numbers of the test images to show; default: the most disputed ones."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared data, if not where the run had them.")


def main(arguments: list[str]) -> None:
    """Reads the workdir's networks, and writes the page, its figures and its numbers."""
    if _WORKDIR.value is None:
        raise UserError("--workdir=DIR is missing, the folder of a run of amdjax.main")
    if len(arguments) > 1:
        raise UserError(f"{arguments[1]} is no flag of this command; the images are --images=3,17")
    workdir, indices = Path(_WORKDIR.value), _indices(_IMAGES.value)
    folder = workdir / "report"
    if workdir.is_dir():  # else `collect` says what is wrong
        check_writable(folder if folder.exists() else workdir)
    study = collect(workdir, _DATA_DIR.value, indices=indices)
    for sentence in study.missing:
        print(f"missing: {sentence}")
    print(write_report(study, score(study), folder))


def _indices(words: list[str] | None) -> list[int] | None:
    try:
        return None if words is None else [int(word) for word in words]
    except ValueError as error:
        raise UserError(f"--images must be whole numbers, not {','.join(words)}") from error


if __name__ == "__main__":
    run_command(main)
