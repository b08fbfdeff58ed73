# SPDX-License-Identifier: Apache-2.0
"""Probes against scikit-learn, and what they refuse."""

import numpy as np
import pytest
import torch
from mmengine.registry import TASK_UTILS

from se_mm.evaluation import KNNProbe, LinearProbe
from se_mm.smoothing.options import OptionError

TEMPERATURE = 0.07


@pytest.fixture(scope='module')
def data():
    """Features of 5 overlapping classes: bank, its labels, queries."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (300,), generator=generator)
    centres = torch.randn(5, 16, generator=generator)
    features = centres[labels] + 1.5 * torch.randn(300, 16, generator=generator)
    return features[:200], labels[:200], features[200:]


def knn_of_sklearn(features, labels, queries, k):
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(
        k, metric='cosine', weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
    )
    return classifier.fit(features.numpy(), labels.numpy()).predict_proba(queries.numpy())


@pytest.mark.parametrize('k', [1, 20, 200])
def test_knn_scores_are_those_of_sklearn_with_the_same_weights(data, k):
    features, labels, queries = data
    probe = KNNProbe(k=k, temperature=TEMPERATURE)
    probe.fit(features, labels)

    expected = knn_of_sklearn(features, labels, queries, k)
    np.testing.assert_allclose(probe.scores(queries).numpy(), expected, atol=1e-5)


def test_knn_with_the_lowest_of_temperatures_follows_the_nearest_neighbour(data):
    features, labels, queries = data
    probe, nearest = KNNProbe(k=20, temperature=1e-6), KNNProbe(k=1)
    probe.fit(features, labels)
    nearest.fit(features, labels)

    assert torch.isfinite(probe.scores(queries)).all()
    assert torch.equal(probe.scores(queries).argmax(1), nearest.scores(queries).argmax(1))


def test_linear_probe_is_logistic_regression_on_standardised_features(data):
    from sklearn.linear_model import LogisticRegression

    features, labels, queries = data
    probe = LinearProbe(C=0.1)
    probe.fit(features, labels)

    mean, std = features.mean(0), features.std(0, correction=0)
    model = LogisticRegression(C=0.1, max_iter=200).fit(((features - mean) / std), labels)
    expected = model.predict_proba((queries - mean) / std)
    np.testing.assert_allclose(probe.scores(queries).numpy(), expected, atol=2e-3)


@pytest.mark.parametrize('probe', [KNNProbe(k=5), LinearProbe()], ids=lambda probe: probe.name)
def test_scores_have_a_column_for_each_label_up_to_the_largest(data, probe):
    features, labels, queries = data
    probe.fit(features, labels * 2)  # 0, 2, 4, 6, 8

    scores = probe.scores(queries)
    assert scores.shape == (100, 9) and scores.dtype == torch.float32
    assert not scores[:, 1::2].any()
    torch.testing.assert_close(scores.sum(1), torch.ones(100))


def test_linear_probe_stopped_by_its_budget_says_nothing(data, recwarn):
    features, labels, queries = data
    probe = LinearProbe(max_iter=1)
    probe.fit(features, labels)
    assert not recwarn and probe.scores(queries).shape == (100, 5)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='KNNProbe', k=0), r'k must be .*got 0'),
        (dict(type='KNNProbe', k=2.5), r'k must be .*got 2.5'),
        (dict(type='KNNProbe', temperature=0), r'temperature must be .*got 0'),
        (dict(type='KNNProbe', temperature='cold'), r"temperature must be .*got 'cold'"),
        (dict(type='LinearProbe', C=-1), r'C must be .*got -1'),
        (dict(type='LinearProbe', max_iter=0), r'max_iter must be .*got 0'),
    ],
)
def test_an_option_out_of_range_is_named(config, message):
    with pytest.raises(OptionError, match=message):
        TASK_UTILS.build(config)


def test_knn_refuses_a_bank_smaller_than_k(data):
    features, labels, _ = data
    with pytest.raises(OptionError, match=r'k must be at most 200, .*, got 201'):
        KNNProbe(k=201).fit(features, labels)


def test_linear_probe_refuses_a_bank_of_one_class(data):
    features, labels, _ = data
    with pytest.raises(ValueError, match='at least 2 classes'):  # scikit-learn's
        LinearProbe().fit(features, torch.zeros_like(labels))
