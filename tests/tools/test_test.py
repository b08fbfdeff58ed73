# SPDX-License-Identifier: Apache-2.0
"""tools/test.py: what it measures is what training measured, and how it ends."""

import json
import pickle
import re

import pytest
import torch

import se_mm  # noqa: F401 -- lets PyTorch read MMEngine's checkpoints

CHECKPOINT = 'work_dirs/digits_config/iter_4.pth'


def top1(output):
    """The last accuracy that was logged."""
    return float(re.findall(r'accuracy/top1: ([\d.]+)', output)[-1])


def test_metrics_of_a_checkpoint_are_those_of_the_validation_during_training(trained):
    output = trained.succeed('test.py', trained.config, CHECKPOINT, '--out', 'predictions.pkl')
    assert top1(output) == top1(trained.output)
    with open(trained.folder / 'predictions.pkl', 'rb') as file:
        predictions = pickle.load(file)
    assert len(predictions) == 48
    right = sum(int(p['pred_label']) == int(p['gt_label']) for p in predictions)
    assert right / 48 == pytest.approx(top1(output) / 100, abs=1e-6)


def test_two_ranks_measure_what_one_does(trained, port):
    options = ['--out', 'metrics.json', '--out-item', 'metrics']
    trained.succeed('dist_test.sh', trained.config, CHECKPOINT, 2, *options, PORT=port)
    metrics = json.loads((trained.folder / 'metrics.json').read_text())
    assert metrics['accuracy/top1'] == pytest.approx(top1(trained.output), abs=1e-3)


def test_tta_runs_what_the_config_says(trained):
    (trained.folder / 'tta.py').write_text(
        f'_base_ = {trained.config!r}\n'
        "tta_model = dict(type='AverageClsScoreTTA')\n"
        "views = [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)]\n"
        "tta_pipeline = [dict(type='TestTimeAug', transforms=[views, [dict(type='PackInputs')]])]\n"
    )
    options = ['--tta', '--work-dir', 'tta', '--out', 'tta.pkl']
    trained.succeed('test.py', 'tta.py', CHECKPOINT, *options)
    with open(trained.folder / 'tta.pkl', 'rb') as file:
        scores = [prediction['pred_score'] for prediction in pickle.load(file)]
    assert len(scores) == 48
    assert all(float(score.sum()) == pytest.approx(1, abs=1e-4) for score in scores)


def test_checkpoint_that_does_not_exist_is_one_line(trained):
    said = trained.fail('test.py', trained.config, 'work_dirs/digits_config/iter_5.pth')
    assert said.startswith("error: checkpoint file 'work_dirs/digits_config/iter_5.pth' does not")
    assert 'Did you mean' in said


def test_checkpoint_of_another_model_is_one_line_unless_it_is_not_checked(trained):
    options = ['--cfg-options', 'model.backbone.base_channels=4', 'model.head.in_channels=8']
    arguments = ['test.py', trained.config, CHECKPOINT, *options]
    said = trained.fail(*arguments)
    assert f'checkpoint {CHECKPOINT!r} must have the parameters of ImageClassifier' in said
    assert "got one without 3 of 35 parameters, such as 'backbone.layer1.0.downsample" in said
    trained.succeed(*arguments, '--no-check')


def test_checkpoint_of_other_classes_is_one_line(trained):
    checkpoint = torch.load(trained.folder / CHECKPOINT)
    checkpoint['meta']['dataset_meta'] = {'classes': tuple('abcdefghij')}
    torch.save(checkpoint, trained.folder / 'letters.pth')
    said = trained.fail('test.py', trained.config, 'letters.pth')
    assert "classes of test_dataloader.dataset must be those of checkpoint 'letters.pth'" in said
    trained.succeed('test.py', trained.config, 'letters.pth', '--no-check')
