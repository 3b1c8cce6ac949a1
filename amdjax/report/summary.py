"""The numbers of a report: what a `ReportData` says of each method, over its seeds."""

import dataclasses
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
from amdjax.report.report_data import Network, ReportData
from amdjax.training.results import Comparison, baseline_of, compare_accuracies

HALVES_SEED = 0  # of the division into examples to fit a temperature on and those to judge it by
_SAMPLE_SEED = 0
_SAMPLE = 1000  # examples whose pairs are measured: half a million


class Scaling(NamedTuple):
    """What temperature scaling does to a network; errors are of the held-out half.

    Attributes:
      temperature: fitted on the other half.
      ece_before: expected calibration error, 15 bins, from 0 to 1.
      ece_after: the same of `softmax(logits / temperature)`.
      nll_before: mean negative log-likelihood, in nats.
      nll_after: likewise.
    """

    temperature: float
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float


class McNemar(NamedTuple):
    """McNemar's exact test of two networks on the same examples, see `mcnemar`.

    Attributes:
      baseline: the method that the other one is compared with.
      seed: of both networks.
      gained: examples that the method has right and the baseline wrong.
      lost: examples that the baseline has right and the method wrong.
      p_value: two-sided, of as uneven a division if each were equally likely.
    """

    baseline: str
    seed: int
    gained: int
    lost: int
    p_value: float


@dataclasses.dataclass(frozen=True)
class Score:
    """A quantity of a method.

    Attributes:
      mean: over the seeds.
      std: standard deviation over the seeds (n - 1); None of a single one.
      values: of each seed, in the order of `Row.seeds`.
    """

    mean: float
    std: float | None
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """The numbers of a method.

    Attributes:
      method: its name, with the swept value behind it; or a teacher's.
      is_teacher: whether it taught the others.
      model: name of the architecture.
      seeds: of its networks.
      parameters: their number.
      flops: of one image's forward pass; 0 where it is not known.
      images_per_s: of the forward pass.
      scores: "top1", "top5", "nll", "ece", "v_measure", "homogeneity", "completeness" (of the true
        labels against the predicted), "temperature", "ece_before", "ece_after", "nll_before",
        "nll_after" (see `Scaling`), "geodesic_intra", "geodesic_inter" (mean distance of two
        embeddings of one class and of two, in degrees; left out where there are no such pairs).
      similarity: layer -> mean `map_cosine` with the teacher's map.
      am_distance: layer -> mean AM loss to the teacher.
      angles: layer -> mean `map_angles`, in degrees.
      t_test: the accuracies paired by seed with the baseline's; None without two common seeds.
        Its p-value says whether training again would give the same order.
      mcnemar: the test on examples, where the seeds are too few for the other; else None. Its
        p-value says whether other test images would give the same order of these two networks.
    """

    method: str
    is_teacher: bool
    model: str
    seeds: tuple[int, ...]
    parameters: int
    flops: float
    images_per_s: float
    scores: dict[str, Score]
    similarity: dict[str, Score]
    am_distance: dict[str, Score]
    angles: dict[str, Score]
    t_test: Comparison | None
    mcnemar: McNemar | None

    def to_json(self) -> dict:
        """Returns what `json.dumps` takes; values that are not defined are None."""
        row = dataclasses.asdict(self)
        for test in ("t_test", "mcnemar"):
            if row[test] is not None:
                entry = row[test]._asdict()
                row[test] = {k: None if v != v else v for k, v in entry.items()}
        return row


def score(study: ReportData) -> list[Row]:
    """Returns a row for each method of a study, in the order of its networks.

    The baseline of both tests is `kd`, or the first student where there is none.

    Args:
      study: of at least two test examples, or of no network.

    Raises:
      UserError: if there is a single test example.
    """
    groups: dict[str, list[Network]] = {}
    for network in study.networks:
        groups.setdefault(network.method, []).append(network)
    sample = class_sample(study.labels, len(study.class_names))
    scores = {
        method: _over_seeds(_of_network(network, study.labels, sample) for network in networks)
        for method, networks in groups.items()
    }
    students = {
        method: {network.seed: network for network in networks}
        for method, networks in groups.items()
        if not networks[0].is_teacher
    }
    accuracies = {
        method: dict(zip(by_seed, scores[method]["top1"].values, strict=True))
        for method, by_seed in students.items()
    }
    t_tests = {entry.method: entry for entry in compare_accuracies(accuracies)}
    return [
        Row(
            method=method,
            is_teacher=networks[0].is_teacher,
            model=networks[0].model,
            seeds=tuple(network.seed for network in networks),
            parameters=networks[0].parameters,
            flops=networks[0].flops,
            images_per_s=networks[0].images_per_s,
            scores=scores[method],
            similarity=_over_seeds(_means(network.similarity) for network in networks),
            am_distance=_over_seeds(network.am_distance for network in networks),
            angles=_over_seeds(_means(network.angles) for network in networks),
            t_test=t_tests.get(method),
            mcnemar=None if method in t_tests else _mcnemar(students, method, study.labels),
        )
        for method, networks in groups.items()
    ]


