"""Statistics of a report: quality, calibration and geometry of each method, over its seeds."""

import dataclasses
import math
import statistics
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import binomtest

from amdjax import metrics
from amdjax.analysis.angles import geodesic_distances
from amdjax.analysis.calibration import fit_temperature, split_half
from amdjax.comparison import Comparison, baseline_of, compare_accuracies, holm_adjusted
from amdjax.report.class_scores import ClassScores, score_classes
from amdjax.report.report_data import ModelResult, ReportData

_SAMPLE_SEED = 0
_SAMPLE_SIZE = 1000  # examples whose pairwise distances are measured: half a million pairs


class TemperatureScaling(NamedTuple):
    """Temperature scaling of a network, evaluated on the held-out half of the examples.

    Attributes:
      temperature: fitted on the other half.
      ece_before: expected calibration error, 15 bins, in [0, 1].
      ece_after: the same of `softmax(logits / temperature)`.
      nll_before: mean negative log-likelihood, in nats.
      nll_after: the same of `softmax(logits / temperature)`.
    """

    temperature: float
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float


class McNemar(NamedTuple):
    """McNemar's exact test of two networks on the same examples, see `mcnemar`.

    Attributes:
      baseline: label of the method that the other one is compared with.
      seed: of both networks.
      gained: number of examples that only the method classifies correctly.
      lost: number of examples that only the baseline classifies correctly.
      p_value: two-sided.
      adjusted_p: `holm_adjusted` for all tests of the report.
    """

    baseline: str
    seed: int
    gained: int
    lost: int
    p_value: float
    adjusted_p: float = math.nan


@dataclasses.dataclass(frozen=True)
class Stat:
    """Statistics of one quantity of a method.

    Attributes:
      mean: over the seeds.
      std: standard deviation over the seeds (n - 1); None for a single seed.
      values: for each seed, in the order of `MethodSummary.seeds`.
    """

    mean: float
    std: float | None
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """The statistics of a method.

    Attributes:
      method: the method with its swept value, see `ModelResult.label`.
      is_teacher: whether it is a teacher.
      model: name of the architecture.
      seeds: of its networks.
      parameters: `count_prediction_parameters`.
      flops: of one image's forward pass; 0 if unknown.
      images_per_s: of the forward pass.
      scores: "top1", "best" (the highest of all evaluations on the test split), "top5", "nll",
        "ece", "v_measure", "homogeneity", "completeness" (of the predicted against the true
        classes), "temperature", "ece_before", "ece_after", "nll_before", "nll_after" (see
        `TemperatureScaling`), "geodesic_intra", "geodesic_inter" (mean distance of two embeddings
        of one class and of two classes, in degrees; left out if there are no such pairs), and those
        of `evaluate_open_set`.
      similarity: layer -> mean `map_cosine` with the teacher's map.
      am_distance: layer -> mean AM loss to the teacher.
      angles: layer -> mean `map_angles`, in degrees.
      classes: accuracy and confusions by class.
      t_test: of the accuracies, paired by seed with those of the baseline; None with fewer than
        two common seeds. It takes the training (the seeds) as the source of randomness.
      mcnemar: test on the examples if there is no `t_test`; else None. It takes the choice of the
        test images as the source of randomness.
    """

    method: str
    is_teacher: bool
    model: str
    seeds: tuple[int, ...]
    parameters: int
    flops: float
    images_per_s: float
    scores: dict[str, Stat]
    similarity: dict[str, Stat]
    am_distance: dict[str, Stat]
    angles: dict[str, Stat]
    classes: ClassScores
    t_test: Comparison | None
    mcnemar: McNemar | None

    @property
    def test(self) -> Comparison | McNemar | None:
        """The test against the baseline, `t_test` or `mcnemar`."""
        return self.t_test or self.mcnemar

    def to_json(self) -> dict:
        """Returns the summary for `json.dumps`, without `classes`; undefined values are None."""
        summary = dataclasses.asdict(self)
        del summary["classes"]  # large: CSV files have it
        for test in ("t_test", "mcnemar"):
            if summary[test] is not None:
                entry = summary[test]._asdict()
                summary[test] = {k: None if v != v else v for k, v in entry.items()}
        return summary


