# SPDX-License-Identifier: Apache-2.0
"""Stock configs of other OpenMMLab libraries, trained beside the stock hook.

Only what a user has is used: the line in a config, MMEngine's Runner, and checkpoints on disk.
"""

from pathlib import Path

import pytest
import torch
from importing import LIBRARIES, import_library
from mmengine.config import Config
from mmengine.runner import save_checkpoint
from table import REALESRGAN, TABLE, stock_file
from training import (
    KEEP_NOTHING,
    TYPE_ALONE,
    Training,
    comparable,
    far_apart,
    farthest,
    load,
    student_and_teacher,
    tensors_of,
)

TOLERANCE = 1e-6
PAIR = dict(KEEP_NOTHING, student='generator', teacher='generator_ema', momentum=0.1)
MMAGIC = 'ExponentialMovingAverageHook'
"""mmagic's own hook, which moves a copy that a model holds."""
LINES = ('EMAHook', 'MeanTeacherHook', MMAGIC)


@pytest.fixture(scope='module', autouse=True)
def plain_text():
    """Writes configs without laying them out, which takes longer than to train these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'pretty_text', property(lambda cfg: repr(cfg.to_dict())))
        yield


@pytest.fixture(scope='module', params=TABLE, ids=str)
def training(request, tmp_path_factory):
    """The runs of a row of the table."""
    import_library(request.param.library)
    return Training(request.param, tmp_path_factory.mktemp('runs'))


def assert_equal_weights(ours, stock):
    """Student, teacher and count of updates agree."""
    ours, stock = tensors_of(ours), comparable(stock)
    assert set(stock) <= set(ours)
    name, difference = farthest(ours, stock)
    assert difference <= TOLERANCE, f'{name} differs by {difference:.2g}'


def assert_equal_keys(ours, stock):
    """The same weights by name, order, shape and type; beside them ours may keep what it needs."""
    assert set(stock) <= set(ours)
    ours, stock = (
        [(name, tuple(value.shape), value.dtype) for name, value in tensors_of(c).items()]
        for c in (ours, stock)
    )
    assert ours == stock


def test_stock_run_has_a_teacher_that_moved_and_is_not_its_student(training):
    training.checkpoint('stock')
    first, last = (load(training.path('stock', step)) for step in (2, 4))
    student, teacher = student_and_teacher(last, training.row)
    before = student_and_teacher(first, training.row)[1]
    assert max((teacher[n] - before[n]).abs().max() for n in before if before[n].numel()) > 1e-3
    assert max((teacher[n] - student[n]).abs().max() for n in before if before[n].numel()) > 1e-6


def test_line_switched_by_its_type_alone_trains_and_leaves_the_student_alone(training):
    stock, ours = training.checkpoint('stock'), training.checkpoint('type_alone', TYPE_ALONE)
    assert_equal_keys(ours, stock)
    student, teacher = student_and_teacher(ours, training.row)
    name, difference = farthest(student, student_and_teacher(stock, training.row)[0])
    assert difference <= TOLERANCE, f'the student differs in {name} by {difference:.2g}'
    assert all(value.isfinite().all() for value in teacher.values())
    assert any(not torch.equal(teacher[name], student[name]) for name in teacher)


def test_without_keeping_the_checkpoint_is_the_stock_hook_s(training):
    stock, ours = training.checkpoint('stock'), training.checkpoint('nothing_kept', KEEP_NOTHING)
    assert_equal_keys(ours, stock)
    for step in (2, 4):
        assert_equal_weights(*(load(training.path(n, step)) for n in ('nothing_kept', 'stock')))


def test_stock_checkpoint_resumes_under_ours(training):
    training.checkpoint('stock')
    source = training.path('stock')
    stock = training.checkpoint('stock_to_stock', resume=source)
    ours = training.checkpoint('stock_to_ours', KEEP_NOTHING, resume=source)
    assert_equal_keys(ours, stock)
    assert_equal_weights(ours, stock)


def test_our_checkpoint_resumes_under_stock(training):
    training.checkpoint('stock')
    training.checkpoint('nothing_kept', KEEP_NOTHING)
    stock = training.checkpoint('stock_to_stock', resume=training.path('stock'))
    back = training.checkpoint('ours_to_stock', resume=training.path('nothing_kept'))
    assert_equal_keys(back, stock)
    assert_equal_weights(back, stock)


def test_late_in_a_training_the_momentum_is_the_stock_hook_s(training):
    training.checkpoint('stock')
    late = training.folder / 'late.pth'
    save_checkpoint(far_apart(load(training.path('stock')), training.row), str(late))
    stock = training.checkpoint('late_to_stock', resume=late)
    assert_equal_weights(training.checkpoint('late_to_ours', KEEP_NOTHING, resume=late), stock)


@pytest.mark.parametrize('training', [r for r in TABLE if r.distilled], ids=str, indirect=True)
def test_pretrained_teacher_of_a_distillation_is_not_moved(training):
    ours = tensors_of(training.checkpoint('type_alone', TYPE_ALONE))
    pretrained = load(training.folder / 'pretrained.pth')['state_dict']
    for part in ('state_dict.', 'ema_state_dict.module.'):
        for name, value in pretrained.items():
            # Its statistics are the model's to move, which has it in training mode.
            if 'running_' not in name and 'num_batches' not in name:
                now = ours[f'{part}{training.row.distilled}.{name}']
                torch.testing.assert_close(now, value, rtol=0, atol=TOLERANCE, msg=name + ' moved')


def lines_of(path):
    """The lines of a config in which a hook keeps or moves a teacher, each as text."""
    cfg = Config.fromfile(path, import_custom_modules=False)
    return {str(sorted(li.items())) for li in cfg.get('custom_hooks') or [] if li.type in LINES}


@pytest.mark.parametrize('library', LIBRARIES)
def test_table_has_every_line_of_the_library_s_configs(library):
    import_library(library)
    paths = sorted(Path(stock_file(library, '')).rglob('*.py'))
    rows = [row for row in (*TABLE, REALESRGAN) if row.library == library]
    if not any(kind in path.read_text() for path in paths for kind in LINES):
        assert all(row.line or row.averages for row in rows)
        return  # To read them all takes minutes.
    lines, unreadable = {}, []
    for path in paths:
        try:
            lines |= dict.fromkeys(lines_of(path), path.name)
        except (OSError, KeyError, ImportError, RuntimeError) as error:
            unreadable.append((path.name, error))  # It names what the wheel lacks.
    assert len(unreadable) < len(paths) / 20, unreadable
    known = set().union(*(lines_of(stock_file(*row.config.split('::'))) for row in rows))
    assert {li: lines[li] for li in lines.keys() - known} == {}, 'lines that no row has'


@pytest.mark.parametrize('row', [*TABLE, REALESRGAN], ids=str)
def test_docs_name_the_config(row):
    page = Path(__file__).parents[2] / 'docs/libraries.md'
    assert row.config.split('/')[-1] in page.read_text()


@pytest.fixture(scope='module')
def realesrgan(tmp_path_factory):
    """The runs of a model whose teacher a hook of mmagic moves, and no average."""
    import_library(REALESRGAN.library)
    return Training(REALESRGAN, tmp_path_factory.mktemp('realesrgan'))


def test_named_pair_in_place_of_mmagic_s_hook_follows_by_the_momentum(realesrgan):
    stock = realesrgan.checkpoint('stock')
    ours = realesrgan.checkpoint('pair', PAIR, replaces=MMAGIC)
    assert_equal_keys(ours, stock)
    start = load(realesrgan.folder / 'pair/start.pth')
    runs = [load(realesrgan.path('pair', step)) for step in (1, 2, 3, 4)]
    runs = [student_and_teacher(run, REALESRGAN) for run in runs]
    before = {name: start[f'generator.{name}'] for name in runs[0][1]}
    for student, teacher in runs:  # Before the first iteration it is a copy.
        expected = {name: before[name].lerp(student[name], 0.1) for name in before}
        assert farthest(teacher, expected)[1] <= TOLERANCE
        before = teacher
    assert farthest(*runs[-1])[1] > 1e-4


def test_mmagic_s_hook_and_ours_on_one_teacher_end_in_one_line(realesrgan):
    realesrgan.checkpoint('pair', PAIR, replaces=MMAGIC)  # Alone, ours is accepted.
    with pytest.raises(Exception, match=r'generator.*\.(weight|bias)') as error:
        realesrgan.checkpoint('two_movers', PAIR, replaces='')
    assert '\n' not in str(error.value)


def test_mmagic_s_teacher_is_not_lost_in_silence(realesrgan):
    """The line names no pair: mmagic's teacher is as without us, or a line says that it is not."""
    stock = realesrgan.checkpoint('stock')
    try:
        ours = realesrgan.checkpoint('unnamed', KEEP_NOTHING, replaces='')
    except Exception as error:
        assert 'generator_ema' in str(error)
        return
    ema = ours.get('ema_state_dict', {})
    trained = {n: ema.get(f'module.{n}', value) for n, value in ours['state_dict'].items()}
    assert farthest(trained, stock['state_dict'])[1] <= TOLERANCE
