"""Figures: what is drawn has the numbers of the records, and can be read."""

import dataclasses
import itertools
import math

import matplotlib
import numpy as np
import pytest
import torch
from made_up import CLASSES, attack, certification, detection, evaluation, verdict

from pyrobayes.evaluation.rates import Rate
from pyrobayes.results import figures


def texts(axes):
    """The title and the labels of some axes."""
    return axes.get_title(), axes.get_xlabel(), axes.get_ylabel()


def over(result, eps, wrong=5):
    """An attack over these eps; at each the first images are misclassified."""
    predictions = [[(y + (i < wrong)) % 3 for i, y in enumerate(result.labels)] for _ in eps]
    posteriors, examples = [[0.5] * 30 for _ in eps], torch.rand(len(eps), 4, 1, 7, 7)
    return dataclasses.replace(result, eps=eps, predictions=predictions, posteriors=posteriors, examples=examples)


@pytest.mark.parametrize(
    ("eps", "shown"),
    [
        ((0.1,), (0.1,)),
        ((0.0, 0.1, 0.2, 0.3), (0.0, 0.1, 0.2, 0.3)),
        (tuple(i / 20 for i in range(7)), (0.0, 0.1, 0.2, 0.3)),
    ],
)
def test_figure_2_has_four_columns_at_most_from_the_first_eps_to_the_last(eps, shown):
    result = over(attack("gbz"), eps)
    drawn = figures.adversarial_examples(result, CLASSES, rows=2)
    grid = np.array(drawn.axes).reshape(2, len(shown))
    assert [axes.get_xlabel() for axes in grid[-1]] == [rf"$\epsilon$ = {value:g}" for value in shown]
    assert texts(grid[0, 0])[0] == f"✗ {CLASSES[1]}\n0.50" and texts(grid[0, 0])[2] == CLASSES[0]
    first = grid[1, -1].images[0].get_array()
    assert np.allclose(first, result.examples[-1, 1, 0])
    # 360 pixels of a phone across: letters of eight points are ten pixels high at least where the figure is small.
    assert 360 / drawn.get_figwidth() * 8 / 72 > 9


def test_figure_2_shows_different_classes_first():
    result = over(attack("gbz"), (0.1,))
    result = dataclasses.replace(result, labels=[0, 0, 1, 2, *result.labels[4:]])
    drawn = figures.adversarial_examples(result, CLASSES, rows=3)
    assert [axes.get_ylabel() for axes in drawn.axes] == list(CLASSES)


def test_one_eps_alone_starts_at_the_clean_images():
    result = over(attack("gbz"), (0.1,))
    axes = figures.success_rates([result]).axes[0]
    (line,) = axes.containers
    clean = result.clean_accuracy
    assert line.lines[0].get_xdata().tolist() == [0, 0.1] and axes.get_xticks().tolist() == [0, 0.1]
    assert line.lines[0].get_ydata() == pytest.approx([100 * (1 - clean.share), 100 * 5 / 30])
    several = over(attack("gbz"), (0.1, 0.2))
    assert figures.success_rates([several]).axes[0].containers[0].lines[0].get_xdata().tolist() == [0.1, 0.2]


def test_the_title_of_the_confusion_matrix_stays_away_from_the_colour_bar():
    drawn = figures.confusion_matrix(evaluation("a-model-with-a-long-name"), CLASSES)
    drawn.canvas.draw()
    renderer = drawn.canvas.get_renderer()
    bar = drawn.axes[1].get_tightbbox(renderer)
    assert not bar.overlaps(drawn._suptitle.get_window_extent(renderer)) and not drawn.axes[0].get_title()


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    first, again = (
        [path.read_bytes() for path in figures.save(figures.worst_cases([verdict("gbz")]), tmp_path / name)]
        for name in ("first", "again")
    )
    assert first == again
    figures.remove(tmp_path / "first")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.pdf", "again.png"]


def test_the_figure_of_several_models_has_their_rates():
    several = [verdict("gbz"), verdict("gfz")]
    drawn = figures.worst_cases(several)
    for axes, rates in zip(drawn.axes, (several[0].success["fgsm"], several[0].headline)):
        for line in axes.containers:
            held = [80.0, *(100 * (1 - rate.share) for rate in rates)]
            assert line.lines[0].get_ydata() == pytest.approx(held)
            assert line.get_label() in ("GBZ (4, 10)", "GFZ (4, 10)")