def summarize(report: ReportData) -> list[MethodSummary]:
    """Returns the summary of each method and swept value, in the order of the report's networks.

    The baseline of both tests is that of `baseline_of`. Students of `report.not_compared` are left
    out of them.

    Args:
      report: with at least two test examples, or without networks.

    Raises:
      UserError: if there is a single test example.
    """
    groups = report.by_label
    sample = class_sample(report.labels, len(report.class_names))
    scores = {
        label: _over_seeds(_scores(network, report.labels, sample) for network in networks)
        for label, networks in groups.items()
    }
    students, accuracies = {}, {}
    for label, networks in groups.items():
        if not networks[0].is_teacher:
            compared = [
                (network, accuracy)
                for network, accuracy in zip(networks, scores[label]["top1"].values, strict=True)
                if network.seed not in report.not_compared.get(label, ())
            ]
            students[label] = {network.seed: network for network, _ in compared}
            accuracies[label] = {network.seed: accuracy for network, accuracy in compared}
    tests = _tests(students, accuracies, report.labels)
    return [
        MethodSummary(
            method=label,
            is_teacher=networks[0].is_teacher,
            model=networks[0].model,
            seeds=tuple(network.seed for network in networks),
            parameters=networks[0].parameters,
            flops=networks[0].flops,
            images_per_s=networks[0].images_per_s,
            scores=scores[label],
            similarity=_over_seeds(_means(network.similarity) for network in networks),
            am_distance=_over_seeds(network.am_distance for network in networks),
            angles=_over_seeds(_means(network.angles) for network in networks),
            classes=score_classes(
                [network.logits.argmax(axis=1) for network in networks],
                report.labels,
                len(report.class_names),
            ),
            t_test=test if isinstance(test := tests.get(label), Comparison) else None,
            mcnemar=test if isinstance(test, McNemar) else None,
        )
        for label, networks in groups.items()
    ]


def temperature_scaling(logits: np.ndarray, labels: np.ndarray) -> TemperatureScaling:
    """Fits a temperature on one half of the examples and evaluates it on the other.

    Args:
      logits: float [N,C], finite.
      labels: int [N].

    Returns:
      `TemperatureScaling`; the halves depend on N only.

    Raises:
      UserError: on fewer than two examples, or logits that are not finite.
    """
    fit, held_out = split_half(len(labels))
    temperature = fit_temperature(logits[fit], labels[fit])
    logits, labels = logits[held_out], labels[held_out]
    before, after = _evaluate(logits, labels), _evaluate(logits / np.float32(temperature), labels)
    return TemperatureScaling(
        temperature=temperature,
        ece_before=before["ece"],
        ece_after=after["ece"],
        nll_before=before["nll"],
        nll_after=after["nll"],
    )


def mcnemar(correct: np.ndarray, baseline_correct: np.ndarray) -> tuple[int, int, float]:
    """Tests whether two networks have the same accuracy, on the same examples.

    McNemar's test (Psychometrika 1947) in its exact form: under the null hypothesis, the number of
    examples that only the first network classifies correctly, among those that exactly one network
    does, is binomial with probability 1/2.

    Args:
      correct: bool [N], whether the first network is correct.
      baseline_correct: bool [N], whether the second network is correct.

    Returns:
      (number of examples that only the first network classifies correctly, number of those that
      only the second does, two-sided p-value); p is 1 if both numbers are 0.
    """
    gained = int(np.sum(correct & ~baseline_correct))
    lost = int(np.sum(baseline_correct & ~correct))
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return gained, lost, p_value


