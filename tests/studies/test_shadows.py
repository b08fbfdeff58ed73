# SPDX-License-Identifier: Apache-2.0
"""Teachers that follow one student share its training."""

import json

import pytest

pytest.importorskip('mmpretrain')
from mmengine.config import Config

import se_mm  # noqa: F401
from se_mm.home import find_config
from se_mm.smoothing.options import OptionError
from se_mm.studies.matrix import matrix_cells
from se_mm.studies.shadows import in_one_run, shadow_cells
from se_mm.studies.study import make_study, runs_of

THIRTY = str(find_config('supervised_shadows_conv6_1xb64_cifar10.py'))
PAIR = str(find_config('fixmatch_tma_conv4_1xb32_digits-2.py'))
MATRIX = [
    dict(smoothing=['tma', 'se'], momentum=0.05, keep_prob=0.9),
    dict(smoothing='sts', keep_prob=0.5, momentum=0.1),
]


def classifier(**hook):
    """A classifier of digits with one copy of it as teacher."""
    images = dict(type='Digits', size=16, pipeline=[dict(type='PackInputs')])
    loader = dict(batch_size=50, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
    return Config(
        dict(
            default_scope='mmpretrain',
            custom_imports=dict(imports=['se_mm'], allow_failed_imports=False),
            model=dict(
                type='ImageClassifier',
                data_preprocessor=dict(mean=[127.5] * 3, std=[63.75] * 3, num_classes=10),
                backbone=dict(type='ConvNet', channels=(8, 8), strides=(2, 2)),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=10, in_channels=8),
            ),
            train_dataloader=dict(loader, dataset=dict(images, split='train', indices=200)),
            val_dataloader=dict(loader, dataset=dict(images, split='test', indices=100)),
            val_cfg=dict(),
            val_evaluator=dict(type='Accuracy', topk=(1,)),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=8, val_interval=8),
            default_hooks=dict(logger=dict(type='LoggerHook', interval=4)),
            log_processor=dict(by_epoch=False),
            custom_hooks=[dict(dict(type='SETMAHook', keep_prob=0.0, momentum=0.05), **hook)],
        )
    )


def test_each_teacher_of_a_shadows_hook_is_a_cell_beside_the_student():
    cells = {cell.name: cell for cell in shadow_cells(Config.fromfile(THIRTY))}
    assert len(cells) == 31 and len({cell.folder for cell in cells.values()}) == 1
    assert cells['student'].metric('accuracy/top1') == 'accuracy/top1'
    assert cells['se-tensor-30-copy'].metric('accuracy/top1') == 'se-tensor-30-copy/accuracy/top1'
    assert cells['sts-tensor-30-copy'].control == 'tma-30-copy'
    assert cells['se-channel-300-average'].control == 'tma-300-average'
    assert cells['tma-30-copy'].control is None


def test_copies_that_are_only_evaluated_share_one_training(tmp_path):
    cfg = classifier()
    cells = in_one_run(matrix_cells(cfg, MATRIX))
    assert [cell.name for cell in cells][:2] == ['TMA momentum 0.05', 'SE keep_prob 0.9']
    (hook,) = cells[0].config.custom_hooks
    assert hook['type'] == 'ShadowsHook' and list(hook['shadows']) == [c.name for c in cells]
    assert all(cell.config is cells[0].config for cell in cells)
    # The average of STS is compared with its own statistics, as STS has them.
    assert {options['buffers'] for options in hook['shadows'].values()} == {'average_norms'}
    sts = cells[2]
    assert sts.control == 'TMA momentum 0.05'


@pytest.mark.parametrize(
    'cfg',
    [
        Config.fromfile(PAIR),  # Its teacher labels.
        classifier(begin_iter=2),  # Not an option of a shadow.
    ],
    ids=['pair', 'begin'],
)
def test_other_teachers_are_trained_one_by_one(cfg):
    cells = matrix_cells(cfg, MATRIX)
    assert in_one_run(cells) == cells
    assert len({cell.folder for cell in cells}) == len(cells)


def test_configs_with_and_without_shadows_are_not_compared():
    with pytest.raises(OptionError, match='configs must all have a ShadowsHook, or none of them'):
        make_study(dict(configs={'a': THIRTY, 'b': PAIR}, matrix=[], seeds=[0], metrics=['x']))


def test_study_of_shadows_has_one_run_for_each_seed(tmp_path):
    study = dict(configs={'thirty': THIRTY}, matrix=[], seeds=[0, 1], metrics=['accuracy/top1'])
    runs = runs_of(make_study(study), tmp_path, ['train'])
    assert len(runs) == 62 and len(set(runs.values())) == 2


def test_matrix_over_a_shadow_is_trained_once_and_compared(tools):
    (tools.folder / 'config.py').write_text(classifier().pretty_text)
    words = ['config.py', '--smoothing', 'tma', 'sts', '--momentum', 0.05, '--keep-prob', 0.5]
    words += ['--seeds', 0, 1, '--metric', 'accuracy/top1', '--work-dir', 'compared']
    tools.succeed('compare.py', *words)
    folder = tools.folder / 'compared'
    assert len(list(folder.glob('**/metrics.json'))) == 2  # One for each seed.
    rows = {row['cell']: row for row in json.loads((folder / 'results.json').read_text())}
    for name, row in rows.items():
        for seed, value in row['values'].items():
            (file,) = folder.glob(f'**/seed{seed}/metrics.json')
            assert json.loads(file.read_text())['metrics'][f'{name}/accuracy/top1'] == value
    assert rows['STS keep_prob 0.5 momentum 0.05']['control'] == 'TMA momentum 0.025'
