# SPDX-License-Identifier: Apache-2.0
"""Group the tensors of a model into a few parts, for plots and tables."""

from __future__ import annotations

from collections.abc import Iterable


def stages(names: Iterable[str], most: int = 12) -> dict[str, list[str]]:
    """Group tensors by module, at the greatest depth with at most ``most`` groups, or the top one.

    ``names`` are dotted, in the model's order. Returns the name of each module -> its tensors.
    """
    names = list(names)
    for depth in range(max((name.count('.') for name in names), default=0), 0, -1):
        groups: dict[str, list[str]] = {}
        for name in names:
            # The last part of a name is the tensor itself.
            groups.setdefault('.'.join(name.split('.')[:-1][:depth]) or name, []).append(name)
        if len(groups) <= most or depth == 1:
            return groups
    return {name: [name] for name in names}
