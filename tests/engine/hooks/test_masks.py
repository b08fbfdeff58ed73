# SPDX-License-Identifier: Apache-2.0
"""Masks of infinities, whenever they are filled, are followed and averaged without a NaN."""

import pytest
import torch
from torch import nn

from tests.toys import EMA, STS, TMA, Toy, assert_close, hook_of, shadow_of


class Masked(Toy):
    """A network with a mask of infinities, made at the start or in the first forward."""

    def __init__(self, late=False, persistent=True):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.out = nn.Linear(6, 6), nn.Linear(6, 1)
        self.late = late
        mask = torch.full((6, 6), -torch.inf).triu(1)
        self.register_buffer('mask', torch.zeros(6, 6) if late else mask, persistent=persistent)
        self.register_buffer('ready', torch.tensor(not late), persistent=False)

    def predict(self, inputs):
        if not self.ready:
            self.mask.fill_(-torch.inf).triu_(1)
            self.ready.fill_(True)
        weights = (self.query(inputs)[:, :, None] * inputs[:, None] + self.mask).softmax(-1)
        return self.out((weights * inputs[:, None]).sum(-1))


LINES = [
    dict(momentum=0.5),
    dict(momentum=0.5, buffers='average'),
    dict(momentum=0.5, check_finite=1, non_finite='skip'),
    dict(momentum=0.5, granularity='element', buffers='average', keep_prob=0.5),
    dict(momentum=0.5, granularity='channel', buffers='average', keep_prob=0.5),
]


@pytest.mark.parametrize('line', LINES, ids=str)
@pytest.mark.parametrize('late', [False, True])
@pytest.mark.parametrize('persistent', [False, True])
def test_mask_of_infinities_is_kept_and_never_becomes_nan(toys, line, late, persistent):
    runner = toys.train(Masked(late, persistent), dict(TMA, **line), iters=6)
    copy = shadow_of(runner)
    assert hook_of(runner).updater.ensemble.step == 6
    assert torch.equal(copy.mask, runner.model.mask)
    assert all(p.isfinite().all() for p in copy.parameters())
    assert 'train/skipped_updates' not in runner.message_hub.log_scalars


def test_parameters_are_those_of_the_stock_hook(toys):
    stock = toys.train(Masked(late=True), EMA, iters=6)
    ours = toys.train(Masked(late=True), dict(TMA, momentum=0.1), iters=6)
    for name in ('query', 'out'):
        assert_close(getattr(shadow_of(ours), name), getattr(shadow_of(stock), name))


def test_mask_does_not_hide_a_weight_that_is_not_finite(toys):
    from se_mm.smoothing import TeacherFault

    model = Masked()
    model.query.weight.data[0, 0] = torch.nan
    with pytest.raises(TeacherFault, match=r"'query\.weight'"):
        toys.train(model, dict(STS, check_finite=1))
