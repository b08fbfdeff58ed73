# SPDX-License-Identifier: Apache-2.0
"""Lets these tests start tools, as those of ``tests/tools`` do."""

from tests.tools.conftest import tools, tools_in

__all__ = ['tools', 'tools_in']
