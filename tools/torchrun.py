# SPDX-License-Identifier: Apache-2.0
"""torchrun that adds nothing to an error which the tool has explained in its one line.

``dist_train.sh`` and ``dist_test.sh`` call it, with torchrun's own arguments.
"""

import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

EXPLAINED = (2, 130)
"""How a tool ends after an error in its arguments, and after Ctrl-C."""


def main() -> None:
    """Start the ranks, and end as they end."""
    try:
        run(parse_args(sys.argv[1:]))
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        if first.exitcode not in EXPLAINED:
            raise
        sys.exit(first.exitcode)


if __name__ == '__main__':
    main()
