"""Numbers of the page: no longer than what is shown of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pandas as pd


def short(value: Any) -> Any:
    """``value`` JSON-ready: floats to four digits behind the point, what is no number or not finite as None."""
    if isinstance(value, float):
        return round(value, 4) + 0.0 if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [short(item) for item in value]
    return None if value is None or value is pd.NA else value


def shown_as(value: Any, digits: int = 1) -> Any:
    """:func:`short` of a number that the page shows with ``digits`` behind the point, as tables in Markdown show it.

    JavaScript rounds what it is given, and a number that was shortened to a tie, or lies on one, other than Python does the
    number itself: then it is given what is to be shown.
    """
    near = short(value)
    if not isinstance(value, float) or near is None:
        return near
    text = f"{round(value, digits) + 0.0:.{digits}f}"
    theirs = Decimal(near).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return near if theirs == Decimal(text) else float(text)
