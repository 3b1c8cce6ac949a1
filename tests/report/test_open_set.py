"""Open-set evaluation of a small run, compared with direct computations, and its table."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from amdjax.data import load_dataset
from amdjax.errors import UserError
from amdjax.report.evaluate import evaluate_workdir
from amdjax.report.open_set import OPEN_SET_SCORES, measure
from amdjax.report.page import to_json
from amdjax.report.report_data import ReportData
from amdjax.report.summary import summarize
from amdjax.report.table import create_table
from amdjax.trained import restore
from amdjax.workdir import read_config
from tests.make_data import encode, random_images
from tests.report.fake_report import fake_report
from tests.trained_run import change, copy

KEYS = {f"{score}_{key}" for score in OPEN_SET_SCORES for key in ("auroc", "fpr95")}


def _with_open_set(report: ReportData) -> ReportData:
    """Adds open-set results that become better from network to network."""
    networks = tuple(
        dataclasses.replace(
            network,
            open_set={key: (rank + 1) / 10 if "auroc" in key else 1 - rank / 10 for key in KEYS},
        )
        for rank, network in enumerate(report.networks)
    )
    return dataclasses.replace(report, networks=networks, unknown="7 images of mnist")


def test_evaluate_workdir_compares_test_images_with_unknown_images(trained: Path, tmp_path: Path):
    noise = random_images(11, 16, 16, 3)  # a full batch and a part of one
    for row, image in enumerate(noise):
        (tmp_path / f"{row:02}.png").write_bytes(encode(image))
    report = evaluate_workdir(trained, unknown=str(tmp_path))
    assert report.unknown == f"11 images of {tmp_path}"
    data = load_dataset(read_config(trained).data)
    train, labels = data.train.read(np.arange(len(data.train)))
    test, _ = data.test.read(np.arange(len(data.test)))
    for network in report.networks:
        restored = restore(trained / network.name)
        of_train, of_test, of_noise = (
            restored.predictor(restored.variables, images) for images in (train, test, noise)
        )
        means = [np.mean(of_train.embedding[labels == label], axis=0) for label in range(4)]
        scores = {
            "msp": lambda x: np.max(np.exp(x.logits) / np.exp(x.logits).sum(1)[:, None], axis=1),
            "energy": lambda x: np.log(np.exp(x.logits).sum(1)),
            "angle": lambda x, means=means: cosine_similarity(x.embedding, means).max(1),
        }
        assert network.open_set.keys() == KEYS
        for name, score in scores.items():
            known, unknown = score(of_test), score(of_noise)
            expected = roc_auc_score([1] * 32 + [0] * 11, np.r_[known, unknown])
            # Rounding may exchange neighbours in the order: one pair of 352.
            assert network.open_set[f"{name}_auroc"] == pytest.approx(expected, abs=1.5 / 352)
            fpr = np.mean(unknown >= np.sort(known)[32 - 31])
            assert network.open_set[f"{name}_fpr95"] == pytest.approx(fpr, abs=1.5 / 11)


def test_evaluate_workdir_takes_the_unknown_images_of_the_config(trained: Path, tmp_path: Path):
    with pytest.raises(UserError, match="nowhere"):
        evaluate_workdir(trained, unknown="nowhere")
    changed = copy(trained, tmp_path / "run")
    data = read_config(changed).data.to_dict()
    change(changed / "config.json", data={**data, "unknown": "nothing"})
    with pytest.raises(UserError, match="nothing"):
        evaluate_workdir(changed)


def test_measure_is_perfect_where_the_scores_are_separate():
    known, unknown = np.arange(5.0) + 5, np.arange(5.0)
    results = measure({"a": known, "b": unknown}, {"a": unknown, "b": known})
    assert results == {"a_auroc": 1.0, "a_fpr95": 0.0, "b_auroc": 0.0, "b_fpr95": 1.0}


def test_table_shows_the_open_set_columns():
    report = _with_open_set(fake_report(("kd", "amd_gl"), seeds=(0, 1)))
    summaries = {summary.method: summary for summary in summarize(report)}
    table = create_table(summaries, 80, report.unknown)
    columns = [heading.replace("\n", " ") for heading in table.headings]
    first = columns.index("AUROC MSP (%)")
    assert columns[first : first + 6] == [
        f"{words} {name} (%)" for name in ("MSP", "energy", "angle") for words in ("AUROC", "FPR95")
    ]
    rows = {row[0].text: row for row in table.rows}
    assert {len(row) for row in table.rows} == {len(columns)}
    assert rows["kd"][first].text.startswith("25.00 ±")
    assert [rows[name][first + 1].best for name in ("teacher", "kd", "amd_gl")] == [0, 0, 1]
    assert "against 7 images of mnist" in " ".join(table.notes)
    content = to_json(report, list(summaries.values()))
    assert content["unknown"] == "7 images of mnist"
    assert content["methods"][0]["scores"].keys() >= KEYS


def test_table_marks_a_network_without_open_set_results():
    report = _with_open_set(fake_report(("kd", "amd_gl")))
    last = dataclasses.replace(report.networks[-1], open_set={})
    report = dataclasses.replace(report, networks=(*report.networks[:-1], last))
    summaries = {summary.method: summary for summary in summarize(report)}
    table = create_table(summaries, 80, report.unknown)
    column = table.headings.index("AUROC\nMSP (%)")
    assert [row[column].text for row in table.rows] == ["10.00", "20.00", "–"]


def test_table_without_unknown_images_has_no_open_set_columns():
    summaries = {summary.method: summary for summary in summarize(fake_report(("kd",)))}
    table = create_table(summaries, 80)
    assert not any("AUROC" in text for text in (*table.headings, *table.notes))
