# SPDX-License-Identifier: Apache-2.0
"""Classes are compared where they meet, and names are listed."""

import numpy as np
import pytest

from se_mm.datasets.class_checks import (
    check_labels,
    check_metrics,
    check_outputs,
    check_same_classes,
    classes_of,
)
from se_mm.smoothing import OptionError


def data(**metainfo):
    return type('Data', (), {'metainfo': metainfo})()


@pytest.mark.parametrize(
    'dataset, message',
    [
        (data(), r'x must have at least two classes, got \(\) of a Data; set its metainfo=dict'),
        (data(classes=()), r'x must have at least two classes, got \(\) of a Data'),
        (object(), r'x must have at least two classes, got \(\) of a object'),
        (data(classes='washer'), r"two classes, got 'washer' of a Data; .*\(classes=\[...\]\)"),
        (data(classes=('washer',)), r"x must have at least two classes, got \('washer',\) of a"),
    ],
)
def test_fewer_than_two_classes_are_refused(dataset, message):
    with pytest.raises(OptionError, match=message):
        classes_of('x', dataset)
    assert classes_of('x', data(classes=['a', 'b'])) == ('a', 'b')


@pytest.mark.parametrize(
    'classes, message',
    [
        ('ac', r'must be those of train \(a, b, c\), got a, c: without b'),
        ('abcd', 'got a, b, c, d: with d$'),
        ('abd', 'without c and with d$'),
        ('acb', 'got a, c, b: in another order'),
    ],
)
def test_difference_of_classes_is_spelled_out(classes, message):
    with pytest.raises(OptionError, match=message):
        check_same_classes('val', tuple(classes), 'train', tuple('abc'))
    check_same_classes('val', ['a', 'b'], 'train', ('a', 'b'))


def test_labels_out_of_range_are_named():
    check_labels('val', np.array([0, 2, 1]), 3)
    for labels in ([0, 3, 1, 9], [0, -1, 1, 9]):
        with pytest.raises(
            OptionError, match=r'of val must be in 0 to 2, got .* image 1 and 1 more'
        ):
            check_labels('val', np.array(labels), 3)


def test_head_and_data_have_as_many_classes():
    check_outputs('model.head.num_classes', 3, 'abc', 'val')
    check_outputs('model.head.num_classes', None, 'abc', 'val')
    message = r'model.head.num_classes must be 2, .* of val \(a, b\), got 3'
    with pytest.raises(OptionError, match=message):
        check_outputs('model.head.num_classes', 3, 'ab', 'val')


def test_top_k_of_more_classes_than_there_are_is_refused():
    metric = type('Accuracy', (), {'topk': (1, 5)})()
    check_metrics('val_evaluator', [metric, object()], 5)
    with pytest.raises(OptionError, match=r'most the number of classes, 3, got 5; set .*=\(1,\)'):
        check_metrics('val_evaluator', [metric], 3)
