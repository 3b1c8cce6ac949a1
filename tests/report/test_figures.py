import dataclasses
import itertools
import re
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from amdjax.methods import METHODS
from amdjax.report.figures import (
    FigureSpec,
    Section,
    activation,
    angles,
    calibration,
    classes,
    create_sections,
    embedding,
    style,
    sweeps,
    training,
)
from amdjax.report.outputs import compare_maps
from amdjax.report.report_data import ReportData
from amdjax.report.summary import MethodSummary, summarize
from tests.report.fake_report import LAYERS, empty_report, fake_report

TERMS = (("angular",), ("positive",), ("negative",), ("angular", "positive", "negative"))
REPORTS: dict[str, Callable[[], ReportData]] = {
    "defaults": fake_report,
    "one_student_one_sample": lambda: fake_report(("amd_gl",), with_teacher=False, samples=1),
    "teacher_alone": lambda: fake_report(()),
    "two_seeds_many_classes": lambda: fake_report(seeds=(0, 1), classes=200, examples=400),
    "many_methods": lambda: fake_report(tuple(METHODS)[:16], examples=30, samples=1),
}
SWEEPS: dict[str, Callable[[], ReportData]] = {
    "margins": lambda: fake_report(
        ("kd", *(("amd_g", "losses.am.margin", m) for m in (1.5, 1.1, 1.35))), (0, 1)
    ),
    "terms_and_weights": lambda: fake_report(
        (
            "kd",
            *(("amd_g", "losses.am.terms", terms) for terms in TERMS),
            ("amd_g", "losses.am.weight", 1.0),
            ("amd", "losses.am.weight", 2.0),
        )
    ),
}
WITH_TEACHER = {
    "reliability", "temperature", "tsne", "pca", "spectrum", "attention", "gradcam", "distance",
    "angles", "geodesic", "accuracy", "losses", "am_accuracy", "class_accuracy", "confusion",
}  # fmt: skip


def _summaries(report: ReportData) -> dict[str, MethodSummary]:
    return {summary.method: summary for summary in summarize(report)}


def _sections(report: ReportData) -> dict[str, Section]:
    return {section.key: section for section in create_sections(report, _summaries(report))}


def _figures(report: ReportData) -> dict[str, FigureSpec]:
    return {spec.name: spec for section in _sections(report).values() for spec in section.figures}


def _draw(spec: FigureSpec) -> Figure:
    with style.figure_style():
        return spec.draw()


def _edges_with_overflow(figure: Figure) -> list[str]:
    """Returns the edges of the canvas that the figure exceeds by more than 0.01 inches."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox(canvas.get_renderer())
    overflow = {"left": -box.x0, "bottom": -box.y0, "right": box.x1 - width, "top": box.y1 - height}
    return [edge for edge, inches in overflow.items() if inches > 0.01]


@pytest.fixture
def no_tsne(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the slow layout."""
    monkeypatch.setattr(embedding, "tsne", lambda x, seed: np.asarray(x)[:, :2])


def _check_figure(spec: FigureSpec) -> None:
    with style.figure_style():
        figure = spec.draw()
        assert _edges_with_overflow(figure) == [], spec.name
    assert figure.get_figwidth() <= style.PAGE_WIDTH + 0.01, spec.name
    assert spec.title and spec.caption.endswith("."), spec.name
    assert spec.alt.endswith("."), spec.name


@pytest.mark.parametrize("name", REPORTS)
def test_sections_have_all_figures_within_their_canvas(name, no_tsne):
    drawn = set()
    for section in _sections(REPORTS[name]()).values():
        assert section.figures or section.notes, section.key
        for spec in section.figures:
            _check_figure(spec)
            drawn.add(spec.name)
    compared = name not in ("one_student_one_sample", "teacher_alone")
    assert drawn == WITH_TEACHER - (set() if compared else {"distance", "am_accuracy"})


