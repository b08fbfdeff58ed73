# SPDX-License-Identifier: Apache-2.0
"""The hook that sets the ``channels_last`` memory format, for fast convolutions on GPUs."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Sets the memory format of a model's convolutions to ``channels_last``.

    This makes convolutions in bfloat16 and float16 faster on GPUs with tensor cores. Their inputs
    are converted automatically. Source:
    https://pytorch.org/tutorials/intermediate/memory_format_tutorial.html.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Convert the weights."""
        runner.model.to(memory_format=torch.channels_last)

    before_val = before_test = before_train
