"""Rows of the charts that W&B shows: Pass@k over k, now and at the base, with the ends of the intervals."""

import math
from collections.abc import Mapping
from typing import Any

PASS_AT = "heldout/pass@"


def curve_rows(step: int, values: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the Pass@k curve of a measurement, empty if `values` has none.

    A row is a point of a line: `k`, `series`, `value`. Those of the policy also have the interval in `low` and `high`,
    which `deploy/wandb/pass_at_k.json` draws as a band. The base is `pass@k - change/pass@k`.
    """
    names = [name.removeprefix(PASS_AT) for name in values if name.startswith(PASS_AT)]
    rows: list[dict[str, Any]] = []
    for k in sorted(int(name) for name in names if name.isdigit()):
        value, low, high = (values.get(f"{PASS_AT}{k}{end}", math.nan) for end in ("", "/low", "/high"))
        if not math.isfinite(value):
            continue
        rows.append({"k": k, "series": "policy", "value": value, "low": low, "high": high, "at": step})
        ends = {"interval, low end": low, "interval, high end": high}
        ends["base"] = value - values.get(f"heldout/change/pass@{k}", math.nan)
        for series, end in ends.items():
            if math.isfinite(end):
                rows.append({"k": k, "series": series, "value": end, "low": None, "high": None, "at": step})
    return rows
