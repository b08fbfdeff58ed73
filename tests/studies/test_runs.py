# SPDX-License-Identifier: Apache-2.0
"""Several runs in processes of their own: what is repeated, and what ends them.

The processes are scripts that write what MMEngine would, so that each behaviour takes moments;
test_compare.py has real trainings.
"""

import io
import platform
import re
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch
from rich.console import Console

from se_mm.environment import processor
from se_mm.home import HOME as ROOT
from se_mm.smoothing.options import OptionError
from se_mm.studies.runs import Run, RunFailure, digest, gpus_for, run_all

SCRIPT = """
import json, pathlib, sys, time
folder, what = pathlib.Path(sys.argv[1]), sys.argv[2]
with open(folder / 'starts', 'a') as file:
    file.write(' '.join(sys.argv[2:]) + '\\n')
log = folder / str(time.time()) / 'vis_data/scalars.json'
log.parent.mkdir(parents=True)
write = lambda **line: log.open('a').write(json.dumps(line) + '\\n')
write(loss=1.0, step=1)
if what in ('wait', 'slow'):
    time.sleep(60 if what == 'wait' else 2)
if what == 'fail':
    sys.exit('the data is not there')
write(**{'accuracy/top1': 50.0, 'time': 1.0, 'step': 2})
"""


ONE = ('',)  # One run at a time, on any GPU.


@pytest.fixture
def make(tmp_path):
    """Makes a run of the script, in a folder of its name."""
    script = tmp_path / 'script.py'
    script.write_text(textwrap.dedent(SCRIPT))

    def run(name, what='train'):
        folder = tmp_path / name
        return Run(name, folder, [sys.executable, str(script), str(folder), what], 2)

    return run


def fails(run):
    with pytest.raises(RunFailure):
        run.train()


@pytest.fixture
def in_background():
    """Starts a run, and stops it once its process is at work."""

    def start_and_stop(run, checkpoint=False):
        thread = threading.Thread(target=fails, args=[run])
        thread.start()
        while not (run.work_dir / 'starts').exists():
            time.sleep(0.05)
        if checkpoint:
            (run.work_dir / 'last_checkpoint').write_text('iter_1.pth')
        run.stop()
        thread.join()

    return start_and_stop


def quiet():
    return Console(file=io.StringIO())


def starts(run):
    return (run.work_dir / 'starts').read_text().splitlines()


def test_complete_run_has_the_metrics_of_its_last_evaluation_and_is_not_repeated(make):
    runs = [make('a'), make('b')]
    assert run_all(runs, quiet(), ['', '']) == []
    assert [run.metrics for run in runs] == [{'accuracy/top1': 50.0}] * 2
    run_all([make('a'), make('b')], quiet(), ONE)
    assert starts(runs[0]) == ['train']


def test_identity_is_the_value_and_not_the_order_of_its_keys():
    one = digest({'x': 1, 'y': (2, 3)})
    assert digest({'y': [2, 3], 'x': 1}) == one != digest({'y': [2, 3], 'x': 2})


def test_stopped_run_continues_if_it_has_a_checkpoint(make, in_background):
    in_background(make('a', 'wait'))
    again = make('a')
    run_all([again], quiet(), ONE)
    assert starts(again) == ['wait', 'train']
    in_background(make('b', 'wait'), checkpoint=True)
    again = make('b')
    run_all([again], quiet(), ONE)
    (first, second) = starts(again)
    assert first == 'wait' and second.startswith('train --resume --cfg-options default_hooks.')


def test_log_says_what_was_run_where_and_how_often(make, in_background):
    in_background(make('a', 'wait'), checkpoint=True)
    run = make('a')
    run_all([run], quiet(), ['3'])
    log = (run.work_dir / 'log.txt').read_text()
    first, second = (line for line in log.splitlines() if platform.node() in line)
    assert f'{processor()}, GPU not chosen' in first
    assert 'GPU 3 ' in second and f'{run.work_dir} train --resume' in second


def test_failure_before_any_success_stops_all_and_later_ones_are_returned(make):
    runs = [make('a', 'fail'), make('b', 'wait')]
    (failure,) = run_all(runs, quiet(), ONE)
    assert re.match(r'a ended with status 1(.|\n)*the data is not there', str(failure))
    assert runs[1].metrics is None
    (failure,) = run_all([make('b'), make('a', 'fail'), make('c')], quiet(), ONE)
    assert str(failure).startswith('a ended with status 1')
    assert make('c').metrics


def test_metric_that_no_run_reports_is_refused_after_the_first_run(make):
    runs = [make('a'), make('b', 'wait')]
    with pytest.raises(OptionError, match=r"a metric of a must be .*, got 'acuracy/top1'") as told:
        run_all(runs, quiet(), ONE, wanted=['acuracy/top1'])
    assert "Did you mean 'accuracy/top1'?" in str(told.value)
    assert runs[0].metrics and runs[1].metrics is None


def test_process_of_a_killed_comparison_ends_before_its_run_continues(make):
    left = make('a', 'wait')
    code = f"""
import sys, threading
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from se_mm.studies.runs import Run
Run('a', Path({str(left.work_dir)!r}), {left.command!r}, 2).train()
"""
    parent = subprocess.Popen([sys.executable, '-c', code])
    while not (left.work_dir / 'starts').exists():
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    begin = time.monotonic()
    run = make('a')
    run_all([run], quiet(), ONE)
    assert run.metrics
    assert time.monotonic() - begin < 30  # It would wait for 60.


def test_two_comparisons_of_the_same_runs_train_each_once(make):
    runs = [[make('a', 'slow'), make('b', 'slow')] for _ in range(2)]
    threads = [threading.Thread(target=run_all, args=(each, quiet(), ['', ''])) for each in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [starts(run) for run in runs[0]] == [['slow'], ['slow']]
    assert all(run.metrics for run in runs[1])


def test_run_that_another_comparison_trains_can_be_stopped_without_it(make):
    other, run = make('a', 'wait'), make('a', 'wait')
    threads = [threading.Thread(target=fails, args=[other]), threading.Thread(target=run.train)]
    threads[0].start()
    while not (other.work_dir / 'starts').exists():
        time.sleep(0.05)
    threads[1].start()
    run.stop()
    threads[1].join(timeout=10)
    assert not threads[1].is_alive()
    assert run.process is None and other.process.poll() is None
    other.stop()
    threads[0].join()


@pytest.mark.parametrize(
    'visible, expected',
    [(None, {'0', '1'}), ('3,5', {'3', '5'}), ('GPU-8f, GPU-1c', {'GPU-8f', 'GPU-1c'})],
)
def test_runs_use_the_gpus_that_the_comparison_sees(make, tmp_path, monkeypatch, visible, expected):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    script = tmp_path / 'script.py'
    script.write_text(
        script.read_text() + "\nimport os\n(folder / 'gpu').write_text("
        "os.environ.get('CUDA_VISIBLE_DEVICES', ''))\n"
    )
    runs = [make(name) for name in 'abcd']
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    run_all(runs, quiet(), gpus_for())
    used = [(run.work_dir / 'gpu').read_text() for run in runs]
    assert set(used) == expected and used[0] != used[1]