def class_sample(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Draws a class-balanced sample of about 1000 examples, for pairwise distances.

    Args:
      labels: int [N].
      num_classes: C.

    Returns:
      int64, ascending: 1000 / C examples of each class, or all examples of a smaller class; of more
      than 500 classes 2 examples of 500 of them; the same for the same labels.
    """
    per_class = max(2, _SAMPLE_SIZE // max(num_classes, 1))
    rng = np.random.default_rng(_SAMPLE_SEED)
    classes = np.arange(num_classes)
    if num_classes * per_class > _SAMPLE_SIZE:
        classes = rng.permutation(classes)[: _SAMPLE_SIZE // per_class]
    drawn = [rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in classes]
    return np.sort(np.concatenate([np.zeros([0], np.int64), *drawn]))


def _scores(network: ModelResult, labels: np.ndarray, sample: np.ndarray) -> dict[str, float]:
    logits = network.logits
    evaluation = _evaluate(logits, labels)
    homogeneity, completeness, v_measure = metrics.v_measure(labels, logits.argmax(axis=1))
    distances = geodesic_distances(network.embedding[sample], labels[sample])
    names = ("geodesic_intra", "geodesic_inter")
    return {
        "top1": evaluation["accuracy"],
        **{name: evaluation[name] for name in ("top5", "nll", "ece")},
        "v_measure": float(v_measure),
        "homogeneity": float(homogeneity),
        "completeness": float(completeness),
        **temperature_scaling(logits, labels)._asdict(),
        **{
            name: float(np.rad2deg(pairs.mean()))
            for name, pairs in zip(names, distances, strict=True)
            if pairs.size
        },
        **_best_accuracy(network),
        **network.open_set,
    }


def _best_accuracy(network: ModelResult) -> dict[str, float]:
    """Returns the highest accuracy of the evaluations of a training on the test split, if any."""
    accuracies = {
        split: [line["accuracy"] for line in network.curve if line["split"] == split]
        for split in ("test", "validation")
    }
    if accuracies["validation"] or not accuracies["test"]:
        return {}
    return {"best": max(accuracies["test"])}


def _evaluate(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns the `EvalMetrics` of whole arrays."""
    values = _eval_metrics(logits, labels).compute()
    return {name: float(value) for name, value in values.items()}


@jax.jit
def _eval_metrics(logits: jax.Array, labels: jax.Array) -> metrics.EvalMetrics:
    mask = jnp.ones(labels.shape, bool)
    return metrics.EvalMetrics.single_from_model_output(logits=logits, labels=labels, mask=mask)


def _means(by_layer: dict[str, np.ndarray]) -> dict[str, float]:
    return {layer: float(values.mean()) for layer, values in by_layer.items()}


def _over_seeds(values: Iterable[dict[str, float]]) -> dict[str, Stat]:
    """Returns the statistics of each quantity that all seeds have."""
    values = list(values)
    names = [name for name in values[0] if all(name in other for other in values)]
    return {name: _stat([entry[name] for entry in values]) for name in names}


def _stat(values: list[float]) -> Stat:
    std = statistics.stdev(values) if len(values) > 1 else None
    return Stat(statistics.fmean(values), std, tuple(values))


def _tests(
    students: dict[str, dict[int, ModelResult]],
    accuracies: dict[str, dict[int, float]],
    labels: np.ndarray,
) -> dict[str, Comparison | McNemar]:
    """Returns the test of each student against its baseline, with p adjusted for their number."""
    tests: dict[str, Comparison | McNemar] = {
        entry.method: entry for entry in compare_accuracies(accuracies)
    }
    for label in students.keys() - tests.keys():
        if test := _mcnemar(students, label, labels):
            tests[label] = test
    adjusted = holm_adjusted([test.p_value for test in tests.values()])
    return {
        label: test._replace(adjusted_p=p)
        for (label, test), p in zip(tests.items(), adjusted, strict=True)
    }


def _mcnemar(
    students: dict[str, dict[int, ModelResult]], label: str, labels: np.ndarray
) -> McNemar | None:
    """Compares a student with the baseline at the first seed that both have."""
    baseline = baseline_of(students, label) if students else label
    if label not in students or label == baseline:
        return None
    for seed, network in students[label].items():
        if seed in students[baseline]:
            correct, baseline_correct = (
                one.logits.argmax(axis=1) == labels for one in (network, students[baseline][seed])
            )
            return McNemar(baseline, seed, *mcnemar(correct, baseline_correct))
    return None
