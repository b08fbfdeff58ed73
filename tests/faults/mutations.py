# SPDX-License-Identifier: Apache-2.0
"""Configs with one of our options wrong, or with several changed to other valid values."""

import copy
import random
from dataclasses import dataclass
from typing import Any

from small_runs import KINDS

ITERS = 8
FIRST = 2  # The first checkpoint.
DELETE = object()
NAN, INF = float('nan'), float('inf')
PAIRS = ('fixmatch', 'softteacher')
TEACHERS = dict(byol='target_net', fixmatch='teacher', softteacher='teacher', shadow=None)


@dataclass(frozen=True)
class Change:
    """One entry of a config that is changed.

    Attributes:
        path: Keys from the outside in.
        value: The new value; ``DELETE``: it is taken out.
    """

    path: tuple
    value: Any

    def __str__(self):
        path = '.'.join(map(str, self.path))
        return f'no {path}' if self.value is DELETE else f'{path}={text(self.value)}'

    def apply(self, cfg):
        """Change a config."""
        *outer, last = self.path
        for key in outer:
            cfg = cfg[key]
        if self.value is DELETE:
            del cfg[last]
        else:
            cfg[last] = copy.deepcopy(self.value)


def base(kind):
    """The config of a few iterations of a kind of teacher."""
    cfg = copy.deepcopy(KINDS[kind](1))  # Some of them share their parts.
    hook = cfg.pop('hook')
    if kind == 'shadow':
        hook = dict(type='SETMAHook', momentum=0.05)
    model = cfg['model']
    part = model.get('classifier') or model.get('detector') or model
    part['backbone']['type'] = 'ConvNet'
    cfg['train_dataloader'].update(num_workers=0, persistent_workers=False)
    name = 'SemiSupervisedTrainLoop' if kind == 'fixmatch' else 'IterBasedTrainLoop'
    return dict(
        cfg,
        custom_imports=dict(imports=['se_mm'], allow_failed_imports=False),
        train_cfg=dict(type=name, max_iters=ITERS),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=2e-3), accumulative_counts=1),
        param_scheduler=[dict(type='LinearLR', start_factor=0.5, by_epoch=False, end=4)],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=FIRST),
        ),
        log_processor=dict(by_epoch=False),
        custom_hooks=[dict(hook, keep_prob=0.5)],
        randomness=dict(seed=3),
    )


def _schedule(rng, low, high):
    name = rng.choice(['linear', 'cosine'])
    return dict(type=name, start=rng.uniform(low, high), end=rng.uniform(low, high))


def right(kind, rng):
    """Changes with which a run goes on as well: path -> a value."""
    h = ('custom_hooks', 0)
    changes = {
        (*h, 'keep_prob'): rng.choice([0, 0.0, rng.uniform(0, 0.7), _schedule(rng, 0, 0.7)]),
        (*h, 'granularity'): rng.choice(['tensor', 'layer', 'channel', 'element']),
        (*h, 'overrides'): rng.choice(
            [
                None,
                {},
                {'bias': 'copy'},
                {'bias': 'skip'},
                {'weight': dict(keep_prob=0.2, granularity='channel'), 'bias': dict(momentum=1.0)},
            ]
        ),
        (*h, 'buffers'): rng.choice(['copy', 'average', 'skip']),
        (*h, 'interval'): rng.randint(1, 3),
        (*h, 'begin_iter'): rng.randint(0, 2),
        (*h, 'every_iter'): rng.random() < 0.5,
        (*h, 'seed'): rng.choice([None, 0, 7, 2**40]),
        (*h, 'diff_rank_picks'): rng.random() < 0.5,
        (*h, 'momentum'): rng.choice([1, 1.0, rng.uniform(0.02, 1), _schedule(rng, 0.02, 1)]),
        (*h, 'match_horizon'): rng.random() < 0.5,
        (*h, 'priority'): rng.choice(['NORMAL', 'LOW', 49]),
        (*h, 'teacher'): TEACHERS[kind],
        ('optim_wrapper', 'optimizer', 'lr'): rng.uniform(1e-3, 1e-2),
        ('optim_wrapper', 'optimizer', 'type'): rng.choice(['SGD', 'Adam', 'AdamW']),
        ('optim_wrapper', 'accumulative_counts'): rng.choice([1, 2]),
        ('optim_wrapper', 'clip_grad'): rng.choice([None, dict(max_norm=1.0)]),
        ('param_scheduler',): rng.choice(
            [
                None,
                [],
                dict(type='ConstantLR', factor=0.5, by_epoch=False, end=3),
                [dict(type='MultiStepLR', milestones=[2, 5], by_epoch=False)],
            ]
        ),
        ('train_dataloader', 'num_workers'): rng.choice([0, 0, 0, 1]),
        ('default_hooks', 'logger', 'interval'): 1,
        ('randomness', 'seed'): rng.choice([None, 0, 5, 2**32 - 1]),
        ('log_level',): rng.choice(['INFO', 'DEBUG', 20]),
    }
    if kind != 'softteacher':  # Its sampler has the batch size, too.
        changes['train_dataloader', 'batch_size'] = rng.choice([2, 4, 6])
    if kind == 'shadow':
        changes[(*h, 'evaluate_on')] = rng.choice(['teacher', 'student', 'both'])
    return changes


