# SPDX-License-Identifier: Apache-2.0
"""The kinds of teacher in OpenMMLab: where a model keeps its teacher, and what triggers updates.

======== ======================================================================== ==============
kind     found by                                                                 trigger
======== ======================================================================== ==============
averaged a submodule that is a ``BaseAveragedModel``                              the model
pair     submodules ``teacher`` and ``student`` with the same tensors             the hook
method   a submodule ``teacher`` and a method of the model such as                the model
         ``momentum_update``
shadow   none of these, or a hook with options of ``EMAHook``: a copy of the      the hook
         model
======== ======================================================================== ==============
"""

from se_mm.teachers.averaged import Averaged
from se_mm.teachers.base import TEACHERS, Teacher, plain_model
from se_mm.teachers.find import bound_teacher, candidates, find_teacher
from se_mm.teachers.method import Method
from se_mm.teachers.pair import Pair
from se_mm.teachers.shadow import Shadow
from se_mm.teachers.updater import Updater

__all__ = [
    'TEACHERS',
    'Averaged',
    'Method',
    'Pair',
    'Shadow',
    'Teacher',
    'Updater',
    'bound_teacher',
    'candidates',
    'find_teacher',
    'plain_model',
]
