# SPDX-License-Identifier: Apache-2.0
"""Provenance of a teacher: the update at which each of its units was last picked.

``segments`` is the record in a checkpoint, ``provenance`` computes the updates from it, and
``picture`` and ``page`` show them.
"""
