# SPDX-License-Identifier: Apache-2.0
"""Extract frozen features of labelled images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Set evaluation mode without gradients; each submodule's mode is restored on exit."""
    modules = list(modules)
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        # Not train(): submodules of a partly frozen backbone have different modes.
        for part, training in modes:
            part.training = training


def pooled(module: nn.Module, inputs: Tensor) -> Tensor:
    """Compute one feature vector per image, shape (N, D), float32.

    If a backbone returns several feature maps, the last one is used. A map (N, C, H, W) is averaged
    over its positions. For tokens (N, L, C), the result is the class token if the backbone has one
    (it comes first, as in mmpretrain), else the mean of the tokens.

    Args:
        module: A backbone in evaluation mode.
        inputs: Preprocessed images, shape (N, 3, H, W), on the device of ``module``.

    Raises:
        TypeError: If the output is not a floating-point tensor, or a tuple or list ending in one.
        ValueError: If it does not have 2, 3 or 4 dimensions, or not one row per image.
    """
    output = module(inputs)
    if isinstance(output, (tuple, list)) and output:
        output = output[-1]
    if not (isinstance(output, Tensor) and output.is_floating_point()):
        raise TypeError('its output is not a floating-point tensor')
    if len(output) != len(inputs) or output.ndim not in (2, 3, 4):
        raise ValueError(f'its output has shape {tuple(output.shape)} for {len(inputs)} images')
    if output.ndim == 4:
        output = output.mean(dim=(2, 3))
    elif output.ndim == 3:
        has_class_token = getattr(module, 'cls_token', None) is not None
        output = output[:, 0] if has_class_token else output.mean(dim=1)
    return output.float()
