import base64
import csv
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amdjax.errors import UserError
from amdjax.methods import METHODS
from amdjax.report.page import write_report
from amdjax.report.report_data import ReportData
from amdjax.report.summary import MethodSummary, summarize
from amdjax.report.table import create_table, describe_methods
from tests.report.fake_report import empty_report, fake_report

SECTIONS = [
    "table", "classes", "calibration", "embedding", "activation", "angles", "training", "sweeps",
]  # fmt: skip
FIGURES = 15


@dataclasses.dataclass(frozen=True)
class WrittenReport:
    report: ReportData
    summaries: list[MethodSummary]
    folder: Path

    @property
    def page(self) -> str:
        return (self.folder / "index.html").read_text()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenReport:
    report = fake_report(("kd", "amd_gl"), seeds=(0, 1), examples=40)
    report = dataclasses.replace(report, notes=("a < b & <script>c</script>",))
    folder = tmp_path_factory.mktemp("report") / "new" / "report"
    summaries = summarize(report)
    assert write_report(report, summaries, folder) == folder / "index.html"
    return WrittenReport(report, summaries, folder)


def _summaries(report: ReportData) -> dict[str, MethodSummary]:
    return {summary.method: summary for summary in summarize(report)}


class _TableParser(HTMLParser):
    """Collects the cells of the table's rows, and (first cell of the row, column) of bold cells."""

    def __init__(self):
        super().__init__()
        self.rows, self.bold, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag in self.open:
            del self.open[self.open.index(tag) :]

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data.strip()
            if "strong" in self.open:
                self.bold.append((self.rows[-1][0], len(self.rows[-1]) - 1))


def test_page_shows_the_statistics(written):
    parser = _TableParser()
    page = written.page
    parser.feed(page[page.index("<table>") : page.index("</table>")])
    headings, *rows = parser.rows
    assert [row[0] for row in rows] == [summary.method for summary in written.summaries]
    columns = {
        "top-1\n(%)": ("top1", 100),
        "NLL\n(nats)": ("nll", 1),
        "V-measure": ("v_measure", 1),
    }
    for summary, row in zip(written.summaries, rows, strict=True):
        for heading, (name, factor) in columns.items():
            mean, *std = map(float, row[headings.index(heading)].split("±"))
            assert mean == pytest.approx(factor * summary.scores[name].mean, abs=0.0051)
            if summary.is_teacher:
                assert std == []
            else:
                assert std == [pytest.approx(factor * summary.scores[name].std, abs=0.0051)]
    for heading, (name, _) in columns.items():
        students = {
            one.method: one.scores[name].mean for one in written.summaries if not one.is_teacher
        }
        best = (min if name == "nll" else max)(students.values())
        column = headings.index(heading)
        bold = {method for method, index in parser.bold if index == column}
        assert bold == {method for method, mean in students.items() if mean == best}


def test_table_compares_methods_with_the_baseline(written):
    def compare(report):
        table = create_table(_summaries(report), len(report.labels))
        column = table.headings.index("p")
        cells = {row[0].text: row[column - 1 : column + 1] for row in table.rows}
        return cells, " ".join(table.notes)

    cells, notes = compare(written.report)
    assert [cell.text for cell in cells["teacher"] + cells["kd"]] == ["–"] * 4
    test = _summaries(written.report)["amd_gl"].t_test
    difference, p_value = (cell.text for cell in cells["amd_gl"])
    assert float(difference) == pytest.approx(100 * test.difference, abs=0.005)
    assert p_value == f"{test.p_value:.3f} (t)"
    assert "t-test" in notes and "McNemar" not in notes and "several seeds" in notes

    report = fake_report(examples=40)
    cells, notes = compare(report)
    test = _summaries(report)["amd_gl"].mcnemar
    difference, p_value = (cell.text for cell in cells["amd_gl"])
    assert float(difference) == pytest.approx(100 * (test.gained - test.lost) / 40)
    assert p_value == f"{test.p_value:.3f} (M)"
    assert "McNemar" in notes and "t-test" not in notes and "several seeds" not in notes


