# SPDX-License-Identifier: Apache-2.0
"""What is published is the teacher or the student of a real run, and plain models load it."""

import hashlib
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from se_mm.checkpoints.read import read_checkpoint
from se_mm.checkpoints.teacher_and_student import teacher_and_student
from se_mm.smoothing import OptionError

STS = dict(type='SETMAHook', keep_prob=0.5, momentum=0.1)
KINDS = ('byol', 'pair', 'classifier', 'ema_hook')
TOOL = runpy.run_path(str(Path(__file__).parents[2] / 'tools/publish_teacher.py'))


def publish(source, out, weights, *options):
    """Publish as tools/publish_teacher.py does."""
    words = (source, out, '--weights', weights, *options)
    return TOOL['publish'](TOOL['parse_args']([str(word) for word in words]))


@pytest.fixture(params=KINDS)
def run(request, runs):
    """A run with a teacher of each kind: its checkpoint, and the two as they are in memory."""
    kind = request.param
    if kind == 'byol':
        runner = runs.byol(STS)
        student, teacher = runner.model, runner.model.target_net.module[0]
        prefix = 'backbone'
    elif kind == 'pair':
        runner = runs.pair(STS)
        student, teacher, prefix = runner.model.student, runner.model.teacher, None
    else:
        hook = STS if kind == 'classifier' else dict(type='EMAHook', momentum=0.1)
        runner = runs.classifier(hook)
        (ours,) = [h for h in runner.hooks if hasattr(h, 'updater') or hasattr(h, 'ema_model')]
        teacher = ours.updater.teacher.module if hasattr(ours, 'updater') else ours.ema_model.module
        student, prefix = runner.model, None
    path = Path(runner.work_dir) / 'iter_6.pth'
    return path, {'student': student, 'teacher': teacher}, prefix


@pytest.mark.parametrize('weights', ['teacher', 'student'])
def test_published_weights_are_those_of_the_run(run, weights, tmp_path):
    path, models, prefix = run
    prefixes = ['--prefix', prefix] if prefix and weights == 'teacher' else []
    publish(path, tmp_path / 'new/out.pth', weights, *prefixes)
    published = torch.load(tmp_path / 'new/out.pth', weights_only=True)
    expected = models[weights].state_dict()
    if prefixes:
        expected = {f'{prefix}.{name}': value for name, value in expected.items()}
    expected = {k: v for k, v in expected.items() if not k.startswith('target_net')}
    assert list(published['state_dict']) == list(expected)
    assert all(torch.equal(published['state_dict'][k], v) for k, v in expected.items())
    record = published['meta']['se_mm']
    assert record['sha256'] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (record['checkpoint'], record['weights']) == (path.name, weights)
    assert published['meta']['iter'] == 6
    assert set(published) == {'state_dict', 'meta'}


def test_teacher_differs_from_the_student(run):
    path, _, _ = run
    found = teacher_and_student(read_checkpoint(path))
    assert set(found.teacher) <= set(found.student)
    assert any(not torch.equal(v, found.student[k]) for k, v in found.teacher.items())


def test_record_and_names_of_a_checkpoint_lead_to_the_same_teacher(run):
    path, _, _ = run
    checkpoint = read_checkpoint(path)
    found = teacher_and_student(checkpoint)
    checkpoint.pop('se_mm', None)  # As a stock run saves it.
    again = teacher_and_student(checkpoint)
    assert again.kind == found.kind
    for who in ('teacher', 'student'):
        left, right = getattr(found, who), getattr(again, who)
        assert list(left) == list(right)
        assert all(torch.equal(left[name], right[name]) for name in left)


def test_pair_loads_into_the_plain_classifier_with_nothing_missing(runs, tmp_path):
    runner = runs.pair(STS)
    publish(f'{runner.work_dir}/iter_6.pth', tmp_path / 'out.pth', 'teacher')
    init_default_scope('mmpretrain')
    plain = MODELS.build(Config(runner.cfg.model.to_dict()).classifier)
    plain.load_state_dict(torch.load(tmp_path / 'out.pth')['state_dict'], strict=True)


