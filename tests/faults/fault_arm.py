# SPDX-License-Identifier: Apache-2.0
"""Arms ``fault_probe`` when a run's config imports it, which tests must not do themselves."""

import fault_probe

fault_probe.arm()