def test_table_says_which_differences_leave_out_seeds():
    report = fake_report(("kd", "at", "afd"), seeds=(0, 1, 2), examples=40)
    kept = {"kd": (0, 1, 2), "at": (0, 1), "afd": (2,), "teacher": (0,)}
    networks = tuple(one for one in report.networks if one.seed in kept[one.method])
    report = dataclasses.replace(report, networks=networks)
    notes = " ".join(create_table(_summaries(report), 40).notes)
    assert "shares with its baseline: at (2 seeds), afd (seed 2); such a" in notes
    report = fake_report(("kd", "at"), seeds=(0, 1), examples=40)
    assert "share" not in " ".join(create_table(_summaries(report), 40).notes)


@pytest.mark.parametrize(
    ("flops", "text"), [(999_600_000, "1 G"), (999_999, "1 M"), (27_300_000, "27.3 M"), (12, "12")]
)
def test_table_rounds_operations_before_it_chooses_the_unit(flops, text):
    report = fake_report(examples=40)
    networks = tuple(dataclasses.replace(one, flops=flops) for one in report.networks)
    table = create_table(_summaries(dataclasses.replace(report, networks=networks)), 40)
    column = table.headings.index("FLOPs")
    assert {row[column].text for row in table.rows} == {text}


def test_table_files_have_the_cells_of_the_page(written):
    summaries = _summaries(written.report)
    table = create_table(summaries, len(written.report.labels))
    headings, *rows = csv.reader((written.folder / "table.csv").read_text().splitlines())
    assert headings[3] == "top-1 (%)" and "parameters" in headings and "completeness" in headings
    assert rows == [[cell.text for cell in row] for row in table.rows]
    latex = (written.folder / "table.tex").read_text()
    assert latex.startswith("\\begin{tabular}{ll") and "\\toprule" in latex
    assert latex.isascii()
    assert all(summary.model.replace("_", "\\_") in latex for summary in summaries.values())


def test_table_adjusts_the_p_values_of_several_tests(written):
    one = _summaries(written.report)
    other = dataclasses.replace(one["amd_gl"], method="at", t_test=None, mcnemar=None)
    assert "p\n(Holm)" not in create_table(one | {"at": other}, 40).headings
    test = one["amd_gl"].t_test._replace(adjusted_p=0.125)
    several = {**one, "at": dataclasses.replace(other, t_test=test)}
    table = create_table(several, 40)
    column = table.headings.index("p\n(Holm)")
    cells = {row[0].text: row[column].text for row in table.rows}
    assert cells["at"] == "0.125" and cells["kd"] == "–"
    assert all(len(row) == len(table.headings) for row in table.rows)
    assert "adjusted for the 2 tests of this table" in " ".join(table.notes)


def test_table_compares_methods_with_the_same_value_of_a_sweep():
    sweep = [
        (method, "losses.kd.temperature", value) for method in ("kd", "amd_g") for value in (1, 2)
    ]
    summaries = _summaries(fake_report(("scratch", *sweep), examples=40))
    table = create_table(summaries, 40)
    column = table.headings.index("top-1 − baseline\n(points)")
    default = "scratch"
    baselines = {
        "kd-kd.temperature=1": default,
        "kd-kd.temperature=2": default,
        "amd_g-kd.temperature=1": "kd-kd.temperature=1",
        "amd_g-kd.temperature=2": "kd-kd.temperature=2",
    }
    differences = {row[0].text: row[column].text for row in table.rows}
    assert differences.pop("teacher") == differences.pop(default) == "–"
    assert differences.keys() == baselines.keys()
    for method, baseline in baselines.items():
        top1, other = (summaries[name].scores["top1"].mean for name in (method, baseline))
        difference = float(differences[method].replace("−", "-"))
        assert difference == pytest.approx(100 * (top1 - other), abs=0.005)
    assert f"kd with the swept value of the method; {default} for the" in " ".join(table.notes)


def test_describe_methods_joins_the_summaries_of_a_combination():
    report = fake_report(("kd", "amd_gl+sp", ("amd_g", "losses.am.weight", 1e-5)), examples=20)
    descriptions = describe_methods(report)
    assert list(descriptions) == ["teacher", "kd", "amd_gl+sp", "amd_g"]
    assert descriptions["amd_gl+sp"] == (
        f"{METHODS['amd_gl'].summary}; and {METHODS['sp'].summary}"
    )
    assert descriptions["amd_g"] == METHODS["amd_g"].summary


