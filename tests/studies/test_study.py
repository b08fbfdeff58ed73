# SPDX-License-Identifier: Apache-2.0
"""What a study trains: its groups, and its runs with their seeds."""

import re
from pathlib import Path

import pytest

pytest.importorskip('mmpretrain')
from mmengine.config import Config

import se_mm  # noqa: F401
from se_mm.home import HOME as ROOT
from se_mm.home import find_config
from se_mm.smoothing.options import OptionError
from se_mm.studies.study import make_study, read_study, runs_of, seed_options

CONFIG = str(find_config('fixmatch_tma_conv4_1xb32_digits-2.py'))
MATRIX = [dict(smoothing=['sts', 'tma'], momentum=0.05)]
STUDY = dict(configs={'digits': CONFIG}, matrix=MATRIX, seeds=[3, 1], metrics=['top1'])


def test_runs_go_seed_by_seed_and_each_is_the_config_with_its_seed(tmp_path):
    runs = runs_of(make_study(STUDY), tmp_path, ['train'])
    assert [(cell, seed) for _, cell, seed in runs] == [
        ('STS keep_prob 0.7 momentum 0.05', 3),
        ('TMA momentum 0.05', 3),
        ('TMA momentum 0.015', 3),
        ('STS keep_prob 0.7 momentum 0.05', 1),
        ('TMA momentum 0.05', 1),
        ('TMA momentum 0.015', 1),
    ]
    run = runs['digits', 'TMA momentum 0.05', 3]
    config = Path(run.command[1])
    assert config.parent == run.work_dir.parent and run.work_dir.name == 'seed3'
    cfg = Config.fromfile(config)
    assert run.command[-2:] == [
        'randomness.seed=3',
        'train_dataloader.dataset.split.seed=3',
    ]
    assert cfg.custom_hooks[0].momentum == 0.05
    assert run.iters == cfg.train_cfg.max_iters


def test_reference_is_the_first_average_of_a_matrix_and_the_first_of_several_configs():
    assert make_study(STUDY).reference('digits') == 'TMA momentum 0.05'
    sts = str(find_config('fixmatch_sts_conv4_1xb32_digits-2.py'))
    study = make_study({**STUDY, 'configs': {'b': sts, 'a': CONFIG}, 'matrix': []})
    assert study.reference('') == 'b'
    assert [cell.name for cell in study.groups['']][:2] == ['b', 'a']


def test_config_is_written_once_and_a_change_of_options_gets_another_folder(tmp_path):
    runs_of(make_study(STUDY), tmp_path, ['train'])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob('**/config.py')}
    runs_of(make_study(STUDY), tmp_path, ['train'])
    changed = {**STUDY, 'cfg_options': {'optim_wrapper.optimizer.lr': 0.01}}
    runs_of(make_study(changed), tmp_path, ['train'])
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob('**/config.py')}
    assert len(before) == 3 and len(after) == 6 and before.items() <= after.items()


def test_each_seed_has_another_fold_in_detection():
    cfg = Config.fromfile(find_config('softteacher_sts_faster-rcnn-conv5_1xb8_scenes-10.py'))
    options = seed_options(cfg, 2)
    assert options.pop('randomness.seed') == 2
    assert options and all(key.endswith('.fold') for key in options)
    assert set(options.values()) == {3}


def test_each_seed_has_another_fold_of_the_split_tool_s_files():
    cfg = Config.fromfile(find_config('softteacher_sts_faster-rcnn-r50_8xb5_coco-10.py'))
    options = seed_options(cfg, 2)
    stem = 'semi_anns/instances_train2017.3@10'
    assert list(options.values()) == [2, f'{stem}.json', f'{stem}-unlabeled.json']
    cfg.merge_from_dict(options)
    files = [part.ann_file for part in cfg.train_dataloader.dataset.datasets]
    assert files == [f'{stem}.json', f'{stem}-unlabeled.json']


def test_training_config_is_no_study_and_unknown_keys_are_refused(tmp_path):
    assert read_study(CONFIG) is None
    (tmp_path / 'study.py').write_text('matrix = []\nseed = [1]\n')
    with pytest.raises(OptionError, match=r"has no option 'seed'.*Did you mean 'seeds'"):
        read_study(str(tmp_path / 'study.py'))


def test_nothing_but_two_tools_imports_the_studies():
    importing = {
        str(path.relative_to(ROOT))
        for folder in ('se_mm', 'tools')
        for path in (ROOT / folder).rglob('*.py')
        if re.search(r'^\s*(from|import) se_mm\.studies', path.read_text(), re.MULTILINE)
    }
    others = {path for path in importing if not path.startswith('se_mm/studies/')}
    assert others <= {'tools/compare.py', 'tools/demo.py'}
