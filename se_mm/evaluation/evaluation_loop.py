# SPDX-License-Identifier: Apache-2.0
"""What our loops have in common, each of which serves as ``val_cfg`` and as ``test_cfg``."""

from __future__ import annotations

from mmengine.model import is_model_wrapper
from mmengine.runner.base_loop import BaseLoop
from torch import nn


class EvaluationLoop(BaseLoop):
    """A loop of MMEngine's that knows which of the two it is, and its model."""

    @property
    def _stage(self) -> str:
        # Runner gives a loop no other sign of which of the two it is.
        return 'test' if self.runner._test_loop is self else 'val'

    @property
    def _model(self) -> nn.Module:
        model = self.runner.model
        return model.module if is_model_wrapper(model) else model
