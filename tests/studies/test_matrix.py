# SPDX-License-Identifier: Apache-2.0
"""Cells of a matrix of smoothings, and their controls."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config

pytest.importorskip('mmpretrain')
import se_mm  # noqa: F401
from se_mm.home import find_config
from se_mm.smoothing import Rule, keep_prob_schedule, momentum_schedule
from se_mm.smoothing.options import OptionError
from se_mm.studies.matrix import matched_momentum, matrix_cells, plain_cell, with_controls


def config(name='fixmatch_tma_conv4_1xb32_digits-2'):
    return Config.fromfile(find_config(f'{name}.py'))


def hook_of(cell):
    return dict(cell.config.custom_hooks[0])


def test_each_smoothing_varies_in_what_it_has_and_its_control_is_added():
    matrix = [
        dict(smoothing='none'),
        dict(smoothing=['tma', 'sts'], momentum=0.02, keep_prob=[0.5, 0.75]),
        dict(smoothing='se', keep_prob=0.98, granularity=['tensor', 'channel']),
    ]
    cells = {cell.name: cell for cell in matrix_cells(config(), matrix)}
    assert {name: cell.control for name, cell in cells.items()} == {
        'none': None,
        'TMA momentum 0.02': None,
        'STS keep_prob 0.5 momentum 0.02': 'TMA momentum 0.01',
        'STS keep_prob 0.75 momentum 0.02': 'TMA momentum 0.005',
        'SE keep_prob 0.98 granularity tensor': 'TMA momentum 0.02',
        'SE keep_prob 0.98 granularity channel': 'TMA momentum 0.02',
        'TMA momentum 0.01': None,
        'TMA momentum 0.005': None,
    }
    own = dict(buffers='average_norms')  # As in the config.
    assert hook_of(cells['none']) == dict(own, type='SpatialEnsembleHook', keep_prob=0.0)
    assert hook_of(cells['TMA momentum 0.005']) == dict(
        own, type='SETMAHook', keep_prob=0.0, momentum=0.005
    )
    assert hook_of(cells['SE keep_prob 0.98 granularity channel']) == dict(
        own, type='SpatialEnsembleHook', keep_prob=0.98, granularity='channel'
    )
    folders = [cell.folder for cell in cells.values()]
    assert len(set(folders)) == len(folders)


def test_statistics_are_an_axis_and_a_control_has_those_of_its_cell():
    statistics = ['copy', 'average']
    matrix = [
        dict(smoothing='tma', momentum=0.02, buffers=statistics),
        dict(smoothing='se', keep_prob=0.98, buffers=statistics),
    ]
    cells = {cell.name: cell for cell in matrix_cells(config(), matrix)}
    assert {name: cell.control for name, cell in cells.items()} == {
        'TMA momentum 0.02 buffers copy': None,
        'TMA momentum 0.02 buffers average': None,
        'SE keep_prob 0.98 buffers copy': 'TMA momentum 0.02 buffers copy',
        'SE keep_prob 0.98 buffers average': 'TMA momentum 0.02 buffers average',
    }
    (cell,) = matrix_cells(config(), [dict(smoothing='se', keep_prob=0.98, buffers='average')])[1:]
    assert hook_of(cell)['buffers'] == 'average'


def test_other_options_and_hooks_of_a_config_stay():
    cfg = config()
    cfg.custom_hooks = [
        dict(type='EMAHook', momentum=0.03, update_buffers=True, priority=49),
        dict(type='NumClassCheckHook', _scope_='mmdet'),
    ]
    cfg.model = cfg.model.classifier
    cfg.model.data_preprocessor = dict(type='ClsDataPreprocessor')
    cells = matrix_cells(cfg, [dict(smoothing=['tma', 'se', 'sts'])])
    hooks = {cell.name: hook_of(cell) for cell in cells}
    kept = dict(update_buffers=True, priority=49)
    assert hooks['TMA'] == dict(type='SETMAHook', keep_prob=0.0, momentum=0.03, **kept)
    assert hooks['SE keep_prob 0.99'] == dict(type='SpatialEnsembleHook', keep_prob=0.99, **kept)
    assert hooks['STS keep_prob 0.7'] == dict(
        type='SETMAHook', keep_prob=0.7, momentum=0.03, **kept
    )
    # The control has the momentum of the config's own average.
    assert 'TMA momentum 0.009' in hooks
    assert all(cell.config.custom_hooks[1] == cfg.custom_hooks[1] for cell in cells)


def test_configs_as_they_are_get_controls_unless_a_config_is_one():
    names = ['fixmatch_se_conv4_1xb32_glyphs-4', 'fixmatch_tma_conv4_1xb32_glyphs-4']
    cells = with_controls([plain_cell(name, config(name)) for name in names])
    assert [(cell.name, cell.control) for cell in cells] == [(names[0], names[1]), (names[1], None)]
    (cell, control) = with_controls([plain_cell('a', config(names[0]))])
    assert cell.control == control.name == 'TMA momentum 0.05'


def test_configs_that_differ_in_a_stock_average_are_two_cells():
    cfgs = [config(), config()]
    for cfg, momentum in zip(cfgs, (0.1, 0.2)):
        cfg.custom_hooks = [dict(type='EMAHook', momentum=momentum)]
        cfg.model = cfg.model.classifier
        cfg.model.data_preprocessor = dict(type='ClsDataPreprocessor')
    cells = [plain_cell('a', cfgs[0]), plain_cell('b', cfgs[1]), plain_cell('c', cfgs[1])]
    assert [cell.name for cell in with_controls(cells)] == ['a', 'b']


def test_folder_of_a_cell_is_that_of_the_meaning_of_its_config(tmp_path):
    cfg = config()
    (tmp_path / 'elsewhere.py').write_text(f'# Another text.\n{cfg.pretty_text}')
    same = Config.fromfile(tmp_path / 'elsewhere.py')
    assert plain_cell('a', same).folder == plain_cell('a', cfg).folder
    cfg.optim_wrapper.optimizer.lr *= 2
    assert plain_cell('a', same).folder != plain_cell('a', cfg).folder


def test_average_of_the_config_itself_keeps_its_schedule_in_the_control():
    cfg = config('byol_sts_r50_8xb256')
    (_, control) = matrix_cells(cfg, [dict(smoothing='sts', keep_prob=0.5)])
    momentum = hook_of(control)['momentum']
    assert momentum['type'] == 'cosine' and momentum['end'] == 0
    assert momentum['start'] == pytest.approx(0.5 * cfg.model.base_momentum)


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0, 0.99),
    st.floats(0, 0.99),
    st.one_of(st.none(), st.floats(0.001, 1)),
    st.booleans(),
    st.integers(0, 50),
)
def test_control_weights_the_student_as_the_mean_over_picks_does(p, q, m, match, step):
    changing = p != q
    keep = dict(type='linear', start=p, end=q) if changing else p
    momentum = momentum_schedule('momentum', 1.0 if m is None else m)
    rule = Rule(keep_prob_schedule('keep_prob', keep), momentum, match and m is not None, 'tensor')
    if match and m is not None and changing:
        return  # What is capped at 1 depends on the update then.
    control = momentum_schedule('momentum', matched_momentum(rule))
    average = rule.average(step, 50)
    moved = 1.0 if average is None else average
    taken = 1 - rule.keep_prob(step, 50)
    assert control(step, 50) == pytest.approx(taken * moved, abs=1e-9)


@pytest.mark.parametrize(
    'matrix, message',
    [
        ([dict(smoothing='sts', keepprob=0.5)], "no option 'keepprob'.*Did you mean 'keep_prob'"),
        ([dict(keep_prob=0.5)], "smoothing must be one of 'none', 'tma', .*got None"),
        ([dict(smoothing='ema')], "smoothing must be one of .*'tma'.*got 'ema'"),
        ([dict(smoothing='tma', keep_prob=0.5)], 'keep_prob is no option of smoothing tma'),
        ([dict(smoothing='sts', keep_prob=[])], r'keep_prob must be a number .*, got \[\]'),
        ([dict(smoothing='sts', keep_prob=1.0)], r'STS keep_prob 1.0: keep_prob must be .*got 1.0'),
    ],
)
def test_wrong_matrix_is_one_line(matrix, message):
    with pytest.raises(OptionError, match=message) as raised:
        matrix_cells(config(), matrix)
    assert '\n' not in str(raised.value)


def test_average_that_no_schedule_expresses_has_no_control():
    cfg = config()
    for average in (
        dict(ema_type='StochasticWeightAverage'),
        dict(momentum=dict(type='annealed', value=0.1, gamma=5)),
    ):
        cfg.custom_hooks = [dict(type='SETMAHook', keep_prob=0.5, **average)]
        (cell,) = with_controls([plain_cell('a', cfg)])
        assert cell.control is None and cell.picks


def test_average_alone_is_compared_with_the_statistics_that_sts_has_by_default():
    cfg = config()
    cfg.custom_hooks = [dict(type='SETMAHook', keep_prob=0.5, momentum=0.02)]
    for cell in matrix_cells(cfg, [dict(smoothing=['sts', 'tma', 'se'])]):
        assert hook_of(cell)['buffers'] == 'average_norms'
    (plain, control) = with_controls([plain_cell('STS', cfg)])
    assert plain.control == control.name and hook_of(control)['buffers'] == 'average_norms'
