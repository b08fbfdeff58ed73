# SPDX-License-Identifier: Apache-2.0
"""Labelled and unlabelled images as one data set, their sampling and their batches."""

import json
import re
import shutil
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, init_default_scope

from se_mm.datasets import (
    MultiSourceBatchSampler,
    SemiSupervisedDataset,
    collate_views,
)
from se_mm.datasets import multi_source_batch_sampler as sampler_module
from se_mm.smoothing import OptionError

Image = pytest.importorskip('PIL.Image')
pytest.importorskip('mmpretrain')
DIGITS = dict(type='Digits', split='test', size=8)
WEAK = [dict(type='RandomCrop', crop_size=8, padding=2)]
PACK = dict(type='PackInputs')
ONE = [*WEAK, PACK]
TWO = [dict(type='MultiView', num_views=[2], transforms=[WEAK]), PACK]


def build(**options):
    init_default_scope('mmpretrain')
    settings = dict(
        labelled=DIGITS,
        split=dict(num_labels=20, seed=0),
        labelled_pipeline=ONE,
        unlabelled_pipeline=TWO,
    )
    return SemiSupervisedDataset(**{**settings, **options})


class Source:
    """What Runner gives a batch sampler: a sampler with a data set and a seed."""

    def __init__(self, *sizes, seed=0):
        self.dataset = type('Sources', (), {'source_sizes': sizes})()
        self.seed = seed


def batches(count, *sizes, seed=0, step=0, rank=0, ranks=1, **options):
    sampler = MultiSourceBatchSampler(Source(*sizes, seed=seed), **options)
    sampler.rank, sampler.world_size = rank, ranks
    return list(islice(sampler.batches(step), count))


def test_labelled_images_come_first_and_all_are_unlabelled_too():
    data = build()
    assert data.source_sizes == [20, 297]
    assert len(data) == 317
    labels = [int(data[i]['data_samples'].gt_label) for i in range(20)]
    assert np.bincount(labels).tolist() == [2] * 10
    assert isinstance(data[0]['inputs'], torch.Tensor)
    assert [view.shape for view in data[20]['inputs']] == [(3, 8, 8)] * 2


def test_unlabelled_images_of_another_set():
    data = build(unlabelled=dict(type='Digits', split='train', size=8), split=None)
    assert data.source_sizes == [297, 1500]
    assert data.split is None


def test_labels_of_the_unlabelled_set_are_not_needed(tmp_path):
    for index in range(3):
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(tmp_path / f'{index}.png')
    load = dict(type='LoadImageFromFile')
    data = build(
        unlabelled=dict(type='CustomDataset', data_root=str(tmp_path), with_label=False),
        unlabelled_pipeline=[load, *TWO],
    )
    batch = collate_views([data[0], data[20], data[21]])
    assert batch['data_samples']['truth'].tolist() == [-1, -1]
    assert batch['inputs']['labelled'].shape == (1, 3, 8, 8)
    assert [view.shape for view in batch['inputs']['views']] == [(2, 3, 8, 8)] * 2


def test_labels_of_a_table_and_unlabelled_images_of_a_folder(folder):
    (folder / 'labels.csv').write_text('image,label\nants/0.png,ant\nbees/0.png,bee\n')
    load = dict(type='LoadImageFromFile')
    data = build(
        labelled=dict(type='CSVDataset', data_root=str(folder), ann_file='labels.csv'),
        split=None,
        unlabelled=dict(type='CustomDataset', data_root=str(folder), with_label=False),
        labelled_pipeline=[load, *ONE],
        unlabelled_pipeline=[load, *TWO],
    )
    assert data.source_sizes == [2, 12]
    assert data.metainfo['classes'] == ('ant', 'bee')
    assert [int(data[i]['data_samples'].gt_label) for i in range(2)] == [0, 1]


def test_batch_keeps_labels_and_truth():
    data = build()
    batch = collate_views([data[0], data[1], data[20 + 5]])
    assert batch['data_samples']['labels'].tolist() == [
        int(data[i]['data_samples'].gt_label) for i in range(2)
    ]
    assert batch['data_samples']['truth'].tolist() == [int(data[25]['data_samples'].gt_label)]


