# SPDX-License-Identifier: Apache-2.0
"""torchrun without its traceback after an error that the tool has reported in one line.

``dist_train.sh`` and ``dist_test.sh`` call it, with torchrun's own arguments.
"""

import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

REPORTED = (2, 3, 130)
"""Exit statuses of a tool after an invalid option, a damaged teacher, and Ctrl-C."""


def main() -> None:
    """Start the ranks, and exit with their status."""
    try:
        run(parse_args(sys.argv[1:]))
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        if first.exitcode not in REPORTED:
            raise
        sys.exit(first.exitcode)


if __name__ == '__main__':
    main()
