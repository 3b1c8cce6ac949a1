"""Classification of images: `python -m amdjax.predict --workdir=DIR IMAGE...`."""

import itertools
from pathlib import Path

import numpy as np
from absl import flags

from amdjax import distributed, workdir_flags
from amdjax.calibrated import BATCH_SIZE
from amdjax.cli import run_command
from amdjax.errors import UserError, note, warn
from amdjax.files import check_writable
from amdjax.predict.images import CAM_MARK, check_any_exists, find_images, overlay_cam, read_images
from amdjax.predict.loaded_models import load_models
from amdjax.predict.output import WRITERS, Predictions, format_table, output_file

flags.adopt_module_key_flags(workdir_flags)
_METHOD = flags.DEFINE_string(
    "method", None, "Method of the student, or its folder in the workdir; default: the last one."
)
_CAM = flags.DEFINE_bool("cam", False, "Write Grad-CAM over each image to ./NAME.cam-METHOD.png.")
_LAYER = flags.DEFINE_string(
    "layer", None, "Feature map of --cam: stem, stage1, ...; default: the last stage."
)
_OUT = flags.DEFINE_string(
    "out", None, "Also write the probabilities of all classes to this .json or .csv file."
)


def main(arguments: list[str]) -> None:
    """Prints the most probable classes of each image, and writes Grad-CAM of the first class."""
    workdir = workdir_flags.workdir()
    out = None if _OUT.value is None else output_file(_OUT.value)
    distributed.check_devices()
    distributed.enable_compilation_cache()
    files = find_images(arguments[1:])
    check_any_exists(files)
    loaded = load_models(workdir, _METHOD.value, workdir_flags.data_paths())
    if out is not None:
        check_writable(out.parent)
    predictions = Predictions(loaded)
    explained = list(loaded.models) if _CAM.value else []
    stems: set[str] = set()
    for first in range(0, len(files), BATCH_SIZE):
        batch = files[first : first + BATCH_SIZE]
        read, images = read_images(batch, loaded.image_size, loaded.imagenet_crop)
        if not read:
            continue
        # Padding gives all batches one shape, so that one executable is compiled.
        images = np.pad(images, [(0, BATCH_SIZE - len(read)), (0, 0), (0, 0), (0, 0)])
        outputs = {model.name: model.probabilities(images) for model in loaded.models}
        cams = {}
        for model in tuple(explained):
            try:
                cams[model.name] = model.grad_cam(images, _LAYER.value)
            except UserError as error:  # the teacher is an ensemble, or has no such layer
                if model is loaded.models[0]:
                    raise
                explained.remove(model)
                note(f"no Grad-CAM of {model.name}: {error}")
        for i, file in enumerate(read):
            probabilities = {name: output[i] for name, output in outputs.items()}
            print(f"{file}\n{format_table(probabilities, loaded.class_names)}", flush=True)
            predictions.add(file, probabilities)
            stem = _unused(file.stem, stems)
            for name, cam in cams.items():
                path = Path(f"{stem}{CAM_MARK}{name}.png")
                try:
                    overlay_cam(file, cam[i], loaded.imagenet_crop).save(path)
                except (OSError, UserError) as error:  # the name is too long, the file was removed
                    warn(f"cannot write Grad-CAM of {file}: {error}")
                else:
                    print(f"  {path}", flush=True)
            stems.add(stem)
    if not stems:
        raise UserError("no image could be read")
    if out:
        WRITERS[out.suffix](predictions, out)
        print(out)


def _unused(stem: str, used: set[str]) -> str:
    """Returns the stem, with a number if a file of another folder has the same stem."""
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in used)


def cli() -> None:
    """Runs the `amdjax-predict` command."""
    run_command(main)


if __name__ == "__main__":
    cli()