def test_split_that_was_saved_is_read_and_a_data_set_writes_none(tmp_path):
    path = tmp_path / 'split.json'
    drawn = build(split=dict(num_labels=20, seed=3)).split
    drawn.save(str(path))
    assert build(split=str(path)).split == drawn
    # A config that could name a file to be written could overwrite any.
    with pytest.raises(OptionError, match="split has no option 'file'"):
        build(split=dict(num_labels=20, seed=3, file=str(tmp_path / 'other.json')))
    assert [child.name for child in tmp_path.iterdir()] == ['split.json']


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.tuples(st.integers(1, 30), st.integers(1, 60)),
    batch_size=st.integers(1, 8),
    mu=st.integers(1, 4),
    seed=st.integers(0, 2**31 - 1),
    ranks=st.integers(1, 3),
)
def test_each_source_is_gone_through_without_repeats(sizes, batch_size, mu, seed, ranks):
    for source in range(2):
        drawn = []
        for step in range(5):
            for rank in range(ranks):
                (batch,) = batches(
                    1,
                    *sizes,
                    seed=seed,
                    step=step,
                    rank=rank,
                    ranks=ranks,
                    batch_size=batch_size,
                    mu=mu,
                )
                assert len(batch) == batch_size * (1 + mu)
                part = batch[:batch_size] if source == 0 else batch[batch_size:]
                drawn += [index - source * sizes[0] for index in part]
        size = sizes[source]
        for first in range(0, len(drawn) - size + 1, size):
            assert sorted(drawn[first : first + size]) == list(range(size))


def test_batches_from_a_step_are_those_of_the_whole_run():
    whole = batches(6, 10, 50, batch_size=4, mu=3)
    later = batches(2, 10, 50, batch_size=4, mu=3, step=4)
    assert later == whole[4:]


def test_another_seed_is_another_order():
    assert batches(3, 10, 50, batch_size=4, mu=3) != batches(3, 10, 50, batch_size=4, mu=3, seed=1)


def test_ranks_are_found(monkeypatch):
    monkeypatch.setattr(sampler_module, 'get_dist_info', lambda: (1, 2))
    sampler = MultiSourceBatchSampler(Source(10, 50), batch_size=4, mu=3)
    assert (sampler.rank, sampler.world_size) == (1, 2)


def test_length_is_a_pass_over_the_source_that_takes_longest():
    assert len(MultiSourceBatchSampler(Source(10, 50), batch_size=4, mu=3)) == 5
    assert len(MultiSourceBatchSampler(Source(100, 50), batch_size=4, mu=3)) == 25


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(batch_size=4, mu=0), 'mu must be an integer >= 1, got 0'),
        (dict(batch_size=4, mu=1.5), 'mu must be an integer >= 1, got 1.5'),
        (dict(batch_size=0, mu=2), 'batch_size must be an integer >= 1, got 0'),
    ],
    ids=str,
)
def test_wrong_batch_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        MultiSourceBatchSampler(Source(10, 50), **options)


def test_only_labelled_images_are_drawn_without_another_source():
    assert [len(batch) for batch in batches(2, 10, batch_size=4)] == [4, 4]
    with pytest.raises(OptionError, match='mu must be left out for a data set without'):
        batches(1, 10, batch_size=4, mu=1)


def test_data_set_of_one_source_is_refused():
    sampler = Source(10)
    sampler.dataset = DATASETS.build(DIGITS)
    with pytest.raises(OptionError, match=r'needs a data set of several sources, .*, got Digits'):
        MultiSourceBatchSampler(sampler, batch_size=4, mu=1)


@pytest.fixture
def folder(tmp_path):
    """Three classes of four images each, one of them no image at all."""
    for name in ('ants', 'bees', 'crabs'):
        (tmp_path / name).mkdir()
        for index in range(4):
            image = Image.fromarray(np.full((8, 8, 3), 50 * index, np.uint8))
            image.save(tmp_path / name / f'{index}.png')
    (tmp_path / 'bees' / '2.png').write_bytes(b'no image')
    return tmp_path


