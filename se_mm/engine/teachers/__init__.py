# SPDX-License-Identifier: Apache-2.0
"""The kinds of teacher in OpenMMLab, and how to find the one of a model.

A kind is one file with one class. Their order here is the order in which they are asked: the shadow
comes last, since it fits every model.
"""

from se_mm.engine.teachers.averaged_module import AveragedModule  # isort: skip
from se_mm.engine.teachers.pair import Pair  # isort: skip
from se_mm.engine.teachers.method import Method  # isort: skip
from se_mm.engine.teachers.shadow import Shadow  # isort: skip
from se_mm.engine.teachers.base import TEACHERS, Teacher, bound_teacher, find_teacher

__all__ = [
    'TEACHERS',
    'AveragedModule',
    'Method',
    'Pair',
    'Shadow',
    'Teacher',
    'bound_teacher',
    'find_teacher',
]
