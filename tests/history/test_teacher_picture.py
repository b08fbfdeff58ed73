# SPDX-License-Identifier: Apache-2.0
"""What is in the pictures of a teacher, read out of the figures."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from se_mm.history.picture import draw_history, stage_table, summary
from se_mm.history.provenance import provenance
from se_mm.history.segments import Segment, SmoothedTensors
from se_mm.smoothing import Settings

plt = pytest.importorskip('matplotlib.pyplot')
SHAPES = {'a.weight': (300, 4), 'a.bias': (300,), 'b.weight': (3, 6)}


def drawn(keep_prob, momentum, granularity, updates, shapes=None):
    """A provenance and its figure."""
    rule = Settings(keep_prob, 1.0 if momentum is None else momentum, False, granularity).default
    segment = Segment(0, True, total=1000, rules=(SmoothedTensors(rule, shapes or SHAPES),))
    found = provenance([segment], updates)
    return found, draw_history(found, 'a title')


def panels(figure):
    """Map, distributions and scale of a figure."""
    axes = {one.get_xlabel(): one for one in figure.axes}
    scale = axes.pop('updates since a unit was last picked (yellow: just now)')
    map_ = axes.pop('units of each tensor, one beside the other')
    return map_, list(axes.values()), scale


@given(
    st.floats(0, 0.99),
    st.one_of(st.none(), st.floats(0.01, 0.9)),
    st.sampled_from(['tensor', 'layer', 'channel', 'element']),
    st.integers(1, 200),
)
@settings(max_examples=25, deadline=None)
def test_bars_and_line_sum_to_one(keep_prob, momentum, granularity, updates):
    _, figure = drawn(keep_prob, momentum, granularity, updates)
    _, distributions, _ = panels(figure)
    assert len(distributions) in (1, 2)
    for axes in distributions:
        assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(1)
        (line,) = axes.lines
        assert sum(line.get_ydata()) == pytest.approx(1)
        assert len(line.get_ydata()) == len(axes.patches) <= 31
        low, high = axes.get_xlim()
        assert all(low <= bar.get_x() < high for bar in axes.patches)
        assert axes.get_ylabel().startswith('share of')
    plt.close(figure)


@given(st.floats(0.5, 0.99), st.integers(2, 500))
@settings(max_examples=15, deadline=None)
def test_map_has_the_age_of_each_unit_and_its_scale_reaches_the_oldest(keep_prob, updates):
    found, figure = drawn(keep_prob, None, 'channel', updates, {'a.weight': (7, 2), 'b': (256,)})
    map_, _, scale = panels(figure)
    (image,) = map_.images
    ages = [found.updates - 1 - tensor.taken.numpy() for tensor in found.tensors]
    values = np.asarray(image.get_array())
    assert values.shape == (2, 256)
    assert (values[1] == ages[1]).all()
    # Seven units share the width: each is a run of columns.
    assert (values[0][np.arange(7) * 256 // 7 + 10] == ages[0]).all()
    assert [label.get_text() for label in map_.get_yticklabels()] == ['a.weight', 'b']
    ticks = list(scale.get_xticks())
    assert ticks[0] == 0 and ticks[-1] == image.norm.vmax == max(1, max(map(max, ages)))
    apart = np.diff(np.log1p(ticks)) / np.log1p(ticks[-1])
    assert (apart > 0.05).all()
    # The youngest is yellow and the oldest dark, and each lighter than what is older.
    light = image.cmap(image.norm(np.arange(ticks[-1] + 1)))[:, :3] @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(light) <= 1e-9).all() and light[0] > 0.7 and light[-1] < 0.1
    plt.close(figure)


def test_names_of_many_tensors_do_not_lie_on_each_other():
    shapes = {f'layer{i}.{j}.conv.weight': (4, 2) for i in range(1, 5) for j in range(40)}
    _, figure = drawn(0.7, None, 'channel', 20, shapes)
    map_, _, _ = panels(figure)
    assert [label.get_text() for label in map_.get_yticklabels()] == [
        f'layer{i}' for i in range(1, 5)
    ]
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in map_.get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))
    plt.close(figure)


def test_table_of_parts_has_all_tensors_and_the_summary_what_is_known():
    found, figure = drawn(0.7, 0.1, 'channel', 50)
    plt.close(figure)
    header, rows = stage_table(found)
    assert all(len(row) == len(header) for row in rows)
    assert sum(int(row[1]) for row in rows) == 3
    assert sum(int(row[2].replace(',', '')) for row in rows) == 1200 + 300 + 18
    told = {what: measured for what, measured, _ in summary(found)}
    assert told['updates made'] == '50'
    assert told['mean age, updates'] == f'{found.mean_age:,.2f}'
    assert 'from before se_mm' not in told
