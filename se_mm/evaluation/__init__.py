# SPDX-License-Identifier: Apache-2.0
"""Evaluate self-supervised models with probes, and compare teacher and student classifiers."""

from .pretrained_check import PretrainedCheckHook
from .probe_loop import ProbeLoop
from .probes import KNNProbe, LinearProbe, Probe
from .teacher_student_loop import TeacherStudentLoop

__all__ = [
    'KNNProbe',
    'LinearProbe',
    'PretrainedCheckHook',
    'Probe',
    'ProbeLoop',
    'TeacherStudentLoop',
]
