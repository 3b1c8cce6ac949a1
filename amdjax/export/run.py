"""An export from top to bottom: write a file, run it, compare it with amdjax, describe it."""

import dataclasses
import json
import tempfile
from pathlib import Path

import jax
import numpy as np

from amdjax.calibrated import BATCH_SIZE, CalibratedModel
from amdjax.data.fingerprint import Fingerprint, check_classes, compare_test_images
from amdjax.errors import UserError, unknown_name, warn
from amdjax.export.card import model_card
from amdjax.export.evaluate import Evaluation, evaluate, format_evaluations, seconds_per_call
from amdjax.export.formats import FORMATS, Classify, metadata_file, require
from amdjax.export.quantize import quantize
from amdjax.export.student import Metadata, read_student
from amdjax.files import check_writable
from amdjax.workdir import UNMOVED, DataPaths, load_data_again, read_config, run_data

TOLERANCE = 1e-4  # of the probabilities
_OTHER_SIZE = 7  # of a batch, to see that a graph takes any


def export(
    workdir: Path,
    to: str,
    file: Path,
    *,
    method: str | None = None,
    calibrated: bool = False,
    int8: bool = False,
    license_name: str = "unknown",
    paths: DataPaths = UNMOVED,
) -> float:
    """Writes a network with its metadata and its model card, and compares it with amdjax.

    The files are FILE, FILE.json and FILE.md, and with `int8` STEM.int8.onnx and its .json. None is
    left if the comparison fails. What was measured is printed.

    Args:
      workdir: of an experiment.
      to: the format, a key of `FORMATS`.
      file: to write.
      method: of the student, or its folder in the workdir; None: the last student of the config
        that has a checkpoint.
      calibrated: whether to divide the logits by the temperature of `amdjax.predict`.
      int8: whether to write a quantised ONNX file too.
      license_name: of the weights, for the model card.
      paths: where the data are now, if they were moved.

    Returns:
      The largest difference of the probabilities from those of amdjax, on random images.

    Raises:
      UserError: if one of the files exists, the network cannot be read or exported, a package is
        missing, or the difference exceeds `TOLERANCE`.
    """
    _check(to, file, int8)
    model, metadata = read_student(workdir, method, calibrated, paths)
    check_writable(file.parent)
    metadata = {"format": to, **metadata}
    # Files get their names in the end, so that a failure leaves nothing behind.
    with (
        jax.default_device(_cpu()),
        tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as folder,
    ):
        model = _on_device(model, _cpu())
        draft = Path(folder) / file.name
        metadata |= FORMATS[to].write(model, metadata, draft)
        classify = FORMATS[to].read(draft, metadata)
        images = random_images(BATCH_SIZE, metadata["image_shape"])
        difference = largest_difference(model, classify, images, FORMATS[to].has_graph)
        print(
            f"{model.name}: {draft.stat().st_size / 1e6:.2f} MB; largest difference of the "
            f"probabilities from amdjax's: {difference:.1e} ({BATCH_SIZE} random images)",
            flush=True,
        )
        if not difference <= TOLERANCE:  # nor NaN
            raise UserError(
                f"{file} was not written: its probabilities differ by {difference:.1e} from those "
                f"of amdjax, more than {TOLERANCE:g}"
            )
        if FORMATS[to].has_graph:
            ours = 1000 * seconds_per_call(lambda: model.probabilities(images))
            theirs = 1000 * seconds_per_call(lambda: classify(images))
            print(f"batch of {BATCH_SIZE}: amdjax {ours:.1f} ms, {to} {theirs:.1f} ms", flush=True)
        evaluations = {}
        if int8:
            evaluations = _add_int8(workdir, paths, draft, classify, metadata)
            print(format_evaluations(evaluations, "simple"), flush=True)
        _write_text(metadata_file(draft), json.dumps(metadata, indent=2) + "\n")
        card = model_card(file.name, metadata, license_name, difference, evaluations)
        _write_text(card_file(draft), card)
        for written in sorted(Path(folder).iterdir()):
            written.rename(file.with_name(written.name))
            print(f"  {file.with_name(written.name)}")
    return difference


def card_file(file: Path) -> Path:
    """Returns the file with the model card of an exported file."""
    return file.with_name(file.name + ".md")


def int8_file(file: Path) -> Path:
    """Returns the quantised file of an ONNX file."""
    return file.with_suffix(".int8.onnx")


def random_images(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns images of noise of many levels and contrasts, uint8 [count,H,W,3]."""
    rng = np.random.default_rng(0)
    level, contrast = rng.uniform(0, 255, (2, count, 1, 1, 1))
    noise = rng.standard_normal((count, *shape))
    return np.clip(level + contrast * noise, 0, 255).astype(np.uint8)


def largest_difference(
    model: CalibratedModel, classify: Classify, images: np.ndarray, any_batch: bool
) -> float:
    """Returns the largest difference of an export's probabilities from amdjax's.

    Args:
      model: that was exported.
      classify: the export.
      images: uint8 [B,H,W,3].
      any_batch: whether to compare a batch of another size too.
    """
    ours = model.probabilities(images)
    theirs = [classify(images)]
    if any_batch:
        theirs.append(classify(images[:_OTHER_SIZE]))
    return float(np.max([np.abs(output - ours[: len(output)]).max() for output in theirs]))


def _check(to: str, file: Path, int8: bool) -> None:
    """Checks what can be checked before the network is read."""
    if to not in FORMATS:
        raise unknown_name("format", to, FORMATS)
    if int8 and to != "onnx":
        raise UserError(f"int8 needs the format onnx, not {to}")
    suffixes = FORMATS[to].suffixes
    if file.suffix not in suffixes:
        raise UserError(f"{file}: with --to={to} the name must end in {' or '.join(suffixes)}")
    graphs = (file, int8_file(file)) if int8 else (file,)
    for path in (*graphs, *map(metadata_file, graphs), card_file(file)):
        if path.exists():
            raise UserError(f"{path} exists already; remove it or choose another name")
    require(to, file.suffix)


def _cpu() -> jax.Device:
    try:
        return jax.devices("cpu")[0]
    except RuntimeError as error:
        raise UserError(
            "an export is compared with amdjax on the CPU, which JAX_PLATFORMS leaves out: add cpu"
        ) from error


def _on_device(model: CalibratedModel, device: jax.Device) -> CalibratedModel:
    variables = jax.device_put(model.network.variables, device)
    return dataclasses.replace(
        model, network=dataclasses.replace(model.network, variables=variables)
    )


def _add_int8(
    workdir: Path, paths: DataPaths, file: Path, classify: Classify, metadata: Metadata
) -> dict[str, Evaluation]:
    """Quantises an ONNX file, and evaluates both networks on the test split."""
    data = run_data(read_config(workdir).data, metadata["settings"], paths)
    dataset, small = load_data_again(data), int8_file(file)
    trained = Fingerprint.from_dict(metadata["data"])
    check_classes(trained, dataset.fingerprint, str(workdir))
    if change := compare_test_images(trained, dataset.fingerprint):
        warn(f"the table is for test images that differ from those of training ({change})")
    quantize(file, small, dataset)
    _write_text(metadata_file(small), json.dumps({**metadata, "dtype": "int8"}, indent=2) + "\n")
    return {
        file.name: evaluate(file, classify, dataset),
        small.name: evaluate(small, FORMATS["onnx"].read(small, metadata), dataset),
    }


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
