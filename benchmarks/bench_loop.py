"""How well and how fast the loop closes: the demo, seed by seed, each with its controls.

Per seed three runs on fresh state: with drift; with drift and retraining off; without drift. Each
row is what ``penstock demo -o json`` says; rows are appended to results/loop.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "loop.csv"
PENSTOCK = Path(sys.executable).parent / "penstock"
RUN_S = 900.0
KINDS: dict[str, tuple[str, ...]] = {
    "loop": (),
    "control": ("--no-retrain",),
    "no drift": ("--drift", "none", "--rate", "3000"),
}
COLUMNS = (
    *("when", "cores", "seed", "run", "ok", "failed_stage"),
    *("before", "before_oracle", "after", "after_oracle", "back", "back_low", "back_high"),
    *("back_oracle", "back_rows", "old_champion", "alarm_labels", "requests"),
    *("alarm_s", "alarm_to_promotion_s", "canary_keys_percent", "canary_rows", "gain_low"),
    *("events", "lost", "duplicates", "ready_s", "seconds"),
)


def run(seed: int, kind: str, offset: int) -> dict[str, Any]:
    """Run the demo once and return its row."""
    command = [str(PENSTOCK), "-o", "json", "demo", "--seed", str(seed)]
    command += ["--port-offset", str(offset), *KINDS[kind]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    if not done.stdout.strip():
        raise SystemExit(f"{' '.join(command)} exits {done.returncode}:\n{done.stderr[-2000:]}")
    return row(seed, kind, json.loads(done.stdout))


def row(seed: int, kind: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return a demo's facts as a row of the table."""
    auc = {name: value or {} for name, value in facts["auc"].items()}
    before, after = auc.get("before_drift", {}), auc.get("after_drift", {})
    back, alarm = auc.get("after_promotion", {}), facts.get("alarm") or {}
    retrain, canary = facts.get("retrain") or {}, facts.get("canary") or {}
    low, high = back.get("champion_interval", (None, None))
    metrics = retrain.get("metrics") or {}
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "seed": seed,
        "run": kind,
        "ok": facts["ok"],
        "failed_stage": facts["failed_stage"],
        "before": before.get("champion"),
        "before_oracle": before.get("oracle"),
        "after": after.get("champion"),
        "after_oracle": after.get("oracle"),
        "back": back.get("champion"),
        "back_low": low,
        "back_high": high,
        "back_oracle": back.get("oracle"),
        "back_rows": back.get("rows"),
        "old_champion": back.get("old_champion"),
        "alarm_labels": alarm.get("labels"),
        "requests": int(bool(retrain)),
        "alarm_s": alarm.get("seconds"),
        "alarm_to_promotion_s": retrain.get("alarm_to_promotion_seconds"),
        "canary_keys_percent": canary.get("keys_percent"),
        "canary_rows": metrics.get("canary_rows"),
        "gain_low": metrics.get("gain_low"),
        "events": facts["ledger"]["events"],
        "lost": facts["ledger"]["lost"],
        "duplicates": facts["ledger"]["duplicates"],
        "ready_s": facts["ready_seconds"],
        "seconds": facts["seconds"],
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    shown = COLUMNS[2:]
    print(f"| {' | '.join(shown)} |")
    print("|---" * len(shown) + "|")
    for one in rows:
        cells = [round(v, 4) if isinstance(v, float) else v for v in (one[c] for c in shown)]
        print(f"| {' | '.join('' if c is None else str(c) for c in cells)} |")


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description="How well and how fast the loop closes.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--runs", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--port-offset", type=int, default=0)
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        for kind in options.runs:
            rows.append(run(seed, kind, options.port_offset))
            is_new = not RESULTS.exists()
            with RESULTS.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if is_new:
                    writer.writeheader()
                writer.writerow(rows[-1])
            show(rows[-1:])
    show(rows)


if __name__ == "__main__":
    main()
