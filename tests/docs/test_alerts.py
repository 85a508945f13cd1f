"""The alerts of docs/howto/alerts.md name fields and metrics that exist, and fire."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudtask.contrib.opentelemetry import conventions
from cloudtask.gauges import STATES, Gauges
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs/howto/alerts.md").read_text(encoding="utf-8")
UNITS = {"s": "_seconds"}
SUFFIX = re.compile(r"_(bucket|count|sum|total)$")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


[RULES] = blocks("yaml")


def expressions() -> list[str]:
    [group] = yaml.safe_load(RULES)["groups"]
    return [rule["expr"] for rule in group["rules"]]


def exported() -> set[str]:
    """The metrics of the library as Prometheus has them."""
    names = {
        f"{name}{UNITS.get(unit, '')}" for name, unit in conventions.GAUGES.values()
    }
    names |= {f"{conventions.PROCESS_DURATION}_seconds"}
    names |= {f"{conventions.WAIT}_seconds"}
    return {name.replace(".", "_") for name in names}


@pytest.mark.parametrize("expression", expressions())
def test_an_alert_is_about_metrics_and_labels_of_the_library(expression: str) -> None:
    used = set(re.findall(r"\b(?:cloudtask|messaging)_\w+", expression))
    labels = {
        value.replace(".", "_")
        for name, value in vars(conventions).items()
        if name in ("TASK", "OUTCOME", "DESTINATION", "STATE")
    }
    assert used
    assert {SUFFIX.sub("", name) for name in used} - labels <= exported()


def test_the_line_of_the_log_has_the_fields_of_the_gauges() -> None:
    [line] = re.findall(r'^    (\{"cloudtask".*\})$', PAGE, re.MULTILINE)
    shown = json.loads(line)["cloudtask"]
    assert list(shown) == [field.name for field in fields(Gauges)]
    assert list(shown["runs"]) == [state.value for state in STATES]


def test_the_table_has_each_gauge_with_its_metric() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|", PAGE, re.MULTILINE))
    assert rows == {field: name for field, (name, _) in conventions.GAUGES.items()}


def test_policies_are_json_about_a_metric_that_the_page_makes() -> None:
    metric, policy = map(json.loads, blocks("json"))
    name = metric["name"].removeprefix("cloudtask_")
    assert metric["valueExtractor"] == f"EXTRACT(jsonPayload.cloudtask.{name})"
    assert name in {field.name for field in fields(Gauges)}
    for condition in policy["conditions"]:
        [kind] = condition.keys() - {"displayName"}
        assert f"user/{metric['name']}" in condition[kind]["filter"]


# Prometheus itself


def promtool(*args: str, cwd: Path) -> str:
    command = shutil.which("promtool")
    if command is None:
        pytest.skip("promtool, of the package prometheus, is not installed")
    done = subprocess.run([command, *args], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(RULES)
    assert "9 rules found" in promtool("check", "rules", "rules.yml", cwd=tmp_path)


PROCESS = "messaging_process_duration_seconds_count"
SERIES = {
    "OutboxIsNotSent": ("cloudtask_outbox_age_seconds", "0", "400"),
    "OutboxRowsAreParked": ("cloudtask_outbox_parked", "0", "2"),
    "IterationFailed": ('cloudtask_runs{cloudtask_run_state="failed"}', "0", "1"),
    "RowsFailed": ("cloudtask_rows_failed", "0", "5"),
    "IterationIsStuck": ("cloudtask_runs_quiet", "0", "1"),
    "TaskFailsForGood": (
        f'{PROCESS}{{cloudtask_task="t",cloudtask_outcome="exhausted"}}',
        "5",
        "5+1",
    ),
}


@pytest.mark.parametrize("alert", SERIES)
def test_an_alert_fires_when_it_should_and_not_before(
    alert: str, tmp_path: Path
) -> None:
    name, calm, troubled = SERIES[alert]
    (tmp_path / "rules.yml").write_text(RULES)
    _test_rules(tmp_path, alert, f"{name}", f"{calm}x90", fires=False)
    values = f"{troubled}x90" if "+" in troubled else f"{troubled}+0x90"
    _test_rules(tmp_path, alert, f"{name}", values, fires=True)


def _test_rules(
    folder: Path, alert: str, series: str, values: str, *, fires: bool
) -> None:
    values = values if "+" in values else values.replace("x", "+0x")
    case: dict[str, Any] = {
        "interval": "1m",
        "input_series": [{"series": series, "values": values}],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                "eval_time": "1h",
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
        ],
    }
    text = yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [case]})
    (folder / "test.yml").write_text(text)
    promtool("test", "rules", "test.yml", cwd=folder)