def test_accuracy_steps_down_at_the_distances():
    first = dataclasses.replace(
        attack("gbz", "cw", "l2"), distances=[0.0] * 6 + [0.25] * 9 + [0.5] * 12 + [math.inf] * 3
    )
    other = dataclasses.replace(attack("gbz", "fmn", "l0"), distances=[3.0] * 30)
    drawn = figures.distances([first, other])
    panel, last = drawn.axes
    (line,) = panel.lines
    assert line.get_xdata().tolist() == pytest.approx([0, 0.25, 0.5, 0.525])
    assert line.get_ydata().tolist() == pytest.approx([80, 50, 10, 10])
    assert texts(panel)[:2] == ("CW, L2", "distance ($L_2$, pixels in [0, 1])") and texts(last)[0] == "FMN, L0"
    band = panel.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() >= 0 and band.max() == pytest.approx(100 * Rate(24, 30).interval[1])


def test_certified_accuracy_steps_down_at_the_radii():
    several = [certification("gbz"), certification("gbz", 0.5)]
    drawn = figures.certificates(several).axes[0]
    for line, result in zip(drawn.lines, several):
        assert (
            line.get_xdata() == pytest.approx([0, max(result.radii)])
            and line.get_label() == rf"$\sigma$ = {result.sigma:g}"
        )
        assert line.get_ydata().tolist() == [25, 0]
    assert drawn.lines[-1].get_ydata().tolist() == [75]
    assert len(drawn.lines) == 3  # a cross for both
    other = dataclasses.replace(several[1], clean_accuracy=Rate(2, 4))
    lines = figures.certificates([several[0], other]).axes[0].lines
    assert [line.get_ydata().tolist() for line in lines[2:]] == [[75], [50]]
    assert [line.get_color() for line in lines[2:]] == [line.get_color() for line in lines[:2]]


def test_accuracy_against_coverage_has_the_curves_and_the_thresholds():
    curves = {"clean_selective": [1.0] * 99 + [0.9], "selective": [[0.9] * 100, [0.2] * 100]}
    plain = [dataclasses.replace(detection("gbz", test), **curves) for test in ("logit", "kl")]
    evading = dataclasses.replace(detection("gbz", "kl", evade="kl"), selective=[[0.1] * 100] * 2)
    caught = {"detected": [Rate(15, 20), Rate(45, 50)], "undetected": [Rate(5, 60)] * 2, "selective": [[0.4] * 100] * 2}
    weaker = dataclasses.replace(evading, **caught)
    without = dataclasses.replace(detection("gbz", "marginal", meaningful=False), **curves)
    logit, kl = figures.selective_accuracy([without, *plain, weaker, evading]).axes
    assert [texts(axes)[0] for axes in (logit, kl)] == ["logit test", "KL test"]
    ends = [line.get_ydata()[-1] for line in logit.lines]
    assert ends == pytest.approx([90, 90, 100 * 37 / 50, 20, 100 * 8 / 46])  # clean, and each eps with its threshold
    assert logit.lines[2].get_xdata() == pytest.approx([100 * 50 / 60])
    assert [line.get_ydata()[0] for line in kl.lines[3::4]] == pytest.approx(
        [10, 10]
    )  # the evasion with most undetected


# Machado, Oliveira and Fernandes (2009), of linear RGB, at full severity.
SEEN_BY = {
    "everybody": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopes": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopes": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopes": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def cielab(colour, seen):
    """A colour as it is seen, in CIELAB; a distance of 2 can just be told."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = to_xyz @ (np.array(seen) @ linear).clip(0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("seen", SEEN_BY)
def test_colours_are_told_apart_by_the_colour_blind(seen):
    greys: dict[bool, dict[str, str]] = {
        True: {},
        False: {},
    }  # of the attacks that are blind, whose lines are dashed, and others
    for name, (grey, marker) in figures.ATTACKS.items():
        if name not in ("apgd, snapshot", "apgd, margin", "pgd, p(y|...) alone"):  # eot-mim takes the place of each
            greys[name in ("uniform noise", "square", "transfer")][marker] = grey
    assert len(greys[True]) + len(greys[False]) == len(figures.ATTACKS) - 3  # all other markers
    drawn_alike = [(each.values(), 13) for each in greys.values()]
    for colours, apart in ((figures.COLOURS.values(), 12), *drawn_alike):
        places = [cielab(colour, SEEN_BY[seen]) for colour in colours]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(places, 2)) > apart


def test_a_number_after_a_variable_is_a_subscript(make, monkeypatch):
    factorization = make("gbz")
    parents = {"z_1": [], "z2": ["z_1"], "y": ["z2"], "x": ["z2"]}
    monkeypatch.setattr(factorization, "parents", lambda: parents)
    labels = [text.get_text() for text in figures.graphical_model(factorization).axes[0].texts]
    assert labels == ["$z_{1}$", "$z_{2}$", "$y$", "$x$", "images"]