@pytest.mark.parametrize("name", SWEEPS)
def test_sweeps_have_all_figures_within_their_canvas(name, no_tsne):
    report = SWEEPS[name]()
    section = _sections(report)["sweeps"]
    for spec in section.figures:
        _check_figure(spec)
    assert [spec.name for spec in section.figures] == [
        f"sweep-am-{key.split('.')[-1]}" for key in report.sweeps
    ]


def test_edges_with_overflow_finds_a_long_text():
    with style.figure_style():
        figure, (axes,) = style.panels(1, 3.0, 1.0, 1)
        assert _edges_with_overflow(figure) == []
        axes.text(0.0, 1.3, "outside", transform=axes.transAxes).set_in_layout(False)
        figure.text(0.9, 0.5, "far too long a text")
        assert _edges_with_overflow(figure) == ["right"]


def test_class_names_have_no_wordnet_number_and_appear_in_one_caption(no_tsne):
    names = ("n01443537 goldfish", *map(str, range(1, 10)))
    report = dataclasses.replace(fake_report(("kd",)), class_names=names)
    figures = _figures(report)
    assert "(0: goldfish, 1: 1, " in figures["tsne"].caption
    assert not any("goldfish" in figures[name].caption for name in ("pca", "spectrum"))
    texts = [text.get_text() for text in _draw(figures["attention"]).axes[0].texts]
    assert "goldfish\nno. 0" in texts


def test_grad_cams_keep_long_class_names_within_their_tiles(no_tsne):
    report = dataclasses.replace(fake_report(), class_names=("automobiles of all kinds",) * 10)
    spec = _figures(report)["gradcam"]
    with style.figure_style():
        figure = spec.draw()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes = [
            text.get_window_extent(canvas.get_renderer())
            for text in figure.axes[0].texts
            if "automo" in text.get_text() and "no." not in text.get_text()
        ]
    assert len(boxes) == 3 * 4 * 3  # images, networks, levels
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    assert max(box.x1 for box in boxes) <= figure.bbox.x1


def test_class_names_are_not_parsed_as_formulas(no_tsne):
    report = dataclasses.replace(fake_report(), class_names=("$\\nothing$",) * 10)
    figures = _figures(report)
    for name in ("attention", "gradcam"):
        with style.figure_style():
            assert _edges_with_overflow(figures[name].draw()) == []


def test_sections_without_networks_show_the_training_command():
    for section in _sections(empty_report()).values():
        assert section.figures == ()
        (note,) = section.notes
        assert "--workdir=runs/empty" in note


def test_sections_note_missing_figures(no_tsne):
    report = fake_report(samples=0)
    report = dataclasses.replace(
        report, networks=tuple(dataclasses.replace(one, curve=[]) for one in report.networks)
    )
    notes = {key: " ".join(section.notes) for key, section in _sections(report).items()}
    assert "no sample images" in notes["activation"]
    assert "metrics.jsonl" in notes["training"]
    assert "config.sweep.key" in notes["sweeps"]


def test_equal_embeddings_have_no_tsne():
    report = fake_report(("kd",))
    teacher, kd = report.networks
    equal = dataclasses.replace(kd, embedding=np.ones([80, 16], np.float32))

    def embedding_section(*networks):
        return _sections(dataclasses.replace(report, networks=networks))["embedding"]

    section = embedding_section(teacher, equal)
    (note,) = section.notes
    assert note.startswith(f"No t-SNE of {kd.name}: t-SNE is undefined: all embeddings are equal")
    assert [spec.name for spec in section.figures] == ["tsne", "pca", "spectrum"]
    with style.figure_style():
        figures = [spec.draw() for spec in section.figures]
        assert all(_edges_with_overflow(figure) == [] for figure in figures)
    assert [axes.get_title() for axes in figures[0].axes] == ["teacher"]
    assert [spec.name for spec in embedding_section(equal).figures] == ["pca", "spectrum"]


