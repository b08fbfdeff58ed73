# SPDX-License-Identifier: Apache-2.0
"""Our loops measure every image once, whatever the number of processes, or refuse to."""

from types import SimpleNamespace

import pytest
import torch.utils.data as torch_data
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import DataLoader

import se_mm  # noqa: F401  (registers what the configs name)
from se_mm.evaluation import ProbeLoop, TeacherStudentLoop, evaluation_loop
from se_mm.home import config_names, find_config
from se_mm.smoothing import OptionError

IMAGES = list(range(10))
SMALL = sorted(
    path
    for path in map(find_config, config_names(studies=False))
    if 'r50' not in path.stem and Config.fromfile(path).get('test_dataloader')
)


@pytest.mark.parametrize('path', SMALL, ids=lambda path: path.stem)
def test_shipped_config_divides_its_test_images_among_processes(path):
    cfg = Config.fromfile(path)
    for loader in (cfg.test_dataloader, cfg.val_dataloader, cfg.test_cfg.get('bank')):
        if loader is not None:
            assert loader.sampler == dict(type='DefaultSampler', shuffle=False)
            assert loader.batch_size >= 1
    # A config may have images for validation of its own, read as the test images are.
    for test, val in (
        (cfg.test_dataloader, cfg.val_dataloader),
        (cfg.test_evaluator, cfg.val_evaluator),
    ):
        assert without_files(test) == without_files(val)


def without_files(part):
    if isinstance(part, list):
        return [without_files(item) for item in part]
    if isinstance(part, dict):
        return {key: without_files(value) for key, value in part.items() if key != 'ann_file'}
    return part


def check(monkeypatch, ranks, **options):
    monkeypatch.setattr(evaluation_loop, 'get_world_size', lambda: ranks)
    evaluation_loop._check_sampler('test_dataloader', DataLoader(IMAGES, **options))


@pytest.mark.parametrize(
    'sampler',
    [
        torch_data.SequentialSampler(IMAGES),
        torch_data.RandomSampler(IMAGES),
        torch_data.SubsetRandomSampler(IMAGES[:3]),
        torch_data.WeightedRandomSampler([1.0] * 10, 10),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_several_processes_need_a_sampler_that_divides(monkeypatch, sampler):
    check(monkeypatch, 1, sampler=sampler)
    for options in (
        dict(sampler=sampler),
        dict(batch_sampler=torch_data.BatchSampler(sampler, 4, False)),
    ):
        with pytest.raises(OptionError, match=r'divide the images among 2 processes, got \w+; use'):
            check(monkeypatch, 2, **options)


def test_samplers_that_divide_pass(monkeypatch):
    check(monkeypatch, 2, sampler=DefaultSampler(IMAGES, shuffle=False, seed=0))
    distributed = torch_data.DistributedSampler(IMAGES, num_replicas=2, rank=0)
    check(monkeypatch, 2, sampler=distributed)


def test_loader_without_an_end_or_without_the_last_images_is_refused(monkeypatch):
    with pytest.raises(OptionError, match='must end after all images, got InfiniteSampler'):
        check(monkeypatch, 1, sampler=InfiniteSampler(IMAGES, seed=0))
    with pytest.raises(OptionError, match='drop_last must be False'):
        check(monkeypatch, 1, batch_size=4, drop_last=True)


class Labelled(list):
    """Labels as a data set, with the names of its classes."""

    def __init__(self, classes, labels):
        super().__init__(labels)
        self.metainfo = {'classes': tuple(classes)}

    def get_gt_labels(self):
        return list(self)


def probing(bank, evaluated, topk=1):
    return SimpleNamespace(
        _stage='val',
        bank=SimpleNamespace(dataset=bank),
        dataloader=SimpleNamespace(dataset=evaluated),
        evaluator=SimpleNamespace(metrics=[SimpleNamespace(topk=(1, topk))]),
    )


GOOD = Labelled('abc', [0, 1, 2])


@pytest.mark.parametrize(
    'loop, message',
    [
        (
            probing(Labelled('abd', [0]), GOOD),
            'bank.dataset must be those of val_',
        ),
        (probing(Labelled('acb', [0]), GOOD), 'got a, c, b: in another order'),
        (probing(Labelled('abc', [3]), GOOD), 'labels of bank.dataset must be in 0 to 2, got 3'),
        (probing(GOOD, Labelled('abc', [-1])), r'labels of val_dataloader.dataset .*, got -1'),
        (probing(Labelled('a', [0]), Labelled('a', [0])), 'at least two classes, got'),
        (probing(GOOD, GOOD, topk=5), r'val_evaluator.topk must be .* 3, got 5'),
    ],
)
def test_bank_and_evaluation_of_a_probe_have_the_same_classes(loop, message):
    ProbeLoop._check_classes(probing(GOOD, Labelled(['a', 'b', 'c'], [2])))
    ProbeLoop._check_classes(probing([], GOOD))  # Without names there is nothing to compare.
    with pytest.raises(OptionError, match=message):
        ProbeLoop._check_classes(loop)


@pytest.mark.parametrize(
    'classes, labels, trained, message',
    [
        ('abc', [0, 3], None, 'labels of test_dataloader.dataset must be in 0 to 2, got 3'),
        ('abc', [0], 'ab', r'must be those of train_dataloader.dataset \(a, b\).*with c$'),
        ('a', [0], None, 'at least two classes'),
        ('', [0], None, 'at least two classes, got'),
    ],
)
def test_classes_of_an_evaluation_are_those_of_the_training(classes, labels, trained, message):
    training = SimpleNamespace(dataset=Labelled(trained, [])) if trained else None
    loop = SimpleNamespace(
        _key='test_dataloader',
        dataloader=SimpleNamespace(dataset=Labelled(classes, labels)),
        runner=SimpleNamespace(_train_loop=SimpleNamespace(dataloader=training)),
    )
    with pytest.raises(OptionError, match=message):
        TeacherStudentLoop._check_classes(loop)
