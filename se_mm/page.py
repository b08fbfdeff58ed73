# SPDX-License-Identifier: Apache-2.0
"""Self-contained HTML pages, without other files or network access."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

from jinja2 import Environment, PackageLoader
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

_TEMPLATES = Environment(loader=PackageLoader('se_mm'), autoescape=True, trim_blocks=True)


def render(template: str, **values: Any) -> str:
    """Fill in a template of the folder ``templates``."""
    return _TEMPLATES.get_template(template).render(values)


def page(title: str, body: str) -> str:
    """Format a complete HTML page with a title, also its first heading, and an HTML body."""
    return render('page.html', title=title, body=body)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format an HTML table; the first column has the row headings."""
    return render('table.html', header=header, rows=rows)


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
