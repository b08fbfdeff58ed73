# SPDX-License-Identifier: Apache-2.0
"""Parse ``--cfg-options KEY=VALUE ...``."""

from __future__ import annotations

import argparse
import ast
import contextlib
import re
from typing import Any

from mmengine.config import DictAction

PATHS = ('ann_file', 'data_prefix', 'data_root', 'load_from', 'work_dir')
"""Keys of paths, or of dicts of paths."""


def key_value(pair: str) -> tuple[str, Any]:
    """Parse one ``KEY=VALUE`` of ``--cfg-options`` as MMEngine does, but keep spaces and quotes.

    A single value keeps its spaces. A string in quotes is not changed: ``"KEY='a, b'"``,
    ``"KEY=['a b', 'c']"``.
    """
    key, equals, text = pair.partition('=')
    if not equals:
        raise argparse.ArgumentTypeError(f'must be KEY=VALUE, got {pair!r}')
    is_path = not {*key.split('.')}.isdisjoint(PATHS)
    try:
        value = _parse_value(text.strip())
        if isinstance(value, list) and is_path and text[0] != '[':
            raise ValueError('it would become a list of paths')
    except (RecursionError, AssertionError, ValueError):
        raise argparse.ArgumentTypeError(
            f'VALUE must be a number, a string, or a list or tuple of these, got {pair!r}; put a '
            f'string with a comma, and one with a space in a list, in quotes: '
            """"KEY='a, b'" or "KEY=['a b', 'c']\""""
        ) from None
    return key, value


def _parse_value(text: str) -> Any:
    """Parse a value; raise ValueError or AssertionError if MMEngine would change it or cannot."""
    if any(quote in text for quote in '\'"'):
        with contextlib.suppress(SyntaxError, ValueError):
            value = ast.literal_eval(text)
            if isinstance(value, {'(': tuple, '[': list}.get(text[0], str)):
                return value
    if ',' not in text and text[:1] not in ('(', '['):
        return DictAction._parse_int_float_bool(text.strip('\'"'))
    if re.search(r'[^\s,([]\s+[^\s,)\]]', text):
        raise ValueError('MMEngine would remove spaces from a string')
    return DictAction._parse_iterable(text)
