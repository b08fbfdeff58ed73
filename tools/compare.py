# SPDX-License-Identifier: Apache-2.0
"""Train several smoothings with several seeds each, and compare them seed by seed.

``python tools/compare.py CONFIG --smoothing tma se sts --keep-prob 0.5 0.7 --seeds 0 1 2 3 4``
trains a matrix of smoothings over any config, ``python tools/compare.py STUDY`` trains a study
(examples are in ``configs/studies``), and ``python tools/compare.py A.py B.py`` trains configs as
they are. See ``docs/howto/compare.md``.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # Lets it run from a checkout.

try:
    import se_mm  # noqa: F401 -- registers what configs name
    from se_mm.engine.cfg_options import key_value
    from se_mm.engine.launch import config_file, run_tool
    from se_mm.home import TOOLS
    from se_mm.smoothing.options import OptionError
    from se_mm.studies.comparison import compare
    from se_mm.studies.report import write_report
    from se_mm.studies.runs import gpus_for, run_all
    from se_mm.studies.study import Study, make_study, read_study, runs_of
except ImportError as error:  # Something is not installed, or installed twice.
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)

INTERRUPTED = 'interrupted: run the same command again to complete the missing runs.'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Compare smoothings over several seeds.')
    add = parser.add_argument
    add('configs', nargs='+', help='a study, or configs to compare with the first one')
    add('--smoothing', nargs='+', help='smoothings to compare: none, tma, se, sts')
    add('--keep-prob', type=float, nargs='+', help='for se and sts')
    add('--momentum', type=float, nargs='+', help="for tma and sts; default: the config's own")
    add('--granularity', nargs='+', help='for se and sts: tensor, layer, channel, element')
    add('--buffers', nargs='+', help='for tma, se and sts: copy, average_norms, average, ...')
    add('--seeds', type=int, nargs='+', help="default: the study's, or 0 to 4")
    add('--metric', nargs='+', help='metrics of the last evaluation to compare')
    add('--work-dir', type=Path, default=Path('work_dirs/compare'))
    add('--no-train', action='store_true', help='only compare completed runs')
    add('--jobs', type=int, help='runs at a time; default: one per GPU, or per core without GPUs')
    add('--slurm', metavar='PARTITION', help='submit each run as a job; --jobs limits their number')
    cfg_options = dict(nargs='+', type=key_value, action='extend', default=[])
    add('--cfg-options', metavar='KEY=VALUE', **cfg_options)
    return parser.parse_args()


def study_of(args: argparse.Namespace) -> Study:
    """Build the study that the command line describes."""
    names = ('smoothing', 'keep_prob', 'momentum', 'granularity', 'buffers')
    axes = {name: values for name in names if (values := getattr(args, name))}
    paths = [config_file(path) for path in args.configs]
    configs = {Path(path).stem: path for path in paths}
    if len(configs) < len(paths):
        raise OptionError('configs must have distinct names; rename one')
    study = read_study(paths[0])
    if study is None:
        study = {'configs': configs, 'matrix': [axes] if axes else []}
        study |= {'seeds': [0, 1, 2, 3, 4], 'metrics': ['teacher/accuracy/top1']}
    elif axes or len(paths) > 1:
        raise OptionError('a study must be the only argument, without other configs or a matrix')
    given = {'seeds': args.seeds, 'metrics': args.metric}
    study |= {name: values for name, values in given.items() if values}
    study['cfg_options'] = {**study.get('cfg_options', {}), **dict(args.cfg_options)}
    return make_study(study)


def main() -> None:
    """Train the missing runs, and write the comparison."""
    args = parse_args()
    console = Console()
    for kill in (signal.SIGINT, signal.SIGTERM):  # So that no training is left behind.
        signal.signal(kill, signal.default_int_handler)
    study, folder = study_of(args), args.work_dir.resolve()
    train = [sys.executable, str(TOOLS / 'train.py')]
    if args.slurm:
        train = ['bash', str(TOOLS / 'slurm_train.sh'), args.slurm, 'compare']
    runs = runs_of(study, folder, train)
    wanted = [run for run in dict.fromkeys(runs.values()) if run.metrics or not args.no_train]
    gpus = [''] * (args.jobs or len(runs)) if args.slurm else gpus_for(args.jobs)
    try:
        failures = run_all(wanted, console, gpus, study.metrics)
    except KeyboardInterrupt:
        print(INTERRUPTED)
        sys.exit(130)
    results = compare(study, runs)
    if not results.empty:
        write_report(results, study.seeds, shlex.join(['python', *sys.argv]), folder, console)
        print(f'wrote report.html, results.json and pictures to {args.work_dir}')
    elif not failures:
        raise OptionError(f'--work-dir={str(args.work_dir)!r} has no completed run to compare')
    if failures:
        sys.exit('\n'.join(map(str, failures)))


if __name__ == '__main__':
    run_tool(main, INTERRUPTED)
