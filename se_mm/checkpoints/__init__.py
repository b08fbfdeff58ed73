# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files: read them safely, write them atomically, publish and convert them."""
