# SPDX-License-Identifier: Apache-2.0
"""Installs se_mm into an OpenMMLab environment: ``pip install -e .``."""

import re
import shutil
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 'se_mm/version.py').read_text()).group(1)

# Nothing that an existing environment has is replaced: OpenMMLab's libraries and OneDL's forks
# share their import names, so which of them is used is the environment's choice, or an extra's.
EXTRAS = {
    'openmmlab': [
        'mmengine==0.10.7',
        'mmcv==2.1.0',
        'mmpretrain==1.2.0',
        'mmdet==3.3.0',
        'numpy<2',
        'opencv-python<4.12',
    ],
    'onedl': [
        'onedl-mmengine>=0.10.12',
        'onedl-mmcv>=2.3.6',
        'onedl-mmpretrain>=1.3.6',
        'onedl-mmdetection>=3.5.1',
    ],
    'benchmark': ['timm', 'ema-pytorch'],
    'compare': ['jinja2', 'matplotlib', 'pandas', 'rich', 'scipy'],
    'embedded': ['scikit-learn', 'matplotlib', 'pillow'],
    'test': ['pytest', 'hypothesis', 'scipy', 'scikit-learn', 'matplotlib', 'pillow'],
}

# Without a C compiler the plain way of the update remains, which is slower. Only if floating point
# cannot trap are the kernel's comparisons compiled into selections: elements are then updated three
# times as fast.
CPU_KERNEL = Extension(
    'se_mm.smoothing.kernels.cpu_kernel',
    ['se_mm/smoothing/kernels/cpu_kernel.c'],
    extra_compile_args=['-O3', '-fno-trapping-math'],
    py_limited_api=True,
    optional=True,
)


class BuildPy(build_py):
    """Puts configs and tools into the package, where OpenMMLab's ``mim`` and we look for them."""

    def run(self) -> None:
        """Build the package, and add them."""
        super().run()
        if self.editable_mode:  # Those of the checkout are used.
            return
        home = Path(self.build_lib) / 'se_mm/.mim'
        shutil.rmtree(home, ignore_errors=True)  # What an earlier build has left.
        for name in ('configs', 'tools'):
            skipped = shutil.ignore_patterns('__pycache__')
            shutil.copytree(HERE / name, home / name, ignore=skipped)
        shutil.copy(HERE / 'model-index.yml', home)


setup(
    name='se_mm',
    version=VERSION,
    description='Spatial Ensemble teachers for OpenMMLab: hooks that replace the moving average',
    long_description=(HERE / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10,<3.13',
    packages=find_packages(include=['se_mm', 'se_mm.*']),
    package_data={'se_mm.smoothing.kernels': ['*.c'], 'se_mm': ['templates/*']},
    ext_modules=[CPU_KERNEL],
    cmdclass={'build_py': BuildPy},
    options={'bdist_wheel': {'py_limited_api': 'cp310'}},
    entry_points={'console_scripts': ['se_mm = se_mm.__main__:main']},
    install_requires=['torch>=2.1', 'numpy'],
    extras_require=EXTRAS,
    classifiers=[
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
