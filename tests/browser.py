# SPDX-License-Identifier: Apache-2.0
"""Opens a page in a headless Chromium, as a reader does, and says what happened there.

Chromium is spoken to by its DevTools protocol over two pipes, which needs no package and no port.
Tests get :func:`open_page` as a fixture of that name, which skips where no Chromium is installed.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

_NAMES = (
    'chromium',
    'chromium-browser',
    'google-chrome',
    'google-chrome-stable',
    'chrome',
    'chromium-headless-shell',
)


@dataclass
class Page:
    """What a reader of a page has.

    Attributes:
        title: Of the document.
        lang: Of its root.
        text: What is read.
        html: The document once it is loaded, scripts run.
        errors: Lines of the console that are errors or warnings, exceptions included.
        requests: Addresses asked for besides the page itself and what is inside it (``data:``).
        images: For each image, whether it is drawn, and its alt text.
        overflows: Whether the page is wider than the window.
    """

    title: str = ''
    lang: str = ''
    text: str = ''
    html: str = ''
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    images: list[tuple[bool, str]] = field(default_factory=list)
    overflows: bool = False


# Turns into the browser, with the ends of the pipes where it expects them.
_START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_READ = """JSON.stringify({
    title: document.title,
    lang: document.documentElement.lang,
    text: document.body ? document.body.innerText : '',
    html: document.documentElement.outerHTML,
    images: [...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt]),
    overflows: document.documentElement.scrollWidth > window.innerWidth + 1,
})"""


def find_browser() -> Optional[str]:
    """The path of a Chromium, or of what ``CHROME`` names; None if there is none."""
    named = os.environ.get('CHROME')
    if named:
        return named
    found = next((path for path in map(shutil.which, _NAMES) if path), None)
    if found:
        return found
    # Where playwright puts its own.
    home = Path(os.environ.get('PLAYWRIGHT_BROWSERS_PATH', Path.home() / '.cache/ms-playwright'))
    shells = [*home.glob('chromium*/chrome-*/headless_shell'), *home.glob('chromium*/*/chrome')]
    return str(shells[0]) if shells else None


def open_page(
    path: Path | str,
    scripts: bool = True,
    width: int = 1200,
    picture: Path | str | None = None,
    timeout: float = 600,
) -> Page:
    """Open a file without network, wait until it is loaded, and read it.

    Args:
        path: The HTML file.
        scripts: Whether JavaScript runs.
        width: Of the window, in pixels.
        picture: Where to write a PNG of the whole page; None: nowhere.
        timeout: Seconds after which the page counts as broken.

    Raises:
        FileNotFoundError: If there is no browser; a test skips before.
    """
    browser = find_browser()
    if browser is None:
        raise FileNotFoundError('no Chromium is installed')
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        _Browser(browser, profile, width, time.monotonic() + timeout) as chromium,
    ):
        return _read(chromium, Path(path).resolve().as_uri(), scripts, picture)


def _read(chromium: _Browser, address: str, scripts: bool, picture: Path | str | None) -> Page:
    page = Page()
    target = chromium.call('Target.createTarget', url='about:blank')['targetId']
    chromium.session = chromium.call('Target.attachToTarget', targetId=target, flatten=True)[
        'sessionId'
    ]
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
        chromium.call(f'{domain}.enable')
    if not scripts:
        chromium.call('Emulation.setScriptExecutionDisabled', value=True)
    chromium.call('Page.navigate', url=address)
    while not any(event['method'] == 'Page.loadEventFired' for event in chromium.events):
        chromium.receive()
    page_of = chromium.call('Runtime.evaluate', expression=_READ, returnByValue=True)
    found = json.loads(page_of['result']['value'])
    for key, value in found.items():
        setattr(page, key, value)
    page.images = [(drawn, alt) for drawn, alt in page.images]
    if picture is not None:
        shot = chromium.call('Page.captureScreenshot', captureBeyondViewport=True)
        Path(picture).write_bytes(base64.b64decode(shot['data']))
    for event in chromium.events:
        what: dict[str, Any] = event['params']
        if event['method'] == 'Runtime.exceptionThrown':
            details = what['exceptionDetails']
            page.errors.append(details.get('exception', {}).get('description', details['text']))
        elif event['method'] == 'Log.entryAdded' and what['entry']['level'] in ('error', 'warning'):
            page.errors.append(what['entry']['text'])
        elif event['method'] == 'Runtime.consoleAPICalled' and what['type'] in ('error', 'warning'):
            page.errors.append(' '.join(str(arg.get('value')) for arg in what['args']))
        elif event['method'] == 'Network.requestWillBeSent':
            url = what['request']['url']
            if url.split('#')[0] != address and not url.startswith(('data:', 'about:', 'blob:')):
                page.requests.append(url)
    return page


class _Browser:
    """A headless browser, spoken to over two pipes."""

    def __init__(self, browser: str, profile: str, width: int, deadline: float) -> None:
        self.events: list[dict[str, Any]] = []
        self.session: Optional[str] = None
        self._deadline = deadline
        self._number = 0
        self._unread = b''
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Away from 3 and 4, which the browser reads and writes.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
        os.close(theirs_in)
        os.close(theirs_out)
        self._process = subprocess.Popen(
            [
                *(sys.executable, '-ISc', _START, *map(str, ends), browser),
                '--headless',
                '--remote-debugging-pipe',
                '--no-sandbox',  # Root has none, as in a container.
                '--disable-gpu',
                '--disable-dev-shm-usage',
                '--no-first-run',
                '--disable-background-networking',
                '--host-resolver-rules=MAP * ~NOTFOUND',
                f'--user-data-dir={profile}',
                f'--window-size={width},900',
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=ends,
            start_new_session=True,
        )
        for end in ends:
            os.close(end)

    def __enter__(self) -> _Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.session = None
            self.call('Browser.close')
            self._process.wait(10)
        except (OSError, TimeoutError, RuntimeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask for something, and wait for the answer."""
        self._number += 1
        message: dict[str, Any] = {'id': self._number, 'method': method, 'params': params}
        if self.session:
            message['sessionId'] = self.session
        os.write(self._out, json.dumps(message).encode() + b'\0')
        while True:
            answer = self.receive()
            if answer.get('id') == self._number:
                if 'error' in answer:
                    raise RuntimeError(f'{method}: {answer["error"]}')
                return answer['result']

    def receive(self) -> dict[str, Any]:
        """The next message; an event is kept."""
        while b'\0' not in self._unread:
            left = self._deadline - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise TimeoutError('the browser does not answer')
            some = os.read(self._in, 1 << 16)
            if not some:
                raise RuntimeError('the browser has ended')
            self._unread += some
        message, _, self._unread = self._unread.partition(b'\0')
        found = json.loads(message)
        if 'method' in found:
            self.events.append(found)
        return found
