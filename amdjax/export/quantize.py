"""Quantisation of an ONNX file to int8, after training, by onnxruntime's quantiser."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from amdjax.calibrated import BATCH_SIZE
from amdjax.data import Dataset
from amdjax.data.sources import ImageSource
from amdjax.export.student import INPUT

_CALIBRATION_IMAGES = 512
_OPERATIONS = ["Conv", "MatMul"]  # the others take little time and lose accuracy


def quantize(file: Path, to: Path, dataset: Dataset) -> None:
    """Quantises the convolutions and linear layers of a network to 8 bits.

    Weights are int8 with a scale for each output channel. Activations are uint8, with the ranges
    that they have on at most 512 training images, drawn at random.

    Args:
      file: the ONNX file, in float32.
      to: the ONNX file that is written.
      dataset: of the network.
    """
    from onnxruntime import quantization

    quantization.quantize_static(
        file,
        to,
        _Batches(dataset.train),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=_OPERATIONS,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


class _Batches:
    """Batches of training images, as `onnxruntime.quantization.CalibrationDataReader` has them."""

    def __init__(self, source: ImageSource):
        order = np.random.default_rng(0).permutation(len(source))[:_CALIBRATION_IMAGES]
        self._batches = iter(
            {INPUT: source.read(np.sort(order[first : first + BATCH_SIZE]))[0]}
            for first in range(0, len(order), BATCH_SIZE)
        )

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self._batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)
