# SPDX-License-Identifier: Apache-2.0
"""Pages need nothing else, and show text as it is."""

import base64
import re

import pytest

from se_mm.page import embedded, page, png, table

NASTY = '<script>alert("x")</script> & \'y\''


def test_text_is_shown_and_never_run(tmp_path, open_page):
    text = page(NASTY, table([NASTY, 'b'], [[NASTY, NASTY]]) + embedded(b'no picture', NASTY))
    assert '<script' not in text
    (tmp_path / 'page.html').write_text(text)
    shown = open_page(tmp_path / 'page.html')
    assert shown.title == NASTY
    assert shown.text.count(NASTY) == 4  # The heading and three cells.


def test_page_names_no_other_file():
    plt = pytest.importorskip('matplotlib.pyplot')
    picture = png(plt.figure())
    assert picture.startswith(b'\x89PNG') and not plt.get_fignums()
    text = page('title', embedded(picture, 'nothing'))
    assert base64.b64encode(picture).decode() in text
    assert all(url.startswith('data:') for url in re.findall(r'(?:src|href)="([^"]*)', text))
    assert 'url(' not in text and '@import' not in text
