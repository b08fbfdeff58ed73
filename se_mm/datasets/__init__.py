# SPDX-License-Identifier: Apache-2.0
"""Embedded sets of images, made of what the dependencies ship."""

from se_mm.datasets.digits import Digits
from se_mm.datasets.glyphs import Glyphs

__all__ = ['Digits', 'Glyphs']
