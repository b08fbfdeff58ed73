# SPDX-License-Identifier: Apache-2.0
"""torchrun that adds nothing to an error which the tool has explained in its one line.

Nor does it start the ranks again after such an error, which would only be repeated.
``dist_train.sh`` and ``dist_test.sh`` call it, with torchrun's own arguments.
"""

import sys

from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

EXPLAINED = (2, 3, 130)
"""How a tool ends after an error in its arguments, a damaged teacher, and Ctrl-C."""


def forgo_useless_restarts() -> None:
    """Let the agent take an explained error as the last one that is allowed."""
    monitor = LocalElasticAgent._monitor_workers

    def monitor_workers(agent, *args, **kwargs):
        result = monitor(agent, *args, **kwargs)
        if any(failure.exitcode in EXPLAINED for failure in result.failures.values()):
            agent._remaining_restarts = 0
        return result

    LocalElasticAgent._monitor_workers = monitor_workers


def main() -> None:
    """Start the ranks, and end as they end."""
    forgo_useless_restarts()
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