def test_backbone_is_taken_by_init_cfg(runs, tmp_path):
    runner = runs.byol(STS)
    publish(
        f'{runner.work_dir}/iter_6.pth', tmp_path / 'out.pth', 'teacher', '--prefix', 'backbone'
    )
    cfg = runner.cfg.model.backbone.to_dict()
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'out.pth'), prefix='backbone.')
    backbone = MODELS.build(dict(cfg, init_cfg=pretrained))
    backbone.init_weights()
    expected = runner.model.target_net.module[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in backbone.state_dict().items())


def test_file_has_only_what_was_asked_for(runs, tmp_path):
    runner = runs.byol(STS)
    words = ('student', '--prefix', 'backbone', 'neck')
    publish(f'{runner.work_dir}/iter_6.pth', tmp_path / 'out.pth', *words)
    state = torch.load(tmp_path / 'out.pth')['state_dict']
    assert {name.split('.')[0] for name in state} == {'backbone', 'neck'}
    size = sum(value.numel() * value.element_size() for value in state.values())
    assert (tmp_path / 'out.pth').stat().st_size < 2 * size + 50_000


def refused(tmp_path, message, *args, **kwargs):
    with pytest.raises(OptionError, match=message) as error:
        publish(*args, **kwargs)
    assert '\n' not in str(error.value)
    assert [path.name for path in tmp_path.iterdir() if 'out' in path.name] == []


def test_what_is_not_there_is_refused(runs, tmp_path):
    out = tmp_path / 'out.pth'
    plain = runs.classifier()
    path = f'{plain.work_dir}/iter_6.pth'
    refused(
        tmp_path,
        "weights='teacher' needs a teacher, .* has only one model, with backbone, head",
        path,
        out,
        'teacher',
    )
    refused(
        tmp_path,
        "'bakbone' must be a part of .* Did you mean 'backbone'",
        path,
        out,
        'student',
        '--prefix',
        'bakbone',
    )
    refused(tmp_path, r"does not exist.*Did you mean '.*iter_6.pth'", path[:-1], out, 'student')


def test_nothing_is_overwritten_unless_asked_for(runs, tmp_path):
    path = Path(runs.classifier().work_dir) / 'iter_6.pth'
    before = path.read_bytes()
    with pytest.raises(OptionError, match='must not be the checkpoint itself'):
        publish(path, path, 'student', '--overwrite')
    taken = tmp_path / 'taken.pth'
    taken.write_bytes(b'mine')
    with pytest.raises(OptionError, match='exists; choose another name'):
        publish(path, taken, 'student')
    assert (path.read_bytes(), taken.read_bytes()) == (before, b'mine')
    publish(path, taken, 'student', '--overwrite')
    assert torch.load(taken)['meta']['se_mm']['weights'] == 'student'


class Foreign:
    """What a checkpoint must not hold: something that runs when it is read."""

    def __reduce__(self):
        return (Path('ran').touch, ())


def test_foreign_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'state_dict': {}, 'extra': Foreign()}, 'foreign.pth')
    refused(
        tmp_path, 'contains .*, which is not loaded by default', 'foreign.pth', 'out.pth', 'student'
    )
    assert not Path('ran').exists()


def test_broken_files_are_named(runs, tmp_path):
    path = Path(runs.classifier().work_dir) / 'iter_6.pth'
    (tmp_path / 'half.pth').write_bytes(path.read_bytes()[:2000])
    out = tmp_path / 'out.pth'
    refused(
        tmp_path,
        "checkpoint '.*half.pth' is damaged",
        tmp_path / 'half.pth',
        out,
        'student',
    )
    torch.save({'weights': 1}, tmp_path / 'other.pth')
    refused(tmp_path, 'must have a state_dict', tmp_path / 'other.pth', out, 'student')
