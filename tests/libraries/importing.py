# SPDX-License-Identifier: Apache-2.0
"""Import the libraries that refuse the versions beside which they work.

Three of them do not import in this environment as they are. What is done about it holds while they
are imported and not a moment longer, and nothing is written to the environment:

- mmyolo 0.6.0 and mmrotate 1.0.0rc1 assert an older mmcv and mmdet: the two modules carry a version
  that the assertions accept.
- mmrotate 1.0.0rc1 imports ``Sequence`` from ``collections``, where Python 3.9 was the last to have
  it.
- the wheel of mmaction2 1.2.0 lacks the package ``mmaction.models.localizers.drn``, which its
  ``localizers`` import: an empty module stands in for it, and stays.
"""

import collections
import collections.abc
import contextlib
import importlib
import importlib.util
import sys
import types
from unittest import mock

LIBRARIES = {
    'mmseg': 'mmsegmentation',
    'mmpose': 'mmpose',
    'mmaction': 'mmaction2',
    'mmrotate': 'mmrotate',
    'mmdet3d': 'mmdet3d',
    'mmyolo': 'mmyolo',
    'mmagic': 'mmagic',
}
"""Name to import -> name of the distribution."""


def is_installed(library):
    return importlib.util.find_spec(library) is not None


def import_library(library):
    """The library, its models, datasets, structures and hooks imported.

    Args:
        library: A key of ``LIBRARIES``.
    """
    with accepted_versions():
        if library == 'mmaction':
            _stand_in_for_drn()
        if library == 'mmyolo' and is_installed('mmrotate'):
            import_library('mmrotate')
        module = importlib.import_module(library)
        for part in ('models', 'datasets', 'structures', 'engine'):
            if importlib.util.find_spec(f'{library}.{part}'):
                importlib.import_module(f'{library}.{part}')
    return module


@contextlib.contextmanager
def accepted_versions():
    """Let the assertions of mmyolo and mmrotate on the versions of mmcv and mmdet pass."""
    import mmcv
    import mmdet

    with (
        mock.patch.object(mmcv, '__version__', '2.0.1'),
        mock.patch.object(mmdet, '__version__', '3.0.0'),
        mock.patch.object(collections, 'Sequence', collections.abc.Sequence, create=True),
    ):
        yield


def _stand_in_for_drn():
    name = 'mmaction.models.localizers.drn'
    if name in sys.modules:
        return
    package, module = types.ModuleType(name), types.ModuleType(name + '.drn')
    package.__path__, module.DRN = [], type('DRN', (), {})
    sys.modules[name], sys.modules[name + '.drn'] = package, module