def test_embeddings_of_one_dimension_have_no_components(monkeypatch):
    monkeypatch.setattr(embedding, "layouts", lambda *_: ({}, {}))
    report = fake_report(("kd",))
    teacher, kd = report.networks
    line = dataclasses.replace(kd, embedding=kd.embedding[:, :1])
    others = dataclasses.replace(report, networks=(teacher,))
    report = dataclasses.replace(report, networks=(teacher, line))
    section = _sections(report)["embedding"]
    assert f"No principal components of {kd.name}: cannot compute 2" in " ".join(section.notes)
    figures = {spec.name: _draw(spec) for spec in section.figures}
    assert [axes.get_title() for axes in figures["pca"].axes] == ["teacher"]
    (axes,) = figures["spectrum"].axes
    (expected,) = _draw(_figures(others)["spectrum"]).axes
    assert [x.get_ydata().tolist() for x in axes.lines] == [
        x.get_ydata().tolist() for x in expected.lines
    ]
    alone = _sections(dataclasses.replace(report, networks=(line,)))["embedding"]
    assert {spec.name for spec in alone.figures}.isdisjoint({"pca", "spectrum"})


def test_layouts_are_aligned_with_the_first():
    (teacher,) = fake_report(()).networks
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0]
    rotated = (teacher.embedding @ rotation).astype(np.float32)
    other = dataclasses.replace(teacher, name="other", embedding=rotated)
    layouts, errors = embedding.layouts((teacher, other), np.arange(80))
    assert errors == {}
    first, second = (layouts[one.name] - layouts[one.name].mean(0) for one in (teacher, other))
    scale = np.linalg.norm(first) * np.linalg.norm(second)
    # No orthogonal map brings the second closer: first^T second is symmetric and positive.
    product = first.T @ second
    np.testing.assert_allclose(product, product.T, atol=1e-4 * scale)
    assert np.linalg.eigvalsh(product).min() >= -1e-4 * scale


def test_method_styles_are_distinct():
    methods = tuple(METHODS)
    styles = style.method_styles(fake_report(methods, examples=20))
    assert len({(one.color, one.linestyle) for one in styles.values()}) == len(methods) + 1
    assert len({(one.color, one.marker) for one in styles.values()}) == len(methods) + 1
    assert styles["teacher"].color == style.INK


def test_method_styles_of_common_methods_are_the_same_in_all_reports():
    first, second = (
        style.method_styles(fake_report(methods, examples=20))
        for methods in (("scratch", "kd", "amd_g", "amd_gl"), ("at", "sp", "kd", "amd_gl", "rkd"))
    )
    assert first["kd"] == second["kd"] and first["amd_gl"] == second["amd_gl"]
    for styles in (first, second):
        assert len({one.color for one in styles.values()}) == len(styles)


def test_choose_examples_balances_the_classes():
    labels = np.repeat(np.arange(200, dtype=np.int32), 50)
    report = dataclasses.replace(fake_report(), labels=labels)
    chosen, counts = np.unique(labels[embedding.choose_examples(report)], return_counts=True)
    assert len(chosen) == style.MAX_CLASSES and chosen[0] == 0 and chosen[-1] == 199
    assert set(counts) == {30}
    few = dataclasses.replace(report, labels=np.array([3, 3, 1, 3]))
    np.testing.assert_array_equal(embedding.choose_examples(few), [0, 1, 2, 3])


def test_reliability_diagram_shows_accuracy_and_gap(no_tsne):
    report = fake_report(("kd",), with_teacher=False)
    logits = np.zeros([80, 10], np.float32)
    logits[:, 0] = np.log(9 * 0.7 / 0.3)  # confidence 70 % in class 0, of every tenth image
    network = dataclasses.replace(report.networks[0], logits=logits)
    report = dataclasses.replace(report, networks=(network,))
    diagram, histogram = _draw(_figures(report)["reliability"]).axes
    accuracy, gap = (bar for bar in diagram.patches if bar.get_width() < 50)
    assert accuracy.get_height() == pytest.approx(10.0)
    assert gap.get_y() + gap.get_height() == pytest.approx(70.0, abs=1e-3)
    assert accuracy.get_x() == gap.get_x() == pytest.approx(100 * 10 / 15)
    assert [bar.get_height() for bar in histogram.patches if bar.get_height()] == [80]
    assert diagram.get_title() == "kd\nECE (%) 60.00"