def _misspelt(name, rng):
    """A name with a letter too few, too many, or two of them swapped."""
    at = rng.randrange(1, len(name) - 1)
    return rng.choice([name[:at] + name[at + 1 :], name[:at] + 'q' + name[at:], name[::-1]])


NUMBERS = ('x', None, [], {}, NAN, True, '0.5', [0.5])


def wrong(kind, rng):
    """Changes of our own options with which no run may start: path -> the values."""
    h = ('custom_hooks', 0)
    counts = (-1, 1.5, 'x', [], {}, '1')
    changes = {
        (*h, 'keep_prob'): [
            *NUMBERS,
            -0.1,
            1,
            1.5,
            INF,
            dict(type='cosine'),
            dict(type='cosin', start=0.1, end=0.2),
            dict(start=0.1, end=0.2),
            dict(type='linear', start=0.1, end=1.0),
            dict(type='linear', start=0.1, end=0.2, gamma=3),
            dict(type='annealed', value=0.1, gamma=3),
        ],
        (*h, 'momentum'): [
            *(value for value in NUMBERS if value is not None),
            0,
            -0.1,
            1.1,
            dict(type='linear', start=0, end=0),
            dict(type='exp_annealed', value=0.1, gamma=0),
        ],
        (*h, 'granularity'): ['tensors', 'chanel', None, 1, ['tensor'], ''],
        (*h, 'overrides'): [
            {'nosuchlayer': 'copy'},
            {'bias': 'cop'},
            {'bias': dict(keep_prb=0.5)},
            {'bias': dict(keep_prob=1)},
            {'bias': None},
            {'bias': 0.5},
            'bias',
            ['bias'],
            {'': 'copy'},
            {1: 'copy'},
            {'weight': 'skip', 'bias': 'skip', 'layers': 'skip', '.': 'skip'},
        ],
        (*h, 'buffers'): ['copies', True, 0, ['copy'], ''],
        (*h, 'interval'): [*counts, None, 0, 99, True],
        (*h, 'begin_iter'): [*counts, None, ITERS, 99],
        (*h, 'begin_epoch'): [*counts, None, 99],
        (*h, 'every_iter'): [1, 'yes', None],
        (*h, 'seed'): [*counts, True],
        (*h, 'diff_rank_picks'): [1, 'no', None],
        (*h, 'match_horizon'): [1, 'no', None],
        (*h, 'fp32_teacher'): [1, 'no', None],
        (*h, 'teacher'): ['teachr', '', 5, ['teacher'], 'data_preprocessor'],
        (*h, 'student'): ['studnt', 5, 'data_preprocessor', ['a', 'b', 'c']],
        (*h, 'evaluate_on'): ['techer', 3] + ['teacher'] * (kind != 'shadow'),
        (*h, 'keep_probs'): [0.5],
        (*h, 'momntum'): [0.5],
        (*h, 'type'): [_misspelt('SETMAHook', rng), 'setmahook'],
        ('custom_hooks',): [
            [dict(type='SETMAHook'), dict(type='SpatialEnsembleHook')],
            [dict(type='SETMAHook', keep_prob=2)],
            *([DELETE, [], None] if kind in PAIRS else []),
        ],
    }
    if kind == 'fixmatch':
        changes[('model', 'threshold')] = ['x', 2, -1, NAN]
        changes[('model', 'labeller')] = ['techer', 3]
        changes[('train_dataloader', 'batch_sampler', 'mu')] = ['x', -1]
    return changes


class Case:
    """What is drawn for a case.

    Attributes:
        kind: The kind of teacher.
        changes: What is changed in its config.
        wrong: The change for which it is to be refused; None: it is to run.
    """

    def __init__(self, seed, number):
        rng = random.Random(f'{seed} {number}')
        self.number = number
        self.kind = list(KINDS)[number % 4]
        self.wrong = None
        good = right(self.kind, rng)
        paths = rng.sample(sorted(good, key=str), rng.randint(1, 4))
        if number // 4 % 4 != 3:  # Three of four are refused.
            bad = wrong(self.kind, rng)
            path = rng.choice(sorted(bad, key=str))
            self.wrong = Change(path, rng.choice(bad[path]))
            # What is right besides must not lie in what is wrong, nor take it away.
            paths = [p for p in paths if p[0] != path[0]][:2]
        self.changes = [Change(path, good[path]) for path in paths]
        if self.wrong is not None:
            self.changes.append(self.wrong)

    def __str__(self):
        verdict = 'runs' if self.wrong is None else 'refused'
        return f'{self.number} {self.kind} {verdict}: {"; ".join(map(str, self.changes))}'

    def config(self):
        """The config, changed."""
        cfg = base(self.kind)
        for change in self.changes:
            if change.value is not DELETE or change is self.wrong:
                change.apply(cfg)
        return cfg


def text(value):
    """A value as Python that can be read again."""
    if isinstance(value, float) and not abs(value) < INF:
        return f"float('{value}')"
    if isinstance(value, dict):
        return '{' + ', '.join(f'{key!r}: {text(item)}' for key, item in value.items()) + '}'
    if isinstance(value, list):
        return '[' + ', '.join(map(text, value)) + ']'
    if isinstance(value, tuple):
        return '(' + ''.join(f'{text(item)}, ' for item in value) + ')'
    return repr(value)