def test_table_of_a_single_student_marks_no_best():
    table = create_table(_summaries(fake_report(("kd",), examples=40)), 40)
    assert "p" not in table.headings
    assert not any(cell.best for row in table.rows for cell in row)
    assert "Bold" not in " ".join(table.notes)


def test_report_json_has_the_statistics(written):
    content = json.loads((written.folder / "report.json").read_text())
    summaries = [summary.to_json() for summary in written.summaries]
    assert content["methods"] == json.loads(json.dumps(summaries))
    assert content["notes"] == list(written.report.notes)
    assert content["config"] == written.report.config
    assert (content["data"], content["test_images"]) == ("fake", 40)


def test_csv_files_have_the_scores_of_all_classes(written):
    def rows(name):
        with (written.folder / name).open(newline="") as file:
            return [row for row in csv.DictReader(file) if row["method"] == "kd"]

    (kd,) = (one.classes for one in written.summaries if one.method == "kd")
    accuracy = rows("classes.csv")
    assert [row["class"] for row in accuracy] == list(written.report.class_names)
    assert {row["images"] for row in accuracy} == {"4"}
    for row, values in zip(accuracy, kd.accuracy.T, strict=True):
        assert float(row["accuracy"]) == pytest.approx(values.mean(), rel=1e-5)
        assert float(row["std"]) == pytest.approx(values.std(ddof=1), rel=1e-5)
    matrix = np.zeros([10, 10])
    for row in rows("confusion.csv"):
        matrix[int(row["label"]), int(row["predicted_label"])] = row["fraction"]
        assert row["predicted_class"] == f"class {row['predicted_label']}"
    np.testing.assert_allclose(matrix, kd.confusion, rtol=1e-5)


def test_every_figure_is_a_file_and_in_the_page(written):
    files = {file.stem: file for file in written.folder.glob("*.png")}
    assert len(files) == FIGURES
    for file in files.values():
        with Image.open(file) as image:
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
            assert image.width <= 1600
    headings = re.findall(r'<h3 id="(.+?)">', written.page)
    assert sorted(headings) == sorted(files)
    embedded = re.findall(
        r'<img src="data:image/png;base64,([^"]+)" width="(\d+)" height="(\d+)"\s+alt="([^"]+)"',
        written.page,
    )
    assert [base64.b64decode(data) for data, *_ in embedded] == [
        files[name].read_bytes() for name in headings
    ]
    for (_, width, height, alt), name in zip(embedded, headings, strict=True):
        with Image.open(files[name]) as image:  # 144 pixels per inch, and 96 in the page
            assert image.size == pytest.approx((1.5 * int(width), 1.5 * int(height)), abs=2)
        assert alt.endswith(".")


def test_page_is_self_contained(written):
    page = written.page
    assert re.findall('<section id="(.+?)"', page) == SECTIONS
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    targets = {f"#{section}" for section in SECTIONS}
    assert {link for link in links if not link.startswith("data:")} == targets
    assert "<script" not in page and "url(" not in page and "srcset" not in page
    assert "a &lt; b &amp; &lt;script&gt;" in page
    assert len(page) < 5e6


def test_write_report_replaces_an_earlier_report(tmp_path):
    (tmp_path / "sweep.png").write_bytes(b"a figure of the earlier report")
    write_report(empty_report(), [], tmp_path)
    assert [file.name for file in tmp_path.glob("*.png")] == []
    page = (tmp_path / "index.html").read_text()
    assert "no network has a checkpoint" in page
    assert "<table>" not in page and "<img" not in page
    assert "<code>python -m amdjax.main --workdir=runs/empty</code>" in page
    assert json.loads((tmp_path / "report.json").read_text())["methods"] == []
    assert (tmp_path / "classes.csv").read_text().count("\n") == 1  # the heading


def test_write_report_raises_a_user_error_if_it_cannot_write(tmp_path):
    (tmp_path / "report").write_text("a file with the name of the folder")
    with pytest.raises(UserError, match=r"cannot write the report: .*report"):
        write_report(empty_report(), [], tmp_path / "report")
