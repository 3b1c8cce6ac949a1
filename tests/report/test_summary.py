"""Statistics of a report, compared with reference values and direct computations."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

from amdjax.errors import UserError
from amdjax.report.evaluate import evaluate_workdir
from amdjax.report.report_data import ModelResult, ReportData
from amdjax.report.summary import class_sample, mcnemar, summarize, temperature_scaling
from tests.reference_values import load

REFERENCE = load("metrics")
LABELS = REFERENCE["label"].astype(np.int32)


def _result(
    method: str, logits: np.ndarray, seed: int = 0, embedding: np.ndarray | None = None
) -> ModelResult:
    cosines = np.linspace(0.5, 1.0, len(logits)) - 0.1 * seed
    similarity = {} if method == "teacher" else {"stage1": cosines}
    return ModelResult(
        name=f"{method}-seed{seed}",
        method=method,
        seed=seed,
        model="wrn_16_1",
        step=1,
        parameters=10,
        flops=2.0,
        images_per_s=3.0,
        logits=logits,
        embedding=logits if embedding is None else embedding,
        angles={"stage1": np.full(len(logits), 30.0 + seed)},
        similarity=similarity,
        am_distance=dict.fromkeys(similarity, 0.25 * (seed + 1)),
        maps={},
        cams={},
        curve=[],
    )


def _report(*networks: ModelResult, labels: np.ndarray = LABELS, classes: int = 10) -> ReportData:
    return ReportData(
        workdir=Path("run"),
        data="fake",
        class_names=tuple(map(str, range(classes))),
        labels=labels,
        samples=np.zeros(0, int),
        by_disagreement=False,
        images=np.zeros((0, 1, 1, 3), np.uint8),
        networks=networks,
        notes=(),
        config={},
    )


def _noisy(seed):
    noise = np.random.default_rng(seed).normal(size=REFERENCE["logits"].shape)
    return (REFERENCE["logits"] + 2.0 * noise).astype(np.float32)


def test_summarize_gives_reference_values():
    (row,) = summarize(_report(_result("kd", REFERENCE["logits"])))
    names = ("top1", "top5", "nll", "homogeneity", "completeness", "v_measure")
    for ours, theirs in [*((name, name) for name in names), ("ece", "ece15")]:
        np.testing.assert_allclose(row.scores[ours].mean, REFERENCE[theirs], rtol=1e-5)
        assert row.scores[ours].std is None
        assert len(row.scores[ours].values) == 1
    assert (row.parameters, row.flops, row.images_per_s, row.seeds) == (10, 2.0, 3.0, (0,))


def test_summarize_gives_the_results_of_the_run(trained):
    results = json.loads((trained / "results.json").read_text())
    teacher, kd = summarize(evaluate_workdir(trained))
    for row, of_run in ((teacher, results["teacher"]), (kd, results["methods"]["kd"])):
        assert row.parameters == of_run["parameters"]
        final = of_run["final"]
        for ours, theirs in (
            ("top1", "accuracy"),
            ("top5", "top5"),
            ("nll", "nll"),
            ("ece", "ece"),
        ):
            np.testing.assert_allclose(row.scores[ours].mean, final[theirs], rtol=1e-5, atol=1e-6)


def test_best_accuracy_is_that_of_the_evaluations_on_the_test_split():
    def scores(*lines):
        curve = [{"split": split, "accuracy": accuracy} for split, accuracy in lines]
        return summarize(_report(dataclasses.replace(_result("kd", _noisy(0)), curve=curve)))[
            0
        ].scores

    evaluations = (("train", 0.9), ("test", 0.5), ("test", 0.75), ("test", 0.25))
    assert scores(*evaluations)["best"].mean == 0.75
    assert "best" not in scores(*evaluations[:1])
    assert "best" not in scores(("validation", 0.8), ("test", 0.5))  # the test split is seen once


def test_temperature_scaling_is_evaluated_on_the_held_out_half():
    logits = 3.0 * REFERENCE["logits"]
    scaling = temperature_scaling(logits, LABELS)
    assert scaling == temperature_scaling(logits, LABELS)
    assert scaling.temperature > 1.0
    assert scaling.nll_after < scaling.nll_before
    (row,) = summarize(_report(_result("kd", logits)))
    for name, value in scaling._asdict().items():
        assert row.scores[name].mean == value
    # The definition of the halves and of the likelihood.
    held_out = np.sort(np.random.default_rng(0).permutation(len(LABELS))[len(LABELS) // 2 :])
    for temperature, nll in (
        (1.0, scaling.nll_before),
        (scaling.temperature, scaling.nll_after),
    ):
        scores = special.log_softmax(logits[held_out] / temperature, axis=1)
        np.testing.assert_allclose(
            nll, -scores[np.arange(len(held_out)), LABELS[held_out]].mean(), rtol=1e-5
        )


def test_summarize_averages_over_seeds_and_tests_them():
    networks = [
        _result(method, _noisy(10 * i + seed), seed)
        for i, method in enumerate(("kd", "at"))
        for seed in (0, 1, 2)
    ]
    kd, at = summarize(_report(_result("teacher", _noisy(99)), *networks))[1:]
    accuracy = [(n.logits.argmax(1) == LABELS).mean() for n in networks]
    np.testing.assert_allclose(at.scores["top1"].values, accuracy[3:], rtol=1e-6)
    np.testing.assert_allclose(at.scores["top1"].mean, np.mean(accuracy[3:]), rtol=1e-6)
    np.testing.assert_allclose(at.scores["top1"].std, np.std(accuracy[3:], ddof=1), rtol=1e-5)
    np.testing.assert_allclose(at.similarity["stage1"].values, [0.75, 0.65, 0.55])
    np.testing.assert_allclose(at.am_distance["stage1"].mean, 0.5)
    np.testing.assert_allclose(at.angles["stage1"].mean, 31.0)
    # Both have three seeds, so the test is over the seeds, not over the examples.
    expected = stats.ttest_rel(accuracy[3:], accuracy[:3]).pvalue
    np.testing.assert_allclose(at.t_test.p_value, expected, rtol=1e-4)
    assert (at.t_test.baseline, at.t_test.seeds) == ("kd", 3)
    assert at.mcnemar is kd.t_test is kd.mcnemar is None


def test_summarize_tests_a_single_seed_over_the_examples():
    teacher, at, kd = (_result(name, _noisy(i)) for i, name in enumerate(("teacher", "at", "kd")))
    rows = summarize(_report(teacher, at, kd))
    assert [row.method for row in rows] == ["teacher", "at", "kd"]
    assert [row.mcnemar is None for row in rows] == [True, False, True]
    assert all(row.t_test is None for row in rows)
    test = rows[1].mcnemar
    correct, other = (network.logits.argmax(1) == LABELS for network in (at, kd))
    assert (test.baseline, test.seed) == ("kd", 0)
    assert test.gained - test.lost == correct.sum() - other.sum()
    assert test.gained + test.lost == (correct != other).sum() > 0


def test_summarize_adjusts_p_for_all_tests():
    runs = [("kd", 0), ("kd", 1), ("at", 0), ("at", 1), ("sp", 0)]
    report = _report(*(_result(method, _noisy(i), seed) for i, (method, seed) in enumerate(runs)))
    _, at, sp = summarize(report)
    p_values = sorted([at.t_test.p_value, sp.mcnemar.p_value])
    adjusted = [min(1, 2 * p_values[0]), max(min(1, 2 * p_values[0]), p_values[1])]
    np.testing.assert_allclose(sorted([at.t_test.adjusted_p, sp.mcnemar.adjusted_p]), adjusted)


def test_summarize_leaves_students_that_are_not_compared_out_of_the_tests():
    networks = [_result(method, _noisy(seed), seed) for method in ("kd", "at") for seed in (1, 2)]
    report = _report(*networks)
    assert summarize(report)[1].t_test.seeds == 2
    (_, one) = summarize(dataclasses.replace(report, not_compared={"at": (1,)}))
    assert one.t_test is None and one.mcnemar.seed == 2
    assert one.mcnemar.adjusted_p == one.mcnemar.p_value  # of the only test
    assert len(one.scores["top1"].values) == 2
    (_, none) = summarize(dataclasses.replace(report, not_compared={"at": (1, 2)}))
    assert none.t_test is None and none.mcnemar is None


def test_summarize_without_kd_takes_the_first_student_as_baseline():
    rows = summarize(
        _report(*(_result(name, _noisy(i)) for i, name in enumerate(("scratch", "amc"))))
    )
    assert rows[0].mcnemar is None
    assert rows[1].mcnemar.baseline == "scratch"


def test_mcnemar_is_the_exact_binomial_test():
    correct = np.array([True] * 9 + [False] * 2 + [True] * 5)
    other = np.array([False] * 9 + [True] * 2 + [True] * 5)
    tail = sum(math.comb(11, k) for k in range(3)) / 2**11
    gained, lost, p_value = mcnemar(correct, other)
    assert (gained, lost) == (9, 2)
    np.testing.assert_allclose(p_value, 2 * tail)
    np.testing.assert_allclose(mcnemar(other, correct), (2, 9, 2 * tail))
    assert mcnemar(correct, correct) == (0, 0, 1.0)


def test_summarize_measures_geodesic_distances_in_degrees():
    labels = np.array([0] * 3 + [1] * 3, np.int32)
    angles = np.deg2rad([0.0, 10.0, 20.0, 90.0, 90.0, 90.0])
    embedding = 5.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    network = _result("kd", np.eye(2, dtype=np.float32)[labels], embedding=embedding)
    (row,) = summarize(_report(network, labels=labels, classes=2))
    intra = (10 + 10 + 20 + 0 + 0 + 0) / 6
    np.testing.assert_allclose(row.scores["geodesic_intra"].mean, intra, atol=0.02)
    np.testing.assert_allclose(row.scores["geodesic_inter"].mean, 80.0, rtol=1e-4)


def test_class_sample_is_balanced_and_deterministic():
    labels = np.random.default_rng(0).choice(4, 5000, p=[0.7, 0.2, 0.09, 0.01])
    sample = class_sample(labels, 4)
    np.testing.assert_array_equal(sample, np.unique(sample))
    rare = (labels == 3).sum()
    np.testing.assert_array_equal(np.bincount(labels[sample]), [250, 250, 250, rare])
    np.testing.assert_array_equal(sample, class_sample(labels, 4))
    many = np.repeat(np.arange(900), 3)
    counts = np.bincount(many[class_sample(many, 900)], minlength=900)
    assert (set(counts), counts.sum()) == ({0, 2}, 1000)


def test_summarize_of_one_class_has_no_distance_between_classes():
    labels = np.zeros(6, np.int32)
    network = _result("kd", np.ones((6, 2), np.float32), embedding=np.ones((6, 3), np.float32))
    (row,) = summarize(_report(network, labels=labels, classes=2))
    assert "geodesic_inter" not in row.scores
    assert "geodesic_intra" in row.scores


def test_to_json_replaces_nan_by_null():
    networks = [_result(method, _noisy(0), seed) for method in ("kd", "at") for seed in (0, 1)]
    rows = summarize(_report(*networks))  # equal differences: the t-test is undefined
    text = json.dumps([row.to_json() for row in rows], allow_nan=False)
    at = json.loads(text)[1]
    assert at["t_test"]["p_value"] is None
    assert at["t_test"]["difference"] == 0.0
    assert at["scores"]["top1"]["values"] == list(rows[1].scores["top1"].values)
    assert at["mcnemar"] is None


def test_summarize_needs_two_examples_unless_there_are_no_networks():
    assert summarize(_report(labels=np.zeros(0, np.int32), classes=0)) == []
    network = _result("kd", np.zeros((1, 2), np.float32))
    with pytest.raises(UserError, match="into two halves"):
        summarize(_report(network, labels=np.zeros(1, np.int32), classes=2))