def _with_predictions(report: ReportData, *predictions: np.ndarray) -> ReportData:
    """Returns the report with other predictions of its networks."""
    eye = np.eye(len(report.class_names), dtype=np.float32)
    networks = zip(report.networks, predictions, strict=True)
    replaced = tuple(dataclasses.replace(one, logits=eye[of_one]) for one, of_one in networks)
    return dataclasses.replace(report, networks=replaced)


def _texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.fixture(scope="module")
def two_seeds() -> tuple[ReportData, dict[str, MethodSummary]]:
    report = fake_report(("kd", "amd_g"), (0, 1))
    return report, _summaries(report)


def _curves(report: ReportData, method: str, split: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps [T] of a method, and the values of its seeds [S,T]."""
    curves = [
        [line for line in one.curve if line["split"] == split] for one in report.by_label[method]
    ]
    values = [[line[key] for line in curve] for curve in curves]
    return np.array([line["step"] for line in curves[0]]), np.array(values)


def test_accuracy_curves_show_mean_and_standard_deviation_over_the_seeds(two_seeds):
    report, _ = two_seeds
    with style.figure_style():
        (axes,) = training.accuracy_curves(report).axes
    assert [line.get_label() for line in axes.lines] == ["teacher", "kd", "amd_g"]
    for line in axes.lines:
        steps, values = _curves(report, line.get_label(), "test", "accuracy")
        np.testing.assert_array_equal(line.get_xdata(), steps)
        np.testing.assert_allclose(line.get_ydata(), 100 * values.mean(0))
    band, _ = axes.collections  # of kd and amd_g: the teacher has a single seed
    steps, values = _curves(report, "kd", "test", "accuracy")
    (path,) = band.get_paths()
    for step, accuracy in zip(steps, 100 * values.T, strict=True):
        heights = path.vertices[path.vertices[:, 0] == step, 1]
        mean, std = accuracy.mean(), accuracy.std(ddof=1)
        np.testing.assert_allclose([heights.min(), heights.max()], [mean - std, mean + std])


def test_accuracy_curves_and_their_text_leave_out_methods_of_another_split(two_seeds, no_tsne):
    report, _ = two_seeds
    renamed = {"train": "train", "test": "validation"}
    networks = tuple(
        dataclasses.replace(
            one, curve=[{**line, "split": renamed[line["split"]]} for line in one.curve]
        )
        if one.method == "amd_g"
        else one
        for one in report.networks
    )
    section = _sections(dataclasses.replace(report, networks=networks))["training"]
    (spec,) = (spec for spec in section.figures if spec.name == "accuracy")
    assert spec.alt == "Validation accuracy over the training steps of amd_g."
    assert [line.get_label() for line in _draw(spec).axes[0].lines] == ["amd_g"]
    assert section.notes == (
        "No accuracy curve of teacher, kd: there is no step at which all seeds were evaluated on "
        "the validation split.",
    )


def test_loss_curves_show_each_term(two_seeds):
    report, _ = two_seeds
    with style.figure_style():
        panels = training.loss_curves(report).axes
    keys = {"total loss": "loss", "ce loss": "ce", "kd loss": "kd", "am loss": "am"}
    assert {axes.get_title() for axes in panels} == keys.keys()
    for axes in panels:
        key = keys[axes.get_title()]
        methods = {"kd": ["kd", "amd_g"], "am": ["amd_g"]}.get(key, ["teacher", "kd", "amd_g"])
        assert [line.get_label() for line in axes.lines] == methods
        for line in axes.lines:
            _, values = _curves(report, line.get_label(), "train", key)
            np.testing.assert_allclose(line.get_ydata(), values.mean(0))


def test_am_against_accuracy_has_a_marker_for_each_run(two_seeds):
    report, summaries = two_seeds
    with style.figure_style():
        (axes,) = training.am_against_accuracy(report, summaries).axes
    for line, method in zip(axes.lines, ("kd", "amd_g"), strict=True):
        for *point, one in zip(*line.get_data(), report.by_label[method], strict=True):
            accuracy = (one.logits.argmax(1) == report.labels).mean()
            am_loss = np.mean(list(one.am_distance.values()))
            np.testing.assert_allclose(point, [am_loss, 100 * accuracy], rtol=1e-6)


def test_distance_bars_are_means_over_the_seeds(two_seeds):
    report, summaries = two_seeds
    with style.figure_style():
        panels = activation.distances(report, summaries).axes
    assert [axes.get_xlabel() for axes in panels[:3]] == ["mean cosine"] * 3
    for axes, layer in zip(panels, (*LAYERS, *LAYERS), strict=True):
        assert axes.get_title() == style.level_title(layer)
        power = re.fullmatch(r"AM loss / \$10\^\{(-\d+)\}\$", axes.get_xlabel())
        for row, (bar, method) in enumerate(zip(axes.patches, ("kd", "amd_g"), strict=True)):
            values = [
                one.am_distance[layer] / 10.0 ** int(power[1])
                if power
                else one.similarity[layer].mean()
                for one in report.by_label[method]
            ]
            assert bar.get_y() + bar.get_height() / 2 == pytest.approx(row)
            assert bar.get_width() == pytest.approx(np.mean(values))
            ((low, _), (high, _)) = axes.collections[row].get_segments()[0]
            assert high - low == pytest.approx(2 * np.std(values, ddof=1), rel=1e-4)


def test_geodesic_distances_are_of_the_same_and_of_different_classes(two_seeds):
    report, summaries = two_seeds
    with style.figure_style():
        (axes,) = angles.geodesic(report, summaries, angles.class_distances(report)).axes
    kinds = itertools.product(summaries, ("geodesic_intra", "geodesic_inter"))
    for stairs, line, (method, name) in zip(axes.patches, axes.lines, kinds, strict=True):
        expected = summaries[method].scores[name].mean
        values, edges, baseline = stairs.get_data()
        center = np.average((edges[1:] + edges[:-1]) / 2, weights=baseline - values)
        assert center == pytest.approx(expected, abs=1.0)  # half a bin
        np.testing.assert_allclose(line.get_xdata(), expected)
        assert stairs.get_fill() == (name == "geodesic_intra")


def test_map_angles_mark_the_mean_of_all_seeds(two_seeds):
    report, summaries = two_seeds
    with style.figure_style():
        panels = angles.map_angles(report, summaries).axes
    for axes, layer in zip(panels, LAYERS, strict=True):
        means = [segment[0, 0] for segment in axes.collections[-1].get_segments()]
        expected = [summary.angles[layer].mean for summary in summaries.values()]
        np.testing.assert_allclose(means, expected, rtol=1e-5)


def test_temperature_scaling_joins_the_errors_before_and_after(two_seeds):
    report, summaries = two_seeds
    with style.figure_style():
        (axes,) = calibration.temperature_scaling(report, summaries).axes
    joined = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    for (before, after), summary in zip(joined, summaries.values(), strict=True):
        assert before == pytest.approx(100 * summary.scores["ece_before"].mean)
        assert after == pytest.approx(100 * summary.scores["ece_after"].mean)


def test_class_figures_show_the_numbers():
    report = fake_report(("kd", "scratch"), classes=3, examples=12, with_teacher=False)
    labels = report.labels  # 0, 1, 2, 0, ...: four images of each class
    kd, scratch = labels.copy(), labels.copy()
    kd[0] = 2
    scratch[[0, 3, 1]] = 1, 1, 0
    report = _with_predictions(report, kd, scratch)
    summaries = _summaries(report)
    with style.figure_style():
        accuracy = classes.class_accuracy(report, summaries).axes[0]
        kd_axes, scratch_axes = classes.confusion_matrices(report, summaries).axes[:2]
    assert _texts(accuracy) == ["75.0", "100.0", "100.0", "50.0", "75.0", "100.0"]
    # The colours are differences from scratch.
    np.testing.assert_allclose(accuracy.images[0].get_array(), [[25, 25, 0], [0, 0, 0]])
    assert [text.get_text() for text in accuracy.get_xticklabels()] == list(report.class_names)
    assert _texts(kd_axes) == ["75", "25", "100", "100"]
    matrix = [[50, 50, 0], [25, 75, 0], [0, 0, 100]]
    np.testing.assert_allclose(scratch_axes.images[0].get_array(), matrix)
    assert classes.frequent_confusions(report, summaries) == [(0, 1), (0, 2), (1, 0)]


def test_class_groups_are_the_lowest_and_the_most_changed():
    report = fake_report(("scratch", "kd"), classes=30, examples=120, with_teacher=False)
    labels = report.labels
    scratch = np.where(labels < 10, 29, labels)
    kd = np.where((labels == 17) | ((labels == 22) & (np.arange(120) < 60)), 0, labels)
    report = _with_predictions(report, scratch, kd)
    summaries = _summaries(report)
    lowest, changed = classes.class_groups(report, summaries).values()
    np.testing.assert_array_equal(lowest, np.arange(10))
    np.testing.assert_array_equal(changed[:3], [17, 22, 10])
    assert len(changed) == classes.MOST
    pairs = classes.frequent_confusions(report, summaries)
    assert pairs == [(label, 29) for label in range(10)]
    with style.figure_style():
        rates = classes.confusion_rates(report, summaries).axes[0]
    assert _texts(rates) == ["100.0"] * 10 + ["0.0"] * 10


def test_class_section_without_errors_has_no_confusions(no_tsne):
    report = fake_report(("kd",), classes=30, examples=60, with_teacher=False)
    section = _sections(_with_predictions(report, report.labels))["classes"]
    assert [spec.name for spec in section.figures] == ["class_accuracy"]
    assert section.notes == ("No confusions: all predictions are correct.",)


def test_reference_is_scratch_or_the_teacher_or_the_first_method():
    summaries = _summaries(fake_report(("kd", "scratch"), examples=20))

    def reference(*methods):
        return classes.reference({method: summaries[method] for method in methods})

    assert reference("teacher", "kd", "scratch") == "scratch"
    assert reference("teacher", "kd") == "teacher"
    assert reference("kd") == "kd"


def test_sweep_curves_are_sorted_by_value():
    report = SWEEPS["margins"]()
    summaries = _summaries(report)
    assert sweeps.is_numeric(report, "losses.am.margin")
    with style.figure_style():
        figure = sweeps.curves(report, summaries, "losses.am.margin")
    line = figure.axes[0].containers[0].lines[0]
    margins = [1.1, 1.35, 1.5]
    assert line.get_xdata().tolist() == margins
    expected = [100 * summaries[f"amd_g-am.margin={m}"].scores["top1"].mean for m in margins]
    assert line.get_ydata().tolist() == pytest.approx(expected)
    assert figure.axes[0].get_xlabel() == "m (losses.am.margin)"


def test_sweep_figures_contain_the_methods_of_their_sweep():
    report = SWEEPS["terms_and_weights"]()
    summaries = _summaries(report)
    networks = sweeps.swept_networks(report, "losses.am.weight")
    assert list(networks) == ["amd_g-am.weight=1.0", "amd-am.weight=2.0"]
    assert not sweeps.is_numeric(report, "losses.am.terms")
    with style.figure_style():
        curves = sweeps.curves(report, summaries, "losses.am.weight")
        bars = sweeps.bars(report, summaries, "losses.am.terms")
    labels = {text.get_text() for text in curves.legends[0].get_texts()}
    assert labels == {"amd_g", "amd", "teacher", "kd"}
    labels = [text.get_text() for text in bars.axes[0].get_yticklabels()]
    assert labels == ["kd", *(f"amd_g-am.terms={terms}" for terms in ("A", "P", "N", "A+P+N"))]


def test_sweep_curves_of_one_method_have_one_colour_that_no_other_has():
    values = [("amd_g", "losses.am.margin", margin) for margin in (1.1, 1.35, 1.5)]
    report = fake_report((("scratch", "", None), ("kd", "", None), *values), examples=20)
    with style.figure_style():
        axes = sweeps.curves(report, _summaries(report), "losses.am.margin").axes[0]
    handles, names = axes.get_legend_handles_labels()
    assert sorted(names) == ["amd_g", "kd", "scratch", "teacher"]
    colors = {
        name: handle.lines[0].get_color() if name == "amd_g" else handle.get_color()
        for handle, name in zip(handles, names, strict=True)
    }
    assert len(set(colors.values())) == 4
    fixed = style.styles_of({"amd_g": False})
    assert colors["amd_g"] == fixed["amd_g"].color  # as in every report


@pytest.mark.parametrize(("largest", "scale"), [(9e-5, "linear"), (2e-4, "log")])
def test_axis_of_the_am_loss_is_logarithmic_for_losses_of_several_magnitudes(largest, scale):
    report = fake_report(examples=20)
    networks = list(report.networks)
    for i, network in enumerate(networks):
        loss = largest if i == len(networks) - 1 else 1e-5
        distances = dict.fromkeys(network.am_distance, loss)
        networks[i] = dataclasses.replace(network, am_distance=distances)
    report = dataclasses.replace(report, networks=tuple(networks))
    with style.figure_style():
        figure = training.am_against_accuracy(report, _summaries(report))
    assert figure.axes[0].get_xscale() == scale


def test_sweep_curves_of_many_methods_show_teacher_and_baseline_only():
    report = fake_report((*METHODS, ("amd_g", "losses.am.weight", 1.0)), examples=20)
    with style.figure_style():
        curves = sweeps.curves(report, _summaries(report), "losses.am.weight")
    labels = {text.get_text() for text in curves.legends[0].get_texts()}
    assert labels == {"amd_g", "teacher", "kd"}


def test_labels_are_wrapped_and_shortened():
    assert style.wrapped_label("spherical_softmax", 9) == "spherical_\nsoftmax"
    assert style.wrapped_label("amd_gl", 9) == "amd_gl"
    assert style.short_label("amd_g-am.terms=angular+negative") == "amd_g-am.terms=A+N"
    assert style.short_label("amd_g-am.margin=1.5") == "amd_g-am.margin=1.5"
    assert style.wrapped_label("amd_g-am.margin=1.5", 10) == "amd_g-am.\nmargin=1.5"


def test_names_that_the_font_does_not_have_are_numbers():
    names = ("cat", "日本語 猫", "n02123045 tabby cat", "Ünïcode")
    report = dataclasses.replace(fake_report(classes=4), class_names=names)
    shown = [style.short_class_name(report, label, 8) for label in range(4)]
    assert shown == ["cat", "class 1", "tabby c…", "Ünïcode"]


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (5, 5), (6, 3), (8, 4), (11, 4), (30, 5)])
def test_columns_fill_the_last_row(count, columns):
    assert style.columns(count, 2.7, 5) == columns


def test_report_leaves_out_maps_that_networks_do_not_have():
    report = fake_report(("kd",), examples=20)
    without = [dataclasses.replace(one, maps={}, cams={}, angles={}) for one in report.networks]
    report = dataclasses.replace(report, networks=tuple(without))
    summaries = {summary.method: summary for summary in summarize(report)}
    sections = {one.key: one for one in create_sections(report, summaries)}
    for key, left in (("activation", "distance"), ("angles", "geodesic")):
        assert [figure.name for figure in sections[key].figures] == [left]
        assert "stage1, stage2 and stage3 in common" in sections[key].notes[0]
    maps = {"stage1": np.ones((2, 4, 4, 3)), "stage2": np.ones((2, 2, 2, 3))}
    compared = compare_maps({"stage2": maps["stage2"]}, maps, 1.35, 64.0)
    assert compared["similarity"].keys() == {"stage2"}
