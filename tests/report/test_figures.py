import dataclasses
import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from amdjax.methods import METHODS
from amdjax.report.figures import embedding, sections, style, sweeps, training
from amdjax.report.report_data import ReportData
from amdjax.report.summary import score
from tests.report.fake_report import empty_study, fake_report

TERMS = ("angular", "positive", "negative", "angular+positive+negative")
STUDIES = {
    "usual": lambda: fake_report(),
    "one_student_one_image": lambda: fake_report(("amd_gl",), with_teacher=False, shown=1),
    "teacher_alone": lambda: fake_report(()),
    "two_seeds": lambda: fake_report(seeds=(0, 1)),
    "many_classes": lambda: fake_report(classes=200, examples=400),
    "margins": lambda: fake_report(
        ("kd", *(f"amd_g-margin={m}" for m in (1.5, 1.1, 1.35))),
        (0, 1),
        swept=["losses.am.margin"],
    ),
    "terms_and_weights": lambda: fake_report(
        ("kd", *(f"amd_g-terms={terms}" for terms in TERMS), "amd_g-weight=1", "at-weight=2"),
        swept=["losses.am.weight", "losses.am.terms"],
    ),
    "all_methods": lambda: fake_report(tuple(METHODS), examples=30, shown=1),
}
WITH_TEACHER = {
    "reliability", "temperature", "tsne", "pca", "spectrum", "attention", "gradcam", "distance",
    "angles", "geodesic", "accuracy", "losses", "am_accuracy",
}  # fmt: skip


def _sections(study: ReportData):
    return sections(study, {row.method: row for row in score(study)})


