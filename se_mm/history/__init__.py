# SPDX-License-Identifier: Apache-2.0
"""What a teacher is made of: at which update each of its units was last taken over.

``segments`` is what a checkpoint has of it, ``provenance`` works the updates out from that,
``picture`` and ``page`` show them.
"""
