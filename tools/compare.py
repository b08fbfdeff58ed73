# SPDX-License-Identifier: Apache-2.0
"""Train several smoothings with several seeds each, and compare them seed by seed.

``python tools/compare.py CONFIG --smoothing tma se sts --keep-prob 0.5 0.7 --seeds 0 1 2 3 4``
trains a matrix of smoothings over any config, ``python tools/compare.py STUDY`` trains a study
(examples are in ``configs/studies``), and ``python tools/compare.py A.py B.py`` trains configs as
they are. The TMA with the matched horizon is always added. A seed sets the seed of the run and,
where the config draws a label split, of the split too; for detection it selects the fold. Completed
runs are not repeated, and interrupted ones resume from their checkpoint. The result is a table in
the terminal and a page in the work dir.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

TOOLS = Path(__file__).resolve().parent
sys.path.insert(0, str(TOOLS.parent))  # Lets it run from a checkout.

try:
    import se_mm  # noqa: F401 -- registers what configs name
    from se_mm.engine.launch import KeyValues, config_file
    from se_mm.evaluation.comparison import as_json, compare
    from se_mm.evaluation.comparison_report import show, write_report
    from se_mm.evaluation.matrix import AXES
    from se_mm.evaluation.runs import RunFailure, check_reported, run_all
    from se_mm.evaluation.study import Study, is_study, make_study, read_study, runs_of
    from se_mm.smoothing import GRANULARITIES
    from se_mm.smoothing.options import OptionError
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)

DEFAULT_SEEDS = [0, 1, 2, 3, 4]
DEFAULT_METRICS = ['teacher/accuracy/top1']


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Compare smoothings over several seeds.')
    parser.add_argument(
        'configs', nargs='+', help='a study, or configs to compare to the first of them'
    )
    matrix = parser.add_argument_group('matrix over each config')
    matrix.add_argument('--smoothing', nargs='+', choices=AXES, help='how the teacher is updated')
    matrix.add_argument('--keep-prob', type=float, nargs='+', help='for se and sts')
    matrix.add_argument(
        '--momentum', type=float, nargs='+', help="for tma and sts; default: the config's own"
    )
    matrix.add_argument('--granularity', nargs='+', choices=GRANULARITIES, help='for se and sts')
    parser.add_argument('--seeds', type=int, nargs='+', help="default: the study's, or 0 to 4")
    parser.add_argument('--metric', nargs='+', help='metrics of the last evaluation to compare')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/compare'))
    parser.add_argument('--fresh', action='store_true', help='repeat completed runs')
    parser.add_argument('--no-train', action='store_true', help='only compare completed runs')
    parser.add_argument(
        '--jobs', type=int, help='runs at a time; default: one per GPU, or per core without GPUs'
    )
    parser.add_argument(
        '--slurm',
        metavar='PARTITION',
        help='submit each run as a job with tools/slurm_train.sh; --jobs limits the queued jobs',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        default={},
        metavar='KEY=VALUE',
        help='changes to every config',
    )
    return parser.parse_args()


def study_of(args: argparse.Namespace) -> Study:
    """Build the study that the command line describes.

    Raises:
        OptionError: If the options contradict each other, or one is invalid.
    """
    names = ('smoothing', 'keep_prob', 'momentum', 'granularity')
    axes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    paths = [config_file(path) for path in args.configs]
    studies = [path for path in paths if is_study(path)]
    if studies:
        if len(paths) > 1 or axes:
            other = f'--{next(iter(axes)).replace("_", "-")}' if axes else 'other configs'
            raise OptionError(f'a study must be the only argument, got {studies[0]!r} and {other}')
        return read_study(studies[0], args.seeds, args.metric, args.cfg_options)
    stems = [Path(path).stem for path in paths]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise OptionError(f'configs must have distinct names, got {twice!r} twice; rename one')
    return make_study(
        dict(zip(stems, paths)),
        [axes] if axes else [],
        args.seeds or DEFAULT_SEEDS,
        args.metric or DEFAULT_METRICS,
        args.cfg_options,
    )


@contextlib.contextmanager
def work_dir_of(path: Path) -> Iterator[Path]:
    """Create the work dir and lock it against other comparisons.

    Raises:
        OptionError: If it is not writable, or in use by another comparison.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / 'compare.lock').open('w')
    except OSError as error:
        raise OptionError(
            f'--work-dir must be a writable folder, got {str(path)!r}: {error.strerror}'
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OptionError(
                f'--work-dir={str(path)!r} is in use by another comparison; wait for it, or use '
                f'another folder'
            ) from None
        yield path.resolve()


def trainer(args: argparse.Namespace) -> list[str]:
    """Return the words of the training command before the config."""
    if args.slurm:
        return ['bash', str(TOOLS / 'slurm_train.sh'), args.slurm, 'compare']
    return [sys.executable, str(TOOLS / 'train.py')]


def run(args: argparse.Namespace, console: Console) -> int:
    """Train the missing runs, and write the comparison."""
    if args.jobs is not None and args.jobs < 1:
        raise OptionError(f'--jobs must be an integer >= 1, got {args.jobs}')
    begin = time.monotonic()
    study = study_of(args)
    with work_dir_of(args.work_dir) as work_dir:
        runs = runs_of(study, work_dir, trainer(args))
        # Seed by seed, so that an interrupted comparison has complete seeds.
        every = [of_cell[seed] for seed in study.seeds for of_cell in runs.values()]
        failures: list[RunFailure] = []
        if args.no_train:
            for one in every:
                check_reported(study.metrics, one)
        else:
            for one in every if args.fresh else []:
                one.set_aside()
            jobs = args.jobs or (len(every) if args.slurm else None)
            gpus = 0 if args.slurm else None
            failures = run_all(every, console, jobs, study.metrics, gpus)
        comparisons = [found for found in compare(study, runs) if found.rows]
        if not comparisons:
            raise OptionError(f'--work-dir={str(args.work_dir)!r} has no completed run to compare')
        for comparison in comparisons:
            show(comparison, console)
        write_report(comparisons, shlex.join(['python', *sys.argv]), work_dir)
        (work_dir / 'results.json').write_text(json.dumps(as_json(comparisons), indent=2))
    for failure in failures:
        console.print(str(failure), markup=False, highlight=False)
    files = 'report.html, report.md, results.json and the pictures'
    console.print(f'{time.monotonic() - begin:.0f} s; {args.work_dir} has {files}.')
    return 1 if failures else 0


def main() -> int:
    """Compare, and return the exit status."""
    args = parse_args()
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(args, console)
    except OptionError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        console.print('interrupted: run the same command again to complete the missing runs.')
        return 130
    except RunFailure as error:
        console.print(str(error), markup=False, highlight=False)
        return 1


if __name__ == '__main__':
    sys.exit(main())
