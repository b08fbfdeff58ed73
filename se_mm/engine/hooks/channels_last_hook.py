# SPDX-License-Identifier: Apache-2.0
"""The hook that lays out a model for the fast convolutions of GPUs."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Lays out the weights of a model's convolutions with their channels last in memory.

    Convolutions in bfloat16 and float16 are faster so on GPUs with tensor cores; their inputs take
    on the layout by themselves. Source: https://pytorch.org/tutorials/intermediate/memory_format_tutorial.html.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Lay out the weights."""
        runner.model.to(memory_format=torch.channels_last)

    before_val = before_test = before_train
