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


def test_what_is_wrong_is_one_line_and_nothing_is_written(trained):
    words = ('publish_teacher.py', CHECKPOINT)
    line = trained.fail(*words, 'new/x.pth', '--weights', 'teacher', '--prefix', 'bakbone')
    assert (
        "prefix='bakbone' must be a part of the teacher" in line
        and "Did you mean 'backbone'" in line
    )
    assert not (trained.folder / 'new').exists()
    line = trained.fail('publish_teacher.py', CHECKPOINT[:-1], 'x.pth', '--weights', 'student')
    assert 'does not exist' in line and 'iter_4.pth' in line
    line = trained.fail(*words, CHECKPOINT, '--weights', 'teacher', '--overwrite')
    assert 'must not be the checkpoint itself' in line
