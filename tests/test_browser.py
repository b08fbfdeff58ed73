# SPDX-License-Identifier: Apache-2.0
"""The browser that tests open pages in tells a good page from a bad one."""

BAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Dürftig</title></head><body>
<p>text</p><img src="https://example.com/a.png" alt="far away"><script>nothing()</script>
</body></html>
"""


def test_a_page_says_what_it_asks_for_and_what_fails_in_it(tmp_path, open_page):
    path = tmp_path / 'page.html'
    path.write_text(BAD)
    page = open_page(path)
    assert (page.title, page.lang, page.text.strip()) == ('Dürftig', 'en', 'text')
    assert page.requests == ['https://example.com/a.png']
    assert page.images == [(False, 'far away')]
    assert any('nothing is not defined' in line for line in page.errors)
    without = open_page(path, scripts=False)
    assert not any('not defined' in line for line in without.errors)
