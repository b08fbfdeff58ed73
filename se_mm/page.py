# SPDX-License-Identifier: Apache-2.0
"""Self-contained HTML pages, without other files or network access."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from jinja2 import Environment
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def page(title: str, body: str) -> str:
    """Format a complete HTML page of a title, which is its first heading too, and an HTML body."""
    return _PAGE.render(title=title, body=body)


def png(figure: Figure) -> bytes:
    """Render a figure as PNG, and close it."""
    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=130)
    plt.close(figure)
    return picture.getvalue()


def embedded(picture: bytes, alt: str) -> str:
    """Embed a PNG in an HTML page, with an alternative text."""
    data = base64.b64encode(picture).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format an HTML table with row headings in the first column."""
    return _TABLE.render(header=header, rows=rows)


_templates = Environment(autoescape=True, trim_blocks=True)
_TABLE = _templates.from_string("""<div class="wide"><table><thead>
<tr>{% for cell in header %}<th scope="col">{{ cell }}</th>{% endfor %}</tr>
</thead><tbody>
{% for row in rows %}
<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>""")
_PAGE = _templates.from_string("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .25rem .75rem; text-align: left; border-bottom: 1px solid #ddd; }
th { font-weight: normal; }
thead th { border-bottom: 2px solid #888; font-weight: bold; }
img { max-width: 100%; height: auto; }
pre { background: #f4f4f4; padding: .75rem; overflow-x: auto; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{{ body | safe }}
</body>
</html>
""")
