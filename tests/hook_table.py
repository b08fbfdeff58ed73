# SPDX-License-Identifier: Apache-2.0
"""The hooks that each kind of teacher is trained with, in the tests of what all must do."""

STS = dict(type='SETMAHook', keep_prob=0.7)
SE = dict(type='SpatialEnsembleHook', keep_prob=0.7)
TMA = dict(type='SETMAHook', keep_prob=0)
HOOK_TABLE = [
    STS,
    SE,
    dict(STS, granularity='layer', match_horizon=True),
    dict(STS, granularity='channel', buffers='average'),
    dict(SE, granularity='element', keep_prob=dict(type='cosine', start=0.2, end=0.9)),
    dict(STS, overrides={'backbone': dict(momentum=0.3), 'bias': 'copy'}, interval=2),
]


def ids(value):
    """A hook's options as the name of a test."""
    return '-'.join(str(v) for v in value.values()) if isinstance(value, dict) else value
