# SPDX-License-Identifier: Apache-2.0
"""One training step of each method against its equations, written out in plain PyTorch."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope

from se_mm.models import semi_supervised
from se_mm.smoothing import OptionError

pytest.importorskip('mmpretrain')

CLASSES = 4
CLASSIFIER = dict(
    type='ImageClassifier',
    backbone=dict(type='ConvNet', channels=(6, 8), strides=(2, 2)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=8),
)


def build(**cfg):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(dict(classifier=copy.deepcopy(CLASSIFIER), **cfg))
    # Another teacher than the student, and logits far enough apart for some to be confident.
    with torch.no_grad():
        for network in (model.student, model.teacher):
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
            network.head.fc.weight.mul_(4)
        for module in model.teacher.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model.train()


def batch(views=2):
    generator = torch.Generator().manual_seed(1)
    images = lambda n: torch.randn(n, 3, 8, 8, generator=generator)  # noqa: E731
    inputs = {'labelled': images(5), 'views': [images(7) for _ in range(views)]}
    labels = {
        'labels': torch.tensor([0, 1, 2, 3, 1]),
        'truth': torch.tensor([0, 1, 2, 3, -1, 2, 1]),
    }
    return inputs, labels


def logits_of(network, images, training):
    """The network written out, with batch norm over this one batch or by its running values."""
    for conv, norm, _ in network.backbone.layers:
        images = F.conv2d(images, conv.weight, stride=conv.stride, padding=1)
        images = F.batch_norm(
            images,
            None if training else norm.running_mean,
            None if training else norm.running_var,
            norm.weight,
            norm.bias,
            training=training,
        )
        images = images.clamp_min(0)
    return images.mean(dim=(2, 3)) @ network.head.fc.weight.T + network.head.fc.bias


def student_logits(model, *images):
    return logits_of(model.student, torch.cat(images), True).split([len(part) for part in images])


def teacher_probabilities(model, images):
    return logits_of(model.teacher, images, False).softmax(1).detach()


def fixmatch(model, inputs, labels, threshold):
    weak, strong = inputs['views']
    labelled, learnt = student_logits(model, inputs['labelled'], strong)
    confidence, guess = teacher_probabilities(model, weak).max(1)
    terms = [
        -learnt[i].log_softmax(0)[guess[i]] if confidence[i] >= threshold else 0 * learnt[i].sum()
        for i in range(len(weak))
    ]
    return F.cross_entropy(labelled, labels), sum(terms) / len(weak)


def fixmatch_by_student(model, inputs, labels, threshold):
    weak, strong = inputs['views']
    labelled, seen, learnt = student_logits(model, inputs['labelled'], weak, strong)
    confidence, guess = seen.detach().softmax(1).max(1)
    terms = F.cross_entropy(learnt, guess, reduction='none') * (confidence >= threshold)
    return F.cross_entropy(labelled, labels), terms.mean()


def mean_teacher(model, inputs, labels, weight):
    first, second = inputs['views']
    labelled, learnt = student_logits(model, inputs['labelled'], second)
    distance = (learnt.softmax(1) - teacher_probabilities(model, first)) ** 2
    return F.cross_entropy(labelled, labels), weight * distance.mean()


def pseudo_label(model, inputs, labels, threshold):
    (weak,) = inputs['views']
    labelled, learnt = student_logits(model, inputs['labelled'], weak)
    confidence, guess = learnt.detach().softmax(1).max(1)
    terms = F.cross_entropy(learnt, guess, reduction='none') * (confidence >= threshold)
    return F.cross_entropy(labelled, labels), terms.mean()


def sharpened(model, inputs, labels, temperature):
    weak, strong = inputs['views']
    labelled, learnt = student_logits(model, inputs['labelled'], strong)
    powers = teacher_probabilities(model, weak) ** (1 / temperature)
    targets = powers / powers.sum(1, keepdim=True)
    terms = -(targets * learnt.log_softmax(1)).sum(1)
    return F.cross_entropy(labelled, labels), terms.mean()


def aligned(model, inputs, labels, momentum):
    weak, strong = inputs['views']
    labelled, learnt = student_logits(model, inputs['labelled'], strong)
    probabilities = teacher_probabilities(model, weak)
    mean = (1 - momentum) / CLASSES + momentum * probabilities.mean(0)
    ratio = probabilities / (CLASSES * mean)
    targets = ratio / ratio.sum(1, keepdim=True)
    terms = -(targets * learnt.log_softmax(1)).sum(1)
    return F.cross_entropy(labelled, labels), terms.mean()


METHODS = {
    'fixmatch': (dict(type='FixMatch', threshold=0.7), fixmatch, (0.7,), 2),
    'fixmatch by the student': (
        dict(type='FixMatch', threshold=0.7, labeller='student'),
        fixmatch_by_student,
        (0.7,),
        2,
    ),
    'mean teacher': (
        dict(type='MeanTeacher', unlabelled_weight=5.0, ramp_up=0.0),
        mean_teacher,
        (5.0,),
        2,
    ),
    'pseudo-label': (dict(type='PseudoLabel', threshold=0.7, ramp_up=0.0), pseudo_label, (0.7,), 1),
    'sharpened': (
        dict(
            type='FixMatch',
            accept=dict(type='AcceptAll'),
            target=dict(type='SharpenedTarget', temperature=0.5),
        ),
        sharpened,
        (0.5,),
        2,
    ),
    'aligned': (
        dict(
            type='FixMatch',
            accept=dict(type='AcceptAll'),
            target=dict(type='SoftTarget'),
            align=dict(type='DistributionAlignment', num_classes=CLASSES, momentum=0.5),
        ),
        aligned,
        (0.5,),
        2,
    ),
}


@pytest.mark.parametrize('cfg, reference, arguments, views', METHODS.values(), ids=METHODS)
def test_losses_and_gradients_are_those_of_the_equations(cfg, reference, arguments, views):
    model = build(**cfg)
    inputs, data_samples = batch(views)
    losses = model(inputs, data_samples, mode='loss')
    expected = reference(model, inputs, data_samples['labels'], *arguments)
    torch.testing.assert_close(losses['loss_labelled'], expected[0])
    torch.testing.assert_close(losses['loss_unlabelled'], expected[1])
    assert expected[1] > 0
    parameters = list(model.student.parameters())
    left = torch.autograd.grad(losses['loss_labelled'] + losses['loss_unlabelled'], parameters)
    right = torch.autograd.grad(sum(expected), parameters)
    for ours, theirs in zip(left, right):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_teacher_can_label_with_the_statistics_of_the_batch_that_it_labels():
    model = build(type='FixMatch', threshold=0.7, label_statistics='batch')
    (weak, strong), data_samples = batch()[0]['views'], batch()[1]
    norm = model.teacher.backbone.layers[0][1]
    before = norm.running_mean.clone()
    losses = model(batch()[0], data_samples, mode='loss')
    confidence, guess = logits_of(model.teacher, weak, True).softmax(1).max(1)
    _, learnt = student_logits(model, batch()[0]['labelled'], strong)
    terms = F.cross_entropy(learnt, guess, reduction='none') * (confidence >= 0.7)
    torch.testing.assert_close(losses['loss_unlabelled'], terms.mean())
    # Its running statistics follow those of the batches.
    seen = F.conv2d(weak, model.teacher.backbone.layers[0][0].weight, stride=2, padding=1)
    expected = before.lerp(seen.mean(dim=(0, 2, 3)), norm.momentum)
    torch.testing.assert_close(norm.running_mean, expected)
    # All else of the teacher is in evaluation mode, and the norms too outside training.
    others = [m for m in model.teacher.modules() if not isinstance(m, torch.nn.BatchNorm2d)]
    assert norm.training and not any(module.training for module in others)
    assert not any(module.training for module in model.eval().teacher.modules())


def test_supervised_only_learns_the_labelled_images_alone():
    model = build(type='SupervisedOnly')
    inputs, data_samples = batch(0)
    losses = model(inputs, data_samples, mode='loss')
    (logits,) = student_logits(model, inputs['labelled'])
    torch.testing.assert_close(
        losses['loss_labelled'], F.cross_entropy(logits, data_samples['labels'])
    )
    assert set(losses) == {'loss_labelled'}


def test_student_sees_labelled_and_strong_views_in_one_pass():
    model = build(type='FixMatch')
    sizes = []
    model.student.backbone.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    model(*batch(), mode='loss')
    assert sizes == [5 + 7]


def test_teacher_has_no_gradients_and_stays_in_evaluation_mode():
    model = build(type='FixMatch', threshold=0.3)
    losses = model(*batch(), mode='loss')
    sum(losses.values()).backward()
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    assert not any(module.training for module in model.teacher.modules())
    assert all(parameter.grad is not None for parameter in model.student.parameters())


def test_teacher_begins_as_the_initialised_student():
    model = build(type='FixMatch')
    model.init_weights()
    teacher = model.teacher.state_dict()
    assert all(torch.equal(teacher[k], v) for k, v in model.student.state_dict().items())


@pytest.mark.parametrize('on', ['teacher', 'student'])
def test_prediction_is_that_of_the_network_asked_for(on):
    model = build(type='FixMatch', predict_on=on).eval()
    images = batch()[0]['labelled']
    scores = torch.stack([sample.pred_score for sample in model(images, mode='predict')])
    expected = logits_of(getattr(model, on), images, False).softmax(1)
    torch.testing.assert_close(scores, expected)


def test_weight_rises_over_the_share_of_the_run_that_is_asked_for():
    model = build(type='PseudoLabel', ramp_up=0.4, unlabelled_weight=3.0)
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', 100)
    weights = []
    for step in (0, 10, 20, 40, 99):
        hub.update_info('iter', step)
        weights.append(model._weight())
    assert weights == pytest.approx([0.0, 0.75, 1.5, 3.0, 3.0])


def test_quality_counts_what_was_accepted_and_what_was_right():
    model = build(type='FixMatch', threshold=0.7)
    inputs, data_samples = batch()
    probabilities = teacher_probabilities(model, inputs['views'][0])
    for _ in range(3):
        model(inputs, data_samples, mode='loss')
    confidence, guess = probabilities.max(1)
    accepted, truth = confidence >= 0.7, data_samples['truth']
    known = truth >= 0
    scalars, shares = model.quality.read()
    right = guess == truth
    assert scalars['mask_rate'] == pytest.approx(accepted.float().mean().item())
    assert scalars['pseudo_label_acc'] == pytest.approx(
        100 * right.sum().item() / known.sum().item()
    )
    assert scalars['accepted_acc'] == pytest.approx(
        100 * (right & accepted).sum().item() / (known & accepted).sum().item()
    )
    histogram = guess[accepted].bincount(minlength=CLASSES) / accepted.sum()
    assert shares == pytest.approx(histogram.tolist())
    assert model.quality.read() == ({}, [])


@MODELS.register_module(force=True)
class RunningMeanThreshold(semi_supervised.Acceptance):
    """A threshold that adapts: the mean confidence so far."""

    def __init__(self):
        super().__init__()
        self.register_buffer('threshold', torch.tensor(0.25))

    def forward(self, probabilities):
        confidence = probabilities.amax(1)
        self.threshold.lerp_(confidence.mean(), 0.5)
        return (confidence >= self.threshold).float()


def test_acceptance_of_ones_own_adapts_and_is_saved_with_the_model():
    model = build(type='FixMatch', accept=dict(type='RunningMeanThreshold'))
    model(*batch(), mode='loss')
    threshold = model.state_dict()['accept.threshold']
    assert threshold > 0.25
    confidence = teacher_probabilities(model, batch()[0]['views'][0]).amax(1)
    scalars, _ = model.quality.read()
    assert scalars['mask_rate'] == pytest.approx((confidence >= threshold).float().mean().item())


def test_alignment_makes_an_even_spread_of_an_uneven_one():
    align = semi_supervised.DistributionAlignment(3, momentum=1.0)
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1]])
    aligned = align(probabilities, torch.tensor([0]))
    torch.testing.assert_close(aligned.sum(1), torch.ones(2))
    assert aligned.mean(0).max() < probabilities.mean(0).max()
    assert aligned[1, 1] > aligned[1, 0]


def test_alignment_follows_the_labels_where_asked_to():
    align = semi_supervised.DistributionAlignment(3, target='labelled', momentum=1.0)
    probabilities = torch.full((2, 3), 1 / 3)
    aligned = align(probabilities, torch.tensor([0, 0, 0, 1]))
    torch.testing.assert_close(aligned, torch.tensor([[0.75, 0.25, 0.0]] * 2))


def test_sharpening_goes_from_the_probabilities_to_one_hot():
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    same = semi_supervised.SharpenedTarget(temperature=1.0)(probabilities)
    torch.testing.assert_close(same, probabilities)
    hard = semi_supervised.SharpenedTarget(temperature=1e-3)(probabilities)
    torch.testing.assert_close(hard, semi_supervised.HardTarget()(probabilities))


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(type='FixMatch', threshold=0), r'threshold must be .*got 0'),
        (
            dict(type='FixMatch', treshold=0.9),
            "FixMatch has no option 'treshold'.*Did you mean 'threshold'",
        ),
        (dict(type='MeanTeacher', ramp_upp=0.9), "MeanTeacher .*Did you mean 'ramp_up'"),
        (dict(type='FixMatch', threshold=1.2), r'threshold must be .*got 1.2'),
        (
            dict(type='FixMatch', labeller='techer'),
            "got 'techer'.*Did you mean 'teacher'",
        ),
        (
            dict(type='FixMatch', label_statistics='bach'),
            "label_statistics must be .*got 'bach'.*Did you mean 'batch'",
        ),
        (dict(type='FixMatch', predict_on='both'), r"predict_on must be .*got 'both'"),
        (
            dict(type='FixMatch', consistency='mes'),
            "got 'mes'.*Did you mean 'mse'",
        ),
        (dict(type='FixMatch', unlabelled_weight=-1), r'unlabelled_weight must be .*got -1'),
        (dict(type='FixMatch', ramp_up=2), r'ramp_up must be .*got 2'),
        (
            dict(type='FixMatch', target=dict(type='SharpenedTarget', temperature=0)),
            r'temperature must be .*got 0',
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else '',
)
def test_wrong_option_is_refused_in_one_line(cfg, message):
    with pytest.raises(OptionError, match=message) as error:
        build(**cfg)
    assert '\n' not in str(error.value)


CLASSIFIERS = {
    'resnet': dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=64, topk=(1, 3)),
    ),
    'vision transformer': dict(
        type='ImageClassifier',
        backbone=dict(
            type='VisionTransformer',
            arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
            img_size=16,
            patch_size=8,
        ),
        head=dict(type='VisionTransformerClsHead', num_classes=CLASSES, in_channels=16),
    ),
    'several stages': dict(
        type='ImageClassifier',
        backbone=dict(
            type='ResNet', depth=18, stem_channels=8, base_channels=8, out_indices=(0, 1, 2, 3)
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='StackedLinearClsHead', num_classes=CLASSES, in_channels=64, mid_channels=[8]
        ),
    ),
}


@pytest.mark.parametrize('classifier', CLASSIFIERS.values(), ids=CLASSIFIERS)
@pytest.mark.parametrize('labeller', ['teacher', 'student'])
def test_any_classifier_is_trained(classifier, labeller):
    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(type='FixMatch', classifier=classifier, labeller=labeller, threshold=0.1)
    )
    model.init_weights()
    images = torch.randn(8, 3, 16, 16)
    inputs = {'labelled': images[:2], 'views': [images[2:5], images[5:]]}
    samples = {'labels': torch.tensor([0, 1]), 'truth': torch.tensor([-1, 2, 3])}
    losses = model.train()(inputs, samples, mode='loss')
    assert losses['loss_labelled'] > 0 and losses['loss_unlabelled'] > 0
    (losses['loss_labelled'] + losses['loss_unlabelled']).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.student.parameters())
    assert len(model.eval()(images, mode='predict')) == 8


def test_network_without_a_head_is_refused():
    with pytest.raises(
        OptionError, match=r'classifier must be a classifier of mmpretrain with a head'
    ):
        MODELS.build(
            dict(
                type='FixMatch',
                classifier=dict(type='ImageClassifier', backbone=CLASSIFIER['backbone']),
            )
        )


def test_threshold_of_one_accepts_what_is_certain():
    accept = semi_supervised.ConfidenceThreshold(1.0)
    assert accept(torch.tensor([[1.0, 0.0], [0.99, 0.01]])).tolist() == [1.0, 0.0]
    assert math.isclose(accept.threshold, 1.0)
