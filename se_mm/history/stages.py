# SPDX-License-Identifier: Apache-2.0
"""The parts of a model that are told apart where single tensors are too many."""

from __future__ import annotations

from collections.abc import Iterable

MOST = 12
"""So many parts are told apart at most."""


def stages(names: Iterable[str], most: int = MOST) -> dict[str, list[str]]:
    """Group tensors by the modules that they are in, as deep as there are few enough groups.

    Args:
        names: Dotted names of tensors, in the model's order.
        most: Groups at most, where there is a choice.

    Returns:
        Dotted name of a module -> names of its tensors, in order.
    """
    names = list(names)
    found: dict[str, list[str]] = {}
    for depth in range(1, 1 + max((name.count('.') for name in names), default=0)):
        groups: dict[str, list[str]] = {}
        for name in names:
            # The last part is the tensor's own.
            groups.setdefault('.'.join(name.split('.')[:-1][:depth]) or name, []).append(name)
        if found and len(groups) > most:
            break
        found = groups
    return found or {name: [name] for name in names}
