"""docs/metrics.md, and what docs/monitor.md and docs/fleet have for Prometheus, on a real one."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import needs, stack
from support.driver import eventually, supervisord, until
from support.messages import look, reap, row
from support.metrics import Child, child
from support.sections import listener, program

FLEET = stack.ROOT / "docs/fleet"
METRICS = stack.ROOT / "docs/metrics.md"
DASHBOARD = json.loads((FLEET / "dashboard.json").read_text())


def promtool(*words: str) -> None:
    result = subprocess.run(["promtool", *words], capture_output=True, text=True, cwd=FLEET)
    assert result.returncode == 0, result.stdout + result.stderr


def alerts() -> set[str]:
    return set(re.findall(r"- alert: (\w+)", (FLEET / "alerts.yml").read_text()))


def test_the_alert_rules_are_valid_and_pass_their_tests():
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts.test.yml")


def test_each_alert_has_a_firing_and_a_silent_test_and_is_documented():
    tests = (FLEET / "alerts.test.yml").read_text()
    page = (stack.ROOT / "docs/monitor.md").read_text()
    assert alerts() == set(re.findall(r"^\| `(Memreap\w+)` \|", page, re.MULTILINE))
    for alert in alerts():
        assert re.search(rf"alertname: {alert}, exp_alerts: \[\]", tests), alert
        assert re.search(rf"alertname: {alert}\n +exp_alerts:\n +- exp_labels", tests), alert


# The page.


@pytest.fixture(scope="module")
def exposed() -> str:
    """A scrape with every metric that there can be."""
    full = row(total_limit_bytes=9, pool_bytes=8, growth_bytes_per_hour=7)
    with child() as metrics:
        metrics.takes(look(full), *reap())
        return eventually(lambda: assert_scraped(metrics, 'memreap_reaps_total{pool="myapp",reason="limit"} 1.0'))


def assert_scraped(metrics: Child, expected: str) -> str:
    try:
        text = metrics.scrape()
    except OSError as error:
        raise AssertionError(str(error)) from None
    assert expected in text
    return text


def labels_in(text: str, metric: str) -> set[str]:
    samples = re.findall(rf"(?m)^{metric}(?:_bucket|_sum|_count)?(?:\{{(.*)\}})? ", text)
    assert samples, f"{metric} has no value"
    return {label for sample in samples for label in re.findall(r'(\w+)="', sample)} - {"le"}


def test_the_page_has_exactly_the_exposed_metrics_with_types_and_labels(exposed):
    table = re.findall(r"(?m)^\| `(memreap_\w+)` \| (\w+) \| (.*?) \|", METRICS.read_text())
    shown = {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in table}
    types = re.findall(r"(?m)^# TYPE (\S+) (\S+)", exposed)
    assert shown == {name: (kind, labels_in(exposed, name)) for name, kind in types}


def test_the_page_has_every_reason_and_kind(exposed):
    (reasons,) = re.findall(r"(?m)^\| `reason` \| (.*)$", METRICS.read_text())
    for name in ("errors", "refused_signals", "reaps", "not_relieved"):
        (meaning,) = re.findall(rf"(?m)^\| `memreap_{name}_total` (.*)$", METRICS.read_text())
        values = set(re.findall(rf'(?m)^memreap_{name}_total.*(?:kind|reason)="(\w+)"', exposed))
        assert values <= set(re.findall(r"`(\w+)`", reasons if name == "reaps" else meaning))


def test_a_pool_has_no_more_series_than_documented(exposed):
    (most,) = re.findall(r"A pool has at most\s+(\d+)\s+time", METRICS.read_text())
    count = len(re.findall('(?m)^memreap_.*pool="myapp"', exposed))
    assert int(most) - 10 < count <= int(most)


def test_every_metric_used_by_alerts_and_dashboard_is_exposed(exposed):
    types = dict(re.findall(r"(?m)^# TYPE (\S+) (\S+)", exposed))
    asked = re.findall(r"\bmemreap_\w+", (FLEET / "alerts.yml").read_text() + json.dumps(DASHBOARD))
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in asked} <= set(types)


# A real Prometheus that scrapes a real listener.

# Growth is known after seconds, not minutes.
IMPATIENT = """\
import sys
from supervisor_memreap.advice import growth
from supervisor_memreap.listener import sizes
from supervisor_memreap.__main__ import main