def _outside(figure) -> list[str]:
    """What of a figure lies outside of its canvas, by more than a hundredth of an inch."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox(canvas.get_renderer())
    edges = {"left": -box.x0, "bottom": -box.y0, "right": box.x1 - width, "top": box.y1 - height}
    return [edge for edge, beyond in edges.items() if beyond > 0.01]


@pytest.mark.parametrize("name", STUDIES)
def test_every_figure_of_any_study_lies_on_its_canvas(name, monkeypatch):
    study = STUDIES[name]()
    if name != "usual":  # the layout is not what is looked at
        monkeypatch.setattr(embedding, "tsne", lambda x, seed: np.asarray(x)[:, :2])
    drawn = set()
    for section in _sections(study):
        assert section.pictures or section.lacking, section.key
        for picture in section.pictures:
            for width, inches in style.WIDTHS.items():
                with style.theme("light", width):
                    figure = picture.draw()
                    assert _outside(figure) == [], (picture.name, width)
                assert figure.get_figwidth() <= inches + 0.01, picture.name
            drawn.add(picture.name)
    without = (
        {"distance", "am_accuracy"} if name in ("one_student_one_image", "teacher_alone") else set()
    )
    swept = {f"sweep-am-{key.split('.')[-1]}" for key in study.sweeps}
    assert drawn == WITH_TEACHER - without | swept


def test_the_check_sees_what_lies_outside():
    with style.theme("light"):
        figure, (axes,) = style.panels(1, 3.0, 1.0, 1)
        assert _outside(figure) == []
        axes.text(0.0, 1.3, "outside", transform=axes.transAxes).set_in_layout(False)
        figure.text(0.9, 0.5, "far too long a text")
        assert _outside(figure) == ["right"]


def test_classes_are_named_once_and_without_wordnets_numbers():
    names = ("n01443537 goldfish", *map(str, range(1, 10)))
    study = dataclasses.replace(fake_report(("kd",)), class_names=names)
    pictures = {section.key: section.pictures for section in _sections(study)}
    captions = [picture.caption for picture in pictures["embedding"]]
    assert "(0: goldfish, 1: 1, " in captions[0]
    assert not any("goldfish" in caption for caption in captions[1:])
    attention = pictures["activation"][0]
    with style.theme("light"):
        written = [text.get_text() for text in attention.draw().axes[0].texts]
    assert "goldfish\nno. 0" in written


@pytest.mark.parametrize("width", style.WIDTHS)
def test_long_class_names_stay_below_their_tiles(width):
    study = dataclasses.replace(fake_report(), class_names=("automobiles of all kinds",) * 10)
    section = next(section for section in _sections(study) if section.key == "activation")
    picture = next(picture for picture in section.pictures if picture.name == "gradcam")
    with style.theme("light", width):
        figure = picture.draw()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        axes = figure.axes[0]
        boxes = [
            text.get_window_extent(canvas.get_renderer())
            for text in axes.texts
            if "automo" in text.get_text() and "no." not in text.get_text()
        ]
    assert len(boxes) == 3 * 4 * 3  # images, networks, levels
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    assert max(box.x1 for box in boxes) <= figure.bbox.x1


def test_class_names_are_not_read_as_formulas():
    study = dataclasses.replace(fake_report(), class_names=("$\\nothing$",) * 10)
    section = next(section for section in _sections(study) if section.key == "activation")
    with style.theme("light"):
        assert all(_outside(picture.draw()) == [] for picture in section.pictures)


def test_an_empty_study_says_what_it_needs():
    for section in _sections(empty_study()):
        assert section.pictures == ()
        (sentence,) = section.lacking
        assert "--workdir=runs/empty" in sentence


def test_what_is_lacking_is_said():
    study = fake_report(shown=0)
    study = dataclasses.replace(
        study, networks=tuple(dataclasses.replace(one, curve=[]) for one in study.networks)
    )
    lacking = {section.key: " ".join(section.lacking) for section in _sections(study)}
    assert "no image" in lacking["activation"]
    assert "metrics.jsonl" in lacking["training"]
    assert "config.sweep.key" in lacking["sweeps"]


def test_embeddings_that_are_all_equal_have_no_tsne():
    study = fake_report(("kd",))
    teacher, kd = study.networks
    flat = np.ones([80, 16], np.float32)

    def embedding_section(*networks):
        changed = dataclasses.replace(study, networks=networks)
        return next(section for section in _sections(changed) if section.key == "embedding")

    section = embedding_section(teacher, dataclasses.replace(kd, embedding=flat))
    (sentence,) = section.lacking
    assert sentence.startswith("No t-SNE of kd: t-SNE: all embeddings are equal")
    assert [picture.name for picture in section.pictures] == ["tsne", "pca", "spectrum"]
    with style.theme("light"):
        figures = [picture.draw() for picture in section.pictures]
        assert all(_outside(figure) == [] for figure in figures)
    assert [axes.get_title() for axes in figures[0].axes] == ["teacher"]
    section = embedding_section(dataclasses.replace(kd, embedding=flat))
    assert [picture.name for picture in section.pictures] == ["pca", "spectrum"]


def test_layouts_lie_as_the_first_one():
    (teacher,) = fake_report(()).networks
    turned = teacher.embedding @ np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0]
    other = dataclasses.replace(teacher, name="kd", embedding=turned.astype(np.float32))
    layouts, reasons = embedding.layouts((teacher, other), np.arange(80))
    assert reasons == {}
    first, second = (layouts[name] - layouts[name].mean(0) for name in ("teacher", "kd"))
    span = np.linalg.norm(first) * np.linalg.norm(second)
    # No turn or mirroring of the second brings it nearer: first^T second is symmetric, positive.
    product = first.T @ second
    np.testing.assert_allclose(product, product.T, atol=1e-4 * span)
    assert np.linalg.eigvalsh(product).min() >= -1e-4 * span


def test_the_theme_colours_paper_and_ink():
    study = fake_report()
    brightness = {}
    for name in style.THEMES:
        with style.theme(name):
            figure = training.accuracy_curves(study)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            pixels = np.asarray(canvas.buffer_rgba())[..., :3].mean(axis=-1)
            brightness[name] = np.median(pixels)
            teacher = style.looks(study)["teacher"].color
            assert teacher == style.ink() != style.paper()
    assert brightness["light"] == 255 and brightness["dark"] < 40


def test_looks_tell_methods_apart():
    study = fake_report(tuple(METHODS), examples=20)
    looks = style.looks(study)
    assert len({(look.color, look.linestyle) for look in looks.values()}) == len(METHODS) + 1
    assert len({(look.color, look.marker) for look in looks.values()}) == len(METHODS) + 1


def test_common_methods_have_one_colour_in_all_reports():
    looks = [
        style.looks(fake_report(methods, examples=20))
        for methods in (("scratch", "kd", "amd_g", "amd_gl"), ("at", "sp", "kd", "amd_gl", "rkd"))
    ]
    assert looks[0]["kd"] == looks[1]["kd"] and looks[0]["amd_gl"] == looks[1]["amd_gl"]
    for table in looks:
        assert len({look.color for look in table.values()}) == len(table)


def test_a_sample_has_each_class_as_often():
    labels = np.repeat(np.arange(200, dtype=np.int32), 50)
    study = dataclasses.replace(fake_report(), labels=labels)
    chosen, counts = np.unique(labels[embedding.sample(study)], return_counts=True)
    assert len(chosen) == style.MAX_CLASSES and chosen[0] == 0 and chosen[-1] == 199
    assert set(counts) == {30}
    few = dataclasses.replace(study, labels=np.array([3, 3, 1, 3]))
    np.testing.assert_array_equal(embedding.sample(few), [0, 1, 2, 3])


def test_a_diagram_shows_accuracy_and_confidence():
    study = fake_report(("kd",), with_teacher=False)
    logits = np.zeros([80, 10], np.float32)
    logits[:, 0] = np.log(9 * 0.7 / 0.3)  # 70 % sure of class 0, which every tenth image has
    study = dataclasses.replace(
        study, networks=(dataclasses.replace(study.networks[0], logits=logits),)
    )
    (picture, _), _ = _sections(study)[0][2:]
    with style.theme("light"):
        figure = picture.draw()
    diagram, histogram = figure.axes
    accuracy, gap = (bar for bar in diagram.patches if bar.get_width() < 50)
    assert accuracy.get_height() == pytest.approx(10.0)
    assert gap.get_y() + gap.get_height() == pytest.approx(70.0, abs=1e-3)
    assert accuracy.get_x() == gap.get_x() == pytest.approx(100 * 10 / 15)
    assert [bar.get_height() for bar in histogram.patches if bar.get_height()] == [80]
    assert diagram.get_title() == "kd\nECE (%) 60.00"


def test_a_sweep_is_drawn_in_the_order_of_its_values():
    study = STUDIES["margins"]()
    rows = {row.method: row for row in score(study)}
    assert sweeps.is_numeric(study, "losses.am.margin")
    with style.theme("light"):
        figure = sweeps.curves(study, rows, "losses.am.margin")
    line = figure.axes[0].containers[0].lines[0]
    margins = [1.1, 1.35, 1.5]
    assert line.get_xdata().tolist() == margins
    expected = [100 * rows[f"amd_g-margin={m}"].scores["top1"].mean for m in margins]
    assert line.get_ydata().tolist() == pytest.approx(expected)
    assert figure.axes[0].get_xlabel() == "m (losses.am.margin)"


def test_each_sweep_has_its_own_methods():
    study = STUDIES["terms_and_weights"]()
    rows = {row.method: row for row in score(study)}
    assert sweeps.swept(study, "losses.am.weight") == {
        "amd_g-weight=1": ("amd_g", "1"),
        "at-weight=2": ("at", "2"),
    }
    assert not sweeps.is_numeric(study, "losses.am.terms")
    with style.theme("light"):
        curves = sweeps.curves(study, rows, "losses.am.weight")
        bars = sweeps.bars(study, rows, "losses.am.terms")
    named = {text.get_text() for text in curves.legends[0].get_texts()}
    assert named == {"amd_g", "at", "teacher", "kd"}
    study = fake_report((*METHODS, "amd_g-weight=1"), examples=20, swept=["losses.am.weight"])
    with style.theme("light"):
        curves = sweeps.curves(study, {row.method: row for row in score(study)}, "losses.am.weight")
    assert {text.get_text() for text in curves.legends[0].get_texts()} == {"amd_g", "teacher", "kd"}
    named = [text.get_text() for text in bars.axes[0].get_yticklabels()]
    assert named == ["kd", *(f"amd_g-terms={terms}" for terms in ("A", "P", "N", "A+P+N"))]


def test_names_are_broken_and_shortened():
    assert style.wrapped("spherical_softmax", 9) == "spherical_\nsoftmax"
    assert style.wrapped("amd_gl", 9) == "amd_gl"
    assert style.short("amd_g-terms=angular+negative") == "amd_g-terms=A+N"
    assert style.short("amd_g-margin=1.5") == "amd_g-margin=1.5"


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (5, 5), (6, 3), (8, 4), (11, 4), (30, 5)])
def test_grids_are_nearly_full(count, columns):
    with style.theme("light"):
        assert style.columns(count, 2.7, 5) == columns
    with style.theme("light", "narrow"):
        assert style.columns(count, 2.7, 5) == min(count, 2)
