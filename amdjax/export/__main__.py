"""Export of a student: `python -m amdjax.export --workdir=DIR --to=FORMAT FILE`."""

from absl import flags

from amdjax import workdir_flags
from amdjax.cli import run_command
from amdjax.errors import UserError
from amdjax.export.formats import FORMATS
from amdjax.export.run import export
from amdjax.files import local_path

flags.adopt_module_key_flags(workdir_flags)
_METHOD = flags.DEFINE_string(
    "method", None, "Method of the student, or its folder in the workdir; default: the last one."
)
_TO = flags.DEFINE_string(
    "to", None, "; ".join(f"{name}: {form.summary}" for name, form in FORMATS.items()) + "."
)
_CALIBRATED = flags.DEFINE_bool(
    "calibrated", False, "Divide the logits by the temperature of amdjax.predict."
)
_INT8 = flags.DEFINE_bool(
    "int8",
    False,
    "With --to=onnx: also write an int8 file, with activation ranges of training images.",
)
_LICENSE = flags.DEFINE_string(
    "license", "unknown", "Licence of the weights for the model card: apache-2.0, mit, ..."
)


def main(arguments: list[str]) -> None:
    """Writes a network, its metadata and its model card, and compares it with amdjax."""
    workdir = workdir_flags.workdir()
    if _TO.value is None:
        raise UserError(f"--to=FORMAT is missing; known: {', '.join(FORMATS)}")
    if len(arguments) != 2:
        raise UserError("name the file to write after the flags, and only it: student.onnx")
    export(
        workdir,
        _TO.value,
        local_path(arguments[1], "FILE"),
        method=_METHOD.value,
        calibrated=_CALIBRATED.value,
        int8=_INT8.value,
        license_name=_LICENSE.value,
        paths=workdir_flags.data_paths(),
    )


def cli() -> None:
    """Runs the `amdjax-export` command."""
    run_command(main)


if __name__ == "__main__":
    cli()
