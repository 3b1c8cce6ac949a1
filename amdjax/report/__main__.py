"""Report of a workdir: `python -m amdjax.report --workdir=DIR` writes DIR/report/."""

from absl import flags

from amdjax import distributed, workdir_flags
from amdjax.cli import check_no_arguments, run_command
from amdjax.errors import UserError, note
from amdjax.files import check_writable
from amdjax.methods import REPORT_FOLDER
from amdjax.report.evaluate import evaluate_workdir
from amdjax.report.page import write_report
from amdjax.report.summary import summarize

flags.adopt_module_key_flags(workdir_flags)
_IMAGES = flags.DEFINE_list(
    "images",
    None,
    "Indices of the test images to show; default: those that the networks disagree on most.",
)
_UNKNOWN = flags.DEFINE_string(
    "unknown",
    None,
    "Images of unknown classes: a data set, or a folder of images; default: those of the run.",
)


def main(arguments: list[str]) -> None:
    """Evaluates the networks of the workdir and writes page, figures and numbers."""
    workdir = workdir_flags.workdir()
    check_no_arguments(arguments, "choose test images with --images=3,17")
    distributed.check_devices()
    distributed.enable_compilation_cache()
    indices = _indices(_IMAGES.value)
    folder = workdir / REPORT_FOLDER
    if workdir.is_dir():  # otherwise `evaluate_workdir` raises the error
        check_writable(folder if folder.exists() else workdir)
    report = evaluate_workdir(
        workdir, workdir_flags.data_paths(), indices=indices, unknown=_UNKNOWN.value
    )
    note(*report.notes)
    print(write_report(report, summarize(report), folder))


def _indices(words: list[str] | None) -> list[int] | None:
    if words is None:
        return None
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise UserError(f"--images must be whole numbers, not {','.join(words)}") from error


def cli() -> None:
    """Runs the `amdjax-report` command."""
    run_command(main)


if __name__ == "__main__":
    cli()
