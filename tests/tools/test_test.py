# SPDX-License-Identifier: Apache-2.0
"""tools/test.py: what it measures is what training measured, and how it ends."""

import json
import pickle
import re

import pytest

CHECKPOINT = 'work_dirs/digits_config/iter_4.pth'


def top1(output):
    """The last accuracy that was logged."""
    return float(re.findall(r'accuracy/top1: ([\d.]+)', output)[-1])


@pytest.mark.parametrize('ranks', [None, 2])
def test_metrics_of_a_checkpoint_are_those_of_the_validation_during_training(trained, port, ranks):
    args = [trained.config, CHECKPOINT]
    options = ['--out', 'metrics.json', '--out-item', 'metrics']
    if ranks is None:
        output = trained.succeed('test.py', *args, *options)
    else:
        output = trained.succeed('dist_test.sh', *args, ranks, *options, PORT=port)
    assert top1(output) == top1(trained.output)
    metrics = json.loads((trained.folder / 'metrics.json').read_text())
    assert metrics['accuracy/top1'] == pytest.approx(top1(output), abs=1e-3)


def test_predictions_are_written_for_each_image(trained):
    trained.succeed('test.py', trained.config, CHECKPOINT, '--out', 'predictions.pkl')
    with open(trained.folder / 'predictions.pkl', 'rb') as file:
        predictions = pickle.load(file)
    assert len(predictions) == 48
    assert predictions[0]['pred_score'].shape == (10,)


@pytest.mark.parametrize(
    'args, said',
    [
        (['iter_5.pth'], "checkpoint='iter_5.pth' does not exist"),
        ([CHECKPOINT, '--out', 'metrics.json'], "--out='metrics.json' is not allowed"),
        ([CHECKPOINT, '--tta'], '--tta needs tta_model and tta_pipeline'),
    ],
)
def test_wrong_argument_is_one_line(trained, args, said):
    assert said in trained.fail('test.py', trained.config, *args)


def test_tta_runs_what_the_config_says(trained):
    (trained.folder / 'tta.py').write_text(
        f'_base_ = {trained.config!r}\n'
        "tta_model = dict(type='AverageClsScoreTTA')\n"
        'views = [[dict(type="RandomFlip", prob=p)] for p in (0.0, 1.0)]\n'
        "tta_pipeline = [dict(type='TestTimeAug', transforms=[*zip(*views), [dict(type='PackInputs')]])]\n"
    )
    output = trained.succeed('test.py', 'tta.py', CHECKPOINT, '--tta', '--work-dir', 'tta')
    assert 0 <= top1(output) <= 100