def build_folder(folder, **options):
    load = dict(type='LoadImageFromFile')
    return build(
        labelled=dict(type='CustomDataset', data_root=str(folder)),
        split=dict(num_labels=3, seed=0),
        labelled_pipeline=[load, *ONE],
        unlabelled_pipeline=[load, *TWO],
        **options,
    )


def test_unreadable_image_is_named_and_ends_the_run(folder):
    data = build_folder(folder)
    with pytest.raises(OptionError, match=r"bees/2.png' cannot be read: .*unreadable='skip'"):
        for index in range(len(data)):
            data[index]


def test_unreadable_image_is_named_counted_and_left_out(folder, capfd):
    MMLogger.get_instance('unreadable', log_level='WARNING')
    data = build_folder(folder, unreadable='skip')
    for _ in range(2):
        items = [data[index] for index in range(len(data))]
    assert len(items) == 15
    (line,) = [text for text in capfd.readouterr().out.splitlines() if 'cannot be read' in text]
    assert re.search("bees/2.png' cannot be read and is skipped: .*\\(1 skipped", line)


def test_fault_of_a_pipeline_is_not_taken_for_an_unreadable_image(folder):
    data = build_folder(folder, unreadable='skip')

    def fail(info):
        raise ValueError('a fault of its own')

    data._pipelines[0] = fail
    with pytest.raises(ValueError, match='a fault of its own'):
        data[0]


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(split=dict(num_labels=25)), 'must be a multiple of .*, 10, got 25'),
        (dict(split=dict(num_labels=500)), 'num_labels must be .*, got 500'),
        (dict(split=dict(seed=1)), 'num_labels must be an integer >= 1, got None'),
        (dict(split=dict(num_labels=20, sed=1)), "split has no option 'sed'.*Did you mean 'seed'"),
        (dict(split=20), 'split must be the path of a file or dict.*, got 20'),
        (dict(split='nowhere.json'), 'nowhere.json'),
        (
            dict(unlabelled=dict(type='Digits', indices=[])),
            'unlabelled must have at least one image',
        ),
        (dict(unlabelled=3), 'unlabelled must be the config of a data set, got 3'),
        (dict(labelled=dict(type='Digits', split='tset')), "split must be one of .*, got 'tset'"),
        (dict(labelled=dict(type='CustomDataset', data_root='nowhere')), 'cannot be built'),
        (dict(labelled=dict(**DIGITS, pipeline=ONE)), 'labelled.pipeline must be left out'),
        (
            dict(labelled_pipeline=None),
            'labelled_pipeline must give one image, got NoneType; end it with PackInputs',
        ),
        (
            dict(unlabelled_pipeline=ONE),
            'unlabelled_pipeline must give a list of views, got Tensor',
        ),
        (dict(labelled_pipeline=TWO), 'labelled_pipeline must give one image, got list'),
        (dict(unreadable='ignore'), "unreadable must be one of .*, got 'ignore'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else '',
)
def test_wrong_option_is_refused_in_one_line(options, message):
    with pytest.raises(OptionError, match=message) as error:
        build(**options)
    assert '\n' not in str(error.value)


def test_class_without_a_labelled_image_is_named(folder):
    shutil.rmtree(folder / 'crabs')
    (folder / 'crabs').mkdir()
    with pytest.raises(OptionError, match="of every class, got none of 'crabs'"):
        build(
            labelled=dict(type='CustomDataset', data_root=str(folder)),
            split=None,
            labelled_pipeline=[dict(type='LoadImageFromFile'), *ONE],
        )


def test_images_of_several_sizes_are_refused():
    samples = [{'inputs': torch.zeros(3, s, s), 'data_samples': {'gt_label': 0}} for s in (4, 8)]
    with pytest.raises(RuntimeError, match=r'equal size, but got \[3, 4, 4\] .* \[3, 8, 8\]'):
        collate_views(samples)


