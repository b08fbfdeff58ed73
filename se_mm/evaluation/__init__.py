# SPDX-License-Identifier: Apache-2.0
"""Evaluation of self-supervised runs by probes on frozen features."""

from .pretrained_check import PretrainedCheckHook
from .probe_loop import ProbeLoop
from .probes import KNNProbe, LinearProbe, Probe

__all__ = ['KNNProbe', 'LinearProbe', 'PretrainedCheckHook', 'Probe', 'ProbeLoop']
