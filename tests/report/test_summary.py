"""The report's numbers, against values computed elsewhere and by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

from amdjax.errors import UserError
from amdjax.report.evaluate import collect
from amdjax.report.report_data import Network, ReportData
from amdjax.report.summary import class_sample, mcnemar, score, temperature_scaling
from tests.reference_values import load
from tests.trained_run import trained

REFERENCE = load("metrics")
LABELS = REFERENCE["label"].astype(np.int32)


def _network(method, logits, seed=0, embedding=None):
    teacher = method == "teacher"
    layers = {} if teacher else {"stage1": np.linspace(0.5, 1.0, len(logits)) - 0.1 * seed}
    return Network(
        name=f"{method}-seed{seed}",
        method=method,
        seed=seed,
        model="wrn_16_1",
        swept="",
        step=1,
        parameters=10,
        flops=2.0,
        images_per_s=3.0,
        logits=logits,
        embedding=logits if embedding is None else embedding,
        angles={"stage1": np.full(len(logits), 30.0 + seed)},
        similarity=layers,
        am_distance=dict.fromkeys(layers, 0.25 * (seed + 1)),
        maps={},
        cams={},
        curve=[],
    )


def _study(*networks, labels=LABELS, classes=10):
    return ReportData(
        workdir=Path("run"),
        data="made-up",
        class_names=tuple(map(str, range(classes))),
        labels=labels,
        shown=np.zeros(0, int),
        disputed=False,
        images=np.zeros((0, 1, 1, 3), np.uint8),
        networks=networks,
        missing=(),
        config={},
    )


def _noisy(seed):
    noise = np.random.default_rng(seed).normal(size=REFERENCE["logits"].shape)
    return (REFERENCE["logits"] + 2.0 * noise).astype(np.float32)


def test_reference_values():
    (row,) = score(_study(_network("kd", REFERENCE["logits"])))
    names = ("top1", "top5", "nll", "homogeneity", "completeness", "v_measure")
    for ours, theirs in [*((name, name) for name in names), ("ece", "ece15")]:
        np.testing.assert_allclose(row.scores[ours].mean, REFERENCE[theirs], rtol=1e-5)
        assert row.scores[ours].std is None
        assert len(row.scores[ours].values) == 1
    assert (row.parameters, row.flops, row.images_per_s, row.seeds) == (10, 2.0, 3.0, (0,))


def test_the_run_said_the_same(images):
    workdir = trained(images)
    results = json.loads((workdir / "results.json").read_text())
    teacher, kd = score(collect(workdir))
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


def test_temperature_scaling_is_judged_on_the_other_half():
    logits = 3.0 * REFERENCE["logits"]
    scaling = temperature_scaling(logits, LABELS)
    assert scaling == temperature_scaling(logits, LABELS)
    assert scaling.temperature > 1.0
    assert scaling.nll_after < scaling.nll_before
    (row,) = score(_study(_network("kd", logits)))
    for name, value in scaling._asdict().items():
        assert row.scores[name].mean == value
    # The halves as they must be, and the likelihood by its definition.
    held_out = np.sort(np.random.default_rng(0).permutation(len(LABELS))[len(LABELS) // 2 :])
    for temperature, nll in (
        (1.0, scaling.nll_before),
        (scaling.temperature, scaling.nll_after),
    ):
        scores = special.log_softmax(logits[held_out] / temperature, axis=1)
        np.testing.assert_allclose(
            nll, -scores[np.arange(len(held_out)), LABELS[held_out]].mean(), rtol=1e-5
        )


def test_methods_over_seeds():
    networks = [
        _network(method, _noisy(10 * i + seed), seed)
        for i, method in enumerate(("kd", "at"))
        for seed in (0, 1, 2)
    ]
    kd, at = score(_study(_network("teacher", _noisy(99)), *networks))[1:]
    accuracy = [(n.logits.argmax(1) == LABELS).mean() for n in networks]
    np.testing.assert_allclose(at.scores["top1"].values, accuracy[3:], rtol=1e-6)
    np.testing.assert_allclose(at.scores["top1"].mean, np.mean(accuracy[3:]), rtol=1e-6)
    np.testing.assert_allclose(at.scores["top1"].std, np.std(accuracy[3:], ddof=1), rtol=1e-5)
    np.testing.assert_allclose(at.similarity["stage1"].values, [0.75, 0.65, 0.55])
    np.testing.assert_allclose(at.am_distance["stage1"].mean, 0.5)
    np.testing.assert_allclose(at.angles["stage1"].mean, 31.0)
    # Both have three seeds: the test is over these, and not over the examples.
    expected = stats.ttest_rel(accuracy[3:], accuracy[:3]).pvalue
    np.testing.assert_allclose(at.t_test.p_value, expected, rtol=1e-4)
    assert (at.t_test.baseline, at.t_test.seeds) == ("kd", 3)
    assert at.mcnemar is kd.t_test is kd.mcnemar is None


def test_one_seed_is_tested_over_the_examples():
    teacher, at, kd = (_network(name, _noisy(i)) for i, name in enumerate(("teacher", "at", "kd")))
    rows = score(_study(teacher, at, kd))
    assert [row.method for row in rows] == ["teacher", "at", "kd"]
    assert [row.mcnemar is None for row in rows] == [True, False, True]
    assert all(row.t_test is None for row in rows)
    test = rows[1].mcnemar
    right, other = (network.logits.argmax(1) == LABELS for network in (at, kd))
    assert (test.baseline, test.seed) == ("kd", 0)
    assert test.gained - test.lost == right.sum() - other.sum()
    assert test.gained + test.lost == (right != other).sum() > 0


def test_without_kd_the_first_student_is_the_baseline():
    rows = score(_study(*(_network(name, _noisy(i)) for i, name in enumerate(("scratch", "amc")))))
    assert rows[0].mcnemar is None
    assert rows[1].mcnemar.baseline == "scratch"


def test_mcnemar():
    right = np.array([True] * 9 + [False] * 2 + [True] * 5)
    other = np.array([False] * 9 + [True] * 2 + [True] * 5)
    tail = sum(math.comb(11, k) for k in range(3)) / 2**11
    gained, lost, p_value = mcnemar(right, other)
    assert (gained, lost) == (9, 2)
    np.testing.assert_allclose(p_value, 2 * tail)
    np.testing.assert_allclose(mcnemar(other, right), (2, 9, 2 * tail))
    assert mcnemar(right, right) == (0, 0, 1.0)


def test_geodesic_distances_are_of_a_balanced_sample():
    labels = np.array([0] * 3 + [1] * 3, np.int32)
    angles = np.deg2rad([0.0, 10.0, 20.0, 90.0, 90.0, 90.0])
    embedding = 5.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    network = _network("kd", np.eye(2, dtype=np.float32)[labels], embedding=embedding)
    (row,) = score(_study(network, labels=labels, classes=2))
    intra = (10 + 10 + 20 + 0 + 0 + 0) / 6
    np.testing.assert_allclose(row.scores["geodesic_intra"].mean, intra, atol=0.02)
    np.testing.assert_allclose(row.scores["geodesic_inter"].mean, 80.0, rtol=1e-4)


def test_class_sample():
    labels = np.random.default_rng(0).choice(4, 5000, p=[0.7, 0.2, 0.09, 0.01])
    sample = class_sample(labels, 4)
    np.testing.assert_array_equal(sample, np.unique(sample))
    rare = (labels == 3).sum()
    np.testing.assert_array_equal(np.bincount(labels[sample]), [250, 250, 250, rare])
    np.testing.assert_array_equal(sample, class_sample(labels, 4))
    many = np.repeat(np.arange(900), 3)
    np.testing.assert_array_equal(np.bincount(many[class_sample(many, 900)]), 2)


def test_one_class_has_no_distance_to_others():
    labels = np.zeros(6, np.int32)
    network = _network("kd", np.ones((6, 2), np.float32), embedding=np.ones((6, 3), np.float32))
    (row,) = score(_study(network, labels=labels, classes=2))
    assert "geodesic_inter" not in row.scores
    assert "geodesic_intra" in row.scores


def test_json_has_no_nan():
    networks = [_network(method, _noisy(0), seed) for method in ("kd", "at") for seed in (0, 1)]
    rows = score(_study(*networks))  # equal differences: the t-test is not defined
    text = json.dumps([row.to_json() for row in rows], allow_nan=False)
    at = json.loads(text)[1]
    assert at["t_test"]["p_value"] is None
    assert at["t_test"]["difference"] == 0.0
    assert at["scores"]["top1"]["values"] == list(rows[1].scores["top1"].values)
    assert at["mcnemar"] is None


def test_little_and_nothing():
    assert score(_study(labels=np.zeros(0, np.int32), classes=0)) == []
    network = _network("kd", np.zeros((1, 2), np.float32))
    with pytest.raises(UserError, match="cannot be divided into two halves"):
        score(_study(network, labels=np.zeros(1, np.int32), classes=2))
