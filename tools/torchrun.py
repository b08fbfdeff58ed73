# SPDX-License-Identifier: Apache-2.0
"""torchrun that restarts only after crashes, and adds no traceback to one-line errors.

``dist_train.sh`` and ``dist_test.sh`` call it with torchrun's own arguments. After an invalid
option, a damaged teacher or Ctrl-C, the job ends with the tool's own line and exit status.
"""

import os
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

REPORTED = (2, 3, 130)
"""Exit statuses of a tool after an invalid option, a damaged teacher, and Ctrl-C."""


def main() -> None:
    """Start the ranks, restart them if one crashes, and exit with their status."""
    args = parse_args(sys.argv[1:])
    restarts, args.max_restarts = args.max_restarts, 0
    os.environ['SE_MM_MAX_RESTARTS'] = str(restarts)
    for restart in range(restarts + 1):
        os.environ['SE_MM_RESTART'] = str(restart)
        try:
            run(args)
            return
        except SignalException as error:
            sys.exit(128 + error.sigval)
        except ChildFailedError as error:
            _, first = error.get_first_failure()
            if first.exitcode in REPORTED:
                sys.exit(first.exitcode)
            if restart == restarts:
                raise
            print(f'restarting the ranks: {restart + 1} of {restarts} restarts', file=sys.stderr)


if __name__ == '__main__':
    main()
