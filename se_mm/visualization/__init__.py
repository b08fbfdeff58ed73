# SPDX-License-Identifier: Apache-2.0
"""Pictures and pages of what a teacher is made of."""

from se_mm.visualization.page import embedded, page
from se_mm.visualization.teacher_picture import (
    distances,
    draw_distances,
    draw_history,
    stage_table,
    summary,
)

__all__ = [
    'distances',
    'draw_distances',
    'draw_history',
    'embedded',
    'page',
    'stage_table',
    'summary',
]