def temperature_scaling(logits: np.ndarray, labels: np.ndarray) -> Scaling:
    """Fits a temperature on one half of the examples and judges it on the other.

    Args:
      logits: float [N,C], finite.
      labels: int [N].

    Returns:
      `Scaling`; the halves are always the same for the same N.

    Raises:
      UserError: on fewer than two examples, or logits that are not finite.
    """
    fit, held_out = split_half(len(labels), HALVES_SEED)
    temperature = fit_temperature(logits[fit], labels[fit])
    logits, labels = logits[held_out], labels[held_out]
    before, after = _evaluate(logits, labels), _evaluate(logits / np.float32(temperature), labels)
    return Scaling(temperature, before["ece"], after["ece"], before["nll"], after["nll"])


def mcnemar(right: np.ndarray, baseline_right: np.ndarray) -> tuple[int, int, float]:
    """Tests whether two networks are equally often right on the same examples.

    McNemar's test (Psychometrika 1947) in its exact form: of the examples that one alone has right
    as many should be the one's as the other's, so their division is binomial with 1/2.

    Args:
      right: bool [N], whether the one is right.
      baseline_right: bool [N], whether the other is.

    Returns:
      (examples that the one alone has right, that the other alone has right, two-sided p-value);
      p is 1 where there are no such examples.
    """
    gained = int(np.sum(right & ~baseline_right))
    lost = int(np.sum(baseline_right & ~right))
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return gained, lost, p_value


def class_sample(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Draws examples whose pairs are to be measured: of each class as many, about 1000 in all.

    Args:
      labels: int [N].
      num_classes: C.

    Returns:
      int64, ascending: 1000 / C examples of each class but at least 2, or all that it has; the
      same for the same labels.
    """
    each = max(2, _SAMPLE // max(num_classes, 1))
    rng = np.random.default_rng(_SAMPLE_SEED)
    drawn = [
        rng.permutation(np.flatnonzero(labels == label))[:each] for label in range(num_classes)
    ]
    return np.sort(np.concatenate([np.zeros([0], np.int64), *drawn]))


def _of_network(network: Network, labels: np.ndarray, sample: np.ndarray) -> dict[str, float]:
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
    }


def _evaluate(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns what an evaluation of the run reports, of whole arrays."""
    values = _eval_metrics(logits, labels).compute()
    return {name: float(value) for name, value in values.items()}


@jax.jit
def _eval_metrics(logits: jax.Array, labels: jax.Array) -> metrics.EvalMetrics:
    everything = jnp.ones(labels.shape, bool)
    return metrics.EvalMetrics.single_from_model_output(
        logits=logits, labels=labels, mask=everything
    )


def _means(by_layer: dict[str, np.ndarray]) -> dict[str, float]:
    return {layer: float(values.mean()) for layer, values in by_layer.items()}


def _over_seeds(values: Iterable[dict[str, float]]) -> dict[str, Score]:
    """Summarises what each seed's network has; a quantity that one of them lacks is left out."""
    values = list(values)
    shared = [name for name in values[0] if all(name in other for other in values)]
    return {name: _score([entry[name] for entry in values]) for name in shared}


def _score(values: list[float]) -> Score:
    std = statistics.stdev(values) if len(values) > 1 else None
    return Score(statistics.fmean(values), std, tuple(values))


def _mcnemar(
    students: dict[str, dict[int, Network]], method: str, labels: np.ndarray
) -> McNemar | None:
    """Compares a student with the baseline's of the same seed, the first of several."""
    baseline = baseline_of(students) if students else method
    if method not in students or method == baseline:
        return None
    for seed, network in students[method].items():
        if seed in students[baseline]:
            right, other = (
                one.logits.argmax(axis=1) == labels for one in (network, students[baseline][seed])
            )
            return McNemar(baseline, seed, *mcnemar(right, other))
    return None
