import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from amdjax.errors import UserError
from amdjax.methods import METHODS
from amdjax.report.page import write_report
from amdjax.report.summary import score
from amdjax.report.table import methods_in_words, table
from tests.report.browser import look
from tests.report.fake_report import empty_study, fake_report

SECTIONS = ["table", "calibration", "embedding", "activation", "angles", "training", "sweeps"]
FIGURES = 13


@dataclasses.dataclass(frozen=True)
class Report:
    study: object
    rows: list
    folder: object

    @property
    def page(self):
        return (self.folder / "index.html").read_text()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    study = fake_report(("kd", "amd_gl"), seeds=(0, 1), examples=40)
    study = dataclasses.replace(study, missing=("a < b & <script>c</script>",))
    folder = tmp_path_factory.mktemp("report") / "made" / "report"
    rows = score(study)
    assert write_report(study, rows, folder) == folder / "index.html"
    return Report(study, rows, folder)


class _Cells(HTMLParser):
    """The table's lines, and which of its cells are bold."""

    def __init__(self):
        super().__init__()
        self.lines, self.bold, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_endtag(self, tag):
        if tag in self.open:
            del self.open[self.open.index(tag) :]

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.lines[-1][-1] += data.strip()
            if "strong" in self.open:
                self.bold.append((self.lines[-1][0], len(self.lines[-1]) - 1))


def test_the_page_has_the_numbers_of_score(report):
    cells = _Cells()
    cells.feed(report.page[report.page.index("<table>") : report.page.index("</table>")])
    headings, *lines = cells.lines
    assert [line[0] for line in lines] == [row.method for row in report.rows]
    shown = {"top-1\n(%)": ("top1", 100), "NLL\n(nats)": ("nll", 1), "V-measure": ("v_measure", 1)}
    for row, line in zip(report.rows, lines, strict=True):
        for heading, (name, factor) in shown.items():
            mean, *std = map(float, line[headings.index(heading)].split("±"))
            assert mean == pytest.approx(factor * row.scores[name].mean, abs=0.0051)
            if row.is_teacher:
                assert std == []
            else:
                assert std == [pytest.approx(factor * row.scores[name].std, abs=0.0051)]
    for heading, (name, _) in shown.items():
        students = {row.method: row.scores[name].mean for row in report.rows if not row.is_teacher}
        best = (min if name == "nll" else max)(students.values())
        bold = {method for method, at in cells.bold if at == headings.index(heading)}
        assert bold == {method for method, mean in students.items() if mean == best}


def test_tests_and_notes_of_the_table(report):
    def compared(study):
        shown = table({row.method: row for row in score(study)}, len(study.labels))
        at = shown.headings.index("p")
        return {line[0].text: line[at - 1 : at + 1] for line in shown.lines}, " ".join(shown.notes)

    cells, notes = compared(report.study)
    assert [cell.text for cell in cells["teacher"] + cells["kd"]] == ["–"] * 4
    (test,) = (row.t_test for row in report.rows if row.method == "amd_gl")
    difference, p_value = (cell.text for cell in cells["amd_gl"])
    assert float(difference) == pytest.approx(100 * test.difference, abs=0.005)
    assert p_value == f"{test.p_value:.3f} (t)"
    assert "t-test" in notes and "McNemar" not in notes and "several seeds" in notes

    study = fake_report(examples=40)
    cells, notes = compared(study)
    (test,) = (row.mcnemar for row in score(study) if row.method == "amd_gl")
    difference, p_value = (cell.text for cell in cells["amd_gl"])
    assert float(difference) == pytest.approx(100 * (test.gained - test.lost) / 40)
    assert p_value == f"{test.p_value:.3f} (M)"
    assert "McNemar" in notes and "t-test" not in notes and "several seeds" not in notes


def test_every_method_is_explained():
    study = fake_report(
        ("kd", "amd_gl+sp", "amd_g-weight=1e-05"), examples=20, swept=["losses.am.weight"]
    )
    words = methods_in_words(study)
    assert list(words) == ["teacher", "kd", "amd_gl+sp", "amd_g"]
    assert words["amd_gl+sp"] == f"{METHODS['amd_gl'].summary}; and {METHODS['sp'].summary}"
    assert words["amd_g"] == METHODS["amd_g"].summary


