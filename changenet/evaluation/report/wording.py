"""Figures as people read them: few digits, but never a 1 or a 0 that is only rounded."""

from __future__ import annotations


def percent(share: float | None) -> str:
    """Return a share as percent.

    >>> percent(0.99996), percent(1.0), percent(0.0004), percent(None)
    ('99.996 %', '100 %', '0.04 %', 'undefined')
    """
    return "undefined" if share is None else f"{_shown(100 * share, 100, digits=2)} %"


def number(value: float | None) -> str:
    """Return a figure between 0 and 1.

    >>> number(0.99692), number(0.99999998), number(1.0)
    ('0.99692', '0.99999998', '1')
    """
    return "undefined" if value is None else _shown(value, 1, digits=5)


def amount(value: float | None, *, digits: int) -> str:
    """Return what was measured; nothing where it was not.

    >>> amount(1234.56, digits=1), amount(None, digits=1)
    ('1,234.6', '')
    """
    return "" if value is None else f"{value:,.{digits}f}"


def _shown(value: float, top: float, *, digits: int) -> str:
    text = f"{value:.{digits}f}"
    while digits < 12 and float(text) in (0, top) and value not in (0, top):
        digits += 1
        text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") or "0"