sizes.MEASURE, growth.WARM_UP, growth.APART, growth.WATCHED = 0.2, 0.0, 0.2, 3.0
sys.exit(main())
"""


class Prometheus:
    """`listener` is what it scrapes, as it names it."""

    def __init__(self, port: int, listener: str):
        self._port = port
        self.listener = listener

    def get(self, path: str, **parameters: Any) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        except OSError as error:
            raise AssertionError(str(error)) from None

    def values(self, expression: str, is_instant: bool = True) -> list[float]:
        """The numbers that the answer has."""
        now = time.time()
        if is_instant:
            result = self.get("query", query=expression)["result"]
            values = [series["value"] for series in result]
        else:
            result = self.get("query_range", query=expression, start=now - 10, end=now, step=1)["result"]
            values = [value for series in result for value in series["values"]]
        return [float(value) for _, value in values if math.isfinite(float(value))]


def configuration(where: Path, port: int, limit: str) -> str:
    return (
        program("myapp", 3, 40, "fresh")
        + program("deaf", 1, 40, "deaf")
        + program("seen", 1, 40)
        + f"[memreap]\nmetrics=127.0.0.1:{port}\nmetrics_file={where}/memreap.prom\nhistory=off\n"
        f"limit={limit}\nmin_age=1s\nsettle=1s\n"
        "[memreap:myapp]\ntotal=2GB\n[memreap:deaf]\n[memreap:seen]\nobserve=yes\n"
        + listener(where, f"{sys.executable} {where}/listen.py listen")
    )


@pytest.fixture(scope="module")
def prometheus() -> Iterator[Prometheus]:
    """It has seen reaps, a refused signal, and what would have been reaped."""
    where = stack.directory()
    (where / "listen.py").write_text(IMPATIENT)
    ours, node_port = stack.free_port(), stack.free_port()
    try:
        with supervisord(where, configuration(where, ours, "1GB")), prometheus_of(where, ours, node_port) as prometheus:
            eventually(lambda: assert_all(prometheus, 'memreap_reaps_total{pool="myapp",reason="limit"} == 0'))
            conf = where / "supervisord.conf"
            conf.write_text(conf.read_text().replace("limit=1GB", "limit=25MB"))
            happened = (
                'memreap_reaps_total{pool="myapp",reason="limit"} > 1',
                'memreap_refused_signals_total{pool="deaf",kind="not_caught"} == 1',
                'memreap_would_reap_total{pool="seen",reason="limit"} == 1',
                'memreap_growth_bytes_per_second{pool="myapp"}',
            )
            eventually(lambda: assert_all(prometheus, *happened))
            yield prometheus
    except AssertionError as error:
        raise AssertionError(f"{error}\n{stack.Pool(where, 0, '').log()}") from None
    finally:
        shutil.rmtree(where)


@contextlib.contextmanager
def prometheus_of(where: Path, ours: int, node_port: int) -> Iterator[Prometheus]:
    """It scrapes the port `ours` each second."""
    (where / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: ['{FLEET}/alerts.yml']\n"
        f"scrape_configs: [{{job_name: memreap, static_configs: [{{targets: ['127.0.0.1:{ours}']}}]}}]\n"
    )
    needs.skip_without("prometheus")
    command = ["prometheus", f"--config.file={where}/prometheus.yml", f"--storage.tsdb.path={where}/tsdb"]
    with (where / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{node_port}"], stdout=log, stderr=log, cwd=where
        )
    try:
        yield Prometheus(node_port, f"127.0.0.1:{ours}")
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def assert_all(prometheus: Prometheus, *expressions: str) -> None:
    for expression in expressions:
        assert prometheus.values(expression), expression


def filled_in(expression: str, instance: str, pool: str) -> str:
    """As Grafana does it."""
    for name, value in {"$__range": "1h", "$instance": instance, "$pool": pool}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def test_every_query_of_the_dashboard_returns_data(prometheus):
    targets = [(panel["title"], target) for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert len(targets) > 30

    def assert_all_have_data() -> None:
        assert [title for title, target in targets if not values_of(prometheus, target, ".*", ".*")] == []

    eventually(assert_all_have_data)
    # One that was chosen: Grafana quotes it for a regular expression, in a string. The others have no reaps.
    instance = prometheus.listener.replace(".", r"\\.")
    for title, target in targets:
        pool = "(deaf|myapp|seen)" if "> 0" in target["expr"] else "myapp"
        assert values_of(prometheus, target, instance, pool), title
        assert not values_of(prometheus, target, "other", "other"), title


def values_of(prometheus: Prometheus, target: dict[str, Any], instance: str, pool: str) -> list[float]:
    return prometheus.values(filled_in(target["expr"], instance, pool), target.get("instant", False))


def test_the_dashboard_lists_the_existing_hosts_and_pools(prometheus):
    offered = {}
    for variable in DASHBOARD["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
        match = filled_in(metric, ".*", ".*")
        offered[variable["name"]] = prometheus.get(f"label/{label}/values", **{"match[]": match})
    assert offered == {"instance": [prometheus.listener], "pool": ["deaf", "myapp", "seen"]}


def test_the_page_of_the_dashboard_has_each_panel_in_its_order():
    page = (FLEET / "README.md").read_text().partition("| panel | look here if |")[2]
    assert re.findall(r"(?m)^\| (.+?) \| ", page) == [panel["title"] for panel in DASHBOARD["panels"]]


def test_grafana_can_import_the_dashboard():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids)) > 10
    assert (DASHBOARD["uid"], DASHBOARD["schemaVersion"]) == ("memreap", 39)
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert 0 < place["w"] <= 24 - place["x"]
        assert panel["title"]
        for query in panel["targets"]:
            assert query["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    cells = [cell for panel in DASHBOARD["panels"] for cell in cells_of(panel["gridPos"])]
    assert len(cells) == len(set(cells)), "panels overlap"


def cells_of(place: dict[str, int]) -> list[tuple[int, int]]:
    columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
    return [(column, row) for column in columns for row in rows]


def test_every_alert_rule_can_be_evaluated_on_a_real_listener(prometheus):
    def assert_evaluated() -> list[dict[str, Any]]:
        (group,) = prometheus.get("rules")["groups"]
        assert all(rule["health"] != "unknown" for rule in group["rules"])
        return group["rules"]

    rules = eventually(assert_evaluated)
    assert {rule["name"] for rule in rules} == alerts()
    assert [rule.get("lastError") for rule in rules if rule["health"] != "ok"] == []


# A real listener, and what hangs on its port.


def last_look(text: str) -> float:
    (value,) = re.findall("(?m)^memreap_last_look_timestamp_seconds (.*)$", text)
    return float(value)


def assert_looks(path: Path, count: int) -> None:
    """`count` more looks, none of them late."""
    assert path.exists()
    before = last_look(path.read_text())
    for _ in range(count):
        until(lambda before=before: last_look(path.read_text()) > before)
        looked = last_look(path.read_text())
        assert looked - before < 9, "it waited for something"
        before = looked


def test_neither_a_taken_port_nor_hanging_scrapers_delay_a_look_and_the_file_is_removed_with_the_listener(where):
    port, path = stack.free_port(), where / "memreap.prom"
    (where / "listen.py").write_text(IMPATIENT)
    pool = stack.Pool(where, 0, "myapp")

    def assert_logged(*texts: str) -> None:
        assert [text in line for text, line in zip(texts, lines_of_metrics(pool))] == [True] * len(texts), pool.log()
        assert len(lines_of_metrics(pool)) == len(texts), pool.log()

    with socket.create_server(("127.0.0.1", port)) as other, contextlib.ExitStack() as open:
        open.enter_context(supervisord(where, configuration(where, port, "1GB")))
        taken = f"metrics: cannot listen on 127.0.0.1:{port}: Address already in use"
        eventually(lambda: assert_logged(taken))
        assert_looks(path, 3)
        other.close()
        until(lambda: answer_to_connect(port), 0)
        for _ in range(30):
            open.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert_looks(path, 3)
        assert_logged(taken, "metrics: export resumed")
        conf = where / "supervisord.conf"
        conf.write_text(conf.read_text().replace(f"metrics=127.0.0.1:{port}", "metrics=off"))
        until(lambda: answer_to_connect(port), errno.ECONNREFUSED)
        eventually(lambda: assert_looks(path, 1))
        before = last_look(path.read_text())
        stack.listener_in(where).kill()
        until(path.exists, False)
        eventually(lambda: assert_looks(path, 1))  # supervisord has started it again
        assert last_look(path.read_text()) > before
    assert not path.exists()
    assert not path.with_name("memreap.prom.new").exists()


def lines_of_metrics(pool: stack.Pool) -> list[str]:
    return [line for line in pool.log().splitlines() if " memreap: metrics: " in line]


def answer_to_connect(port: int) -> int:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port))