def unlabelled_folder(root, *names):
    """A folder with two images in each of some subfolders."""
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(2):
            Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(root / name / f'{index}.png')
    return dict(type='ImageFolder', data_root=str(root))


def truths(data):
    start, end = data.source_sizes[0], len(data)
    return collate_views([data[i] for i in range(end)])['data_samples']['truth'].tolist()[
        : end - start
    ]


@pytest.mark.parametrize(
    'names, expected',
    [
        (('ants', 'bees', 'crabs'), [0, 0, 1, 1, 2, 2]),
        (('bees', 'crabs'), [1, 1, 2, 2]),
        (('aardvarks', 'crabs', 'wasps'), [-1, -1, 2, 2, -1, -1]),
        (('cam_1', 'cam_2', 'cam_3'), [-1] * 6),
    ],
)
def test_truth_is_known_only_where_the_names_of_classes_are_the_same(
    folder, tmp_path, names, expected, capfd
):
    MMLogger.get_instance(f'truth {names}', log_level='WARNING')
    (folder / 'bees/2.png').unlink()
    labelled = dict(type='CustomDataset', data_root=str(folder))
    load = dict(type='LoadImageFromFile')
    data = build(
        labelled=labelled,
        split=None,
        unlabelled=unlabelled_folder(tmp_path.parent / f'{tmp_path.name}-free', *names),
        labelled_pipeline=[load, *ONE],
        unlabelled_pipeline=[load, *TWO],
    )
    assert truths(data) == expected
    strange = [name for name in names if name not in ('ants', 'bees', 'crabs')]
    said = f'unlabelled has {len(strange)} classes that labelled does not have'
    assert (said in capfd.readouterr().out) == bool(strange)


def test_labelled_images_are_all_read_first(folder, capfd):
    MMLogger.get_instance('labelled first', log_level='WARNING')
    labelled = dict(type='CustomDataset', data_root=str(folder))
    load = dict(type='LoadImageFromFile')
    pipelines = dict(labelled_pipeline=[load, *ONE], unlabelled_pipeline=[load, *TWO])
    with pytest.raises(OptionError, match=r"bees/2.png' cannot be read: .*damaged"):
        build(labelled=labelled, split=None, **pipelines)
    data = build(labelled=labelled, split=None, unreadable='skip', **pipelines)
    assert data.source_sizes == [11, 12]
    assert "bees/2.png' cannot be read and is skipped" in capfd.readouterr().out
    labels = [int(data[i]['data_samples'].gt_label) for i in range(11)]
    assert labels == [0] * 4 + [1] * 3 + [2] * 4


def test_class_of_which_no_image_can_be_read_is_an_error(folder):
    for path in (folder / 'bees').iterdir():
        path.write_bytes(b'')
    load = dict(type='LoadImageFromFile')
    with pytest.raises(
        OptionError,
        match=r"without unreadable images must have .*, got none of 'bees'",
    ):
        build(
            labelled=dict(type='ImageFolder', data_root=str(folder)),
            split=None,
            unreadable='skip',
            labelled_pipeline=[load, *ONE],
            unlabelled_pipeline=[load, *TWO],
        )


def test_one_class_is_refused(folder):
    for name in ('bees', 'crabs'):
        shutil.rmtree(folder / name)
    with pytest.raises(
        OptionError, match=r"labelled must have at least two classes, got \('ants',\)"
    ):
        build(labelled=dict(type='ImageFolder', data_root=str(folder)), split=None)


def test_several_labels_for_an_image_are_refused(tmp_path):
    content = {
        'metainfo': {'classes': ['a', 'b']},
        'data_list': [
            {'img_path': 'x.png', 'gt_label': [0, 1]},
            {'img_path': 'y.png', 'gt_label': [1]},
        ],
    }
    (tmp_path / 'labels.json').write_text(json.dumps(content))
    labelled = dict(type='MultiLabelDataset', data_root=str(tmp_path), ann_file='labels.json')
    with pytest.raises(OptionError, match='labelled must have one label for each image'):
        build(labelled=labelled, split=None)
