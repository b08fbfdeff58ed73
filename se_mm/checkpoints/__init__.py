# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files: read them safely, write them atomically, and find the teacher in them."""
