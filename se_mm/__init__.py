# SPDX-License-Identifier: Apache-2.0
"""Spatial Ensemble for OpenMMLab: another way for a teacher to follow its student.

Importing this package registers its hooks, models, datasets and loops with MMEngine. A config does
so by ``custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)``. Without MMEngine,
``se_mm.smoothing`` is all there is: the method for any PyTorch loop.
"""

from importlib.util import find_spec

from se_mm.version import __version__

__all__ = ['__version__']

if find_spec('mmengine') is not None:
    from se_mm.environment import check_environment

    check_environment()

    from se_mm import datasets, engine, evaluation, models
    from se_mm.checkpoints.read import allow_mmengine_checkpoints

    allow_mmengine_checkpoints()

    __all__ += ['datasets', 'engine', 'evaluation', 'models']
