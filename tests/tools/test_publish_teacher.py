# SPDX-License-Identifier: Apache-2.0
"""tools/publish_teacher.py, from a run of the training tool to a run of the test tool."""

import torch

CHECKPOINT = 'work_dirs/digits_config/iter_4.pth'


def test_teacher_and_student_of_a_run_are_published_and_tested(trained):
    files = {}
    for weights in ('teacher', 'student'):
        files[weights] = f'published/{weights}.pth'
        output = trained.succeed(
            'publish_teacher.py', CHECKPOINT, files[weights], '--weights', weights
        )
        assert f'{files[weights]}: the {weights}' in output
        output = trained.succeed('test.py', trained.config, files[weights])
        assert 'accuracy/top1' in output
    states = [torch.load(trained.folder / file)['state_dict'] for file in files.values()]
    assert list(states[0]) == list(states[1])
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_statistics_are_recomputed_as_at_the_end_of_a_run_that_recalibrates(trained):
    options = ('custom_hooks.0.buffers=recalibrate', 'custom_hooks.0.recalibrate_batches=3')
    trained.succeed('train.py', trained.config, '--work-dir', 'own', '--cfg-options', *options)
    words = ('--weights', 'teacher', '--recalibrate', trained.config, '--batches', 3)
    trained.succeed('publish_teacher.py', 'own/iter_4.pth', 'p/own.pth', *words[:2])
    trained.succeed('publish_teacher.py', CHECKPOINT, 'p/recalibrated.pth', *words)
    trained.succeed('publish_teacher.py', CHECKPOINT, 'p/copied.pth', *words[:2])
    own, recalibrated, copied = (
        torch.load(trained.folder / f'p/{name}.pth')['state_dict']
        for name in ('own', 'recalibrated', 'copied')
    )
    assert all(torch.equal(own[name], recalibrated[name]) for name in own)
    differ = [name for name in own if not torch.equal(recalibrated[name], copied[name])]
    assert differ == [name for name in own if name.endswith(('running_mean', 'running_var'))]


def test_statistics_are_recomputed_for_a_teacher_and_with_its_own_config(trained):
    words = ('publish_teacher.py', CHECKPOINT, 'new/x.pth', '--recalibrate')
    line = trained.fail(*words, trained.config, '--weights', 'student')
    assert "recalibrate needs weights='teacher', got 'student'" in line
    line = trained.fail(*words, trained.config, '--weights', 'teacher', '--batches', 0)
    assert 'batches must be an integer >= 1, got 0' in line
    line = trained.fail(*words, 'supervised_shadows_conv6_1xb64_cifar10.py', '--weights', 'teacher')
    assert f'checkpoint {CHECKPOINT!r} must have the parameters of ImageClassifier' in line
    assert 'use the config that it was trained with' in line
    assert not (trained.folder / 'new').exists()


def test_what_is_wrong_is_one_line_and_nothing_is_written(trained):
    words = ('publish_teacher.py', CHECKPOINT)
    line = trained.fail(*words, 'new/x.pth', '--weights', 'teacher', '--prefix', 'bakbone')
    assert (
        "prefix='bakbone' must be a part of the network" in line
        and "Did you mean 'backbone'" in line
    )
    assert not (trained.folder / 'new').exists()
    line = trained.fail('publish_teacher.py', CHECKPOINT[:-1], 'x.pth', '--weights', 'student')
    assert 'does not exist' in line and 'iter_4.pth' in line
    line = trained.fail(*words, CHECKPOINT, '--weights', 'teacher', '--overwrite')
    assert 'must not be the checkpoint itself' in line
