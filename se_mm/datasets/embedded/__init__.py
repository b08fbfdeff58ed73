# SPDX-License-Identifier: Apache-2.0
"""Data sets that need no files: real digits, and letters and digits drawn on photographs."""

from se_mm.datasets.embedded.digit_scenes import DigitScenes
from se_mm.datasets.embedded.digits import Digits
from se_mm.datasets.embedded.glyphs import Glyphs

__all__ = ['DigitScenes', 'Digits', 'Glyphs']
