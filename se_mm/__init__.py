# SPDX-License-Identifier: Apache-2.0
"""Spatial Ensemble for OpenMMLab: another way for a teacher to follow its student.

Importing this package registers its hooks, models, datasets and loops with MMEngine. A config does
so by ``custom_imports = dict(imports=['se_mm'], allow_failed_imports=False)``.
"""

from se_mm.environment import check_environment

check_environment()

from se_mm import datasets, engine, evaluation, models  # noqa: E402
from se_mm.version import __version__  # noqa: E402

__all__ = ['__version__', 'datasets', 'engine', 'evaluation', 'models']
