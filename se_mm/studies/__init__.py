# SPDX-License-Identifier: Apache-2.0
"""Compare trainings over several seeds. Optional: needs ``pip install "se_mm[compare]"``."""