def test_a_single_student_is_not_the_best(report):
    study = fake_report(("kd",), examples=40)
    shown = table({row.method: row for row in score(study)}, 40)
    assert "p" not in shown.headings
    assert not any(cell.best for line in shown.lines for cell in line)
    assert "Bold" not in " ".join(shown.notes)


def test_the_json_has_the_numbers_of_score(report):
    content = json.loads((report.folder / "report.json").read_text())
    assert content["methods"] == json.loads(json.dumps([row.to_json() for row in report.rows]))
    assert content["missing"] == list(report.study.missing)
    assert content["config"] == report.study.config
    assert (content["data"], content["test_images"]) == ("made-up", 40)


def test_the_figures_are_files_too(report):
    files = {file.stem for file in report.folder.glob("*.png")}
    assert len(files) == FIGURES
    for file in report.folder.glob("*.png"):
        with Image.open(file) as image:
            assert image.getpixel((0, 0)) == (255, 255, 255)
            assert image.width <= 1600
    assert len(re.findall("<figure>", report.page)) == FIGURES
    headings = re.findall(r'<h3 id="(.+?)">', report.page)
    assert sorted(headings) == sorted(files)


def test_the_page_stands_alone(report):
    assert set(re.findall(r'(?:src|srcset|href)="([^"]{5})', report.page)) <= {
        "data:",
        *(f"#{section}"[:5] for section in SECTIONS),
    }
    assert "<script" not in report.page and "url(" not in report.page
    assert "a &lt; b &amp; &lt;script&gt;" in report.page
    assert len(report.page) < 5e6


def test_another_report_takes_the_place_of_the_first(tmp_path):
    (tmp_path / "sweep.png").write_bytes(b"of a run with a sweep")
    write_report(empty_study(), [], tmp_path)
    assert [file.name for file in tmp_path.glob("*.png")] == []
    page = (tmp_path / "index.html").read_text()
    assert "no checkpoint of any network" in page
    assert "<table>" not in page and "<img" not in page
    assert "<code>python -m amdjax.main --workdir=runs/empty</code>" in page
    assert json.loads((tmp_path / "report.json").read_text())["methods"] == []


def test_a_report_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "report").write_text("a file of that name")
    with pytest.raises(UserError, match=r"the report cannot be written: .*report"):
        write_report(empty_study(), [], tmp_path / "report")


@pytest.mark.parametrize(
    ("width", "dark"), [(400, False), (400, True), (1400, False), (1400, True)]
)
def test_a_browser_shows_the_page(report, width, dark):
    seen = look(report.folder / "index.html", width, dark)
    assert seen.console == []
    assert seen.overflow == 0
    assert len(seen.images) == FIGURES and all(seen.images)
    assert seen.sections == SECTIONS
    assert seen.broken_links == []
    assert seen.paper == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")
    assert seen.scrolled == (["table"] if width < 1400 else [])
    kinds = {
        (400, False): r'\(max-width: 640px\)" srcset="(.+?)"',
        (400, True): r'\(max-width: 640px\) and \(.+?\)" srcset="(.+?)"',
        (1400, False): r'<img src="(.+?)"',
        (1400, True): r'"\(prefers-color-scheme: dark\)" srcset="(.+?)"',
    }
    assert seen.sources == re.findall(kinds[width, dark], report.page)


def test_a_browser_sees_what_is_wrong(tmp_path):
    page = tmp_path / "index.html"
    page.write_text(
        '<!doctype html><body><a href="#nowhere">x</a><img src="data:image/png;base64,AAAA">'
        '<section id="a" style="width:500px">x</section><script>missing()</script>'
    )
    seen = look(page, 400)
    assert len(seen.console) == 1 and "missing is not defined" in seen.console[0]
    assert seen.overflow > 90
    assert seen.images == [0]
    assert seen.broken_links == ["#nowhere"]
