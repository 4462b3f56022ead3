"""What is shipped for deployment is valid, and speaks of metrics, processes and settings that exist."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from dashboard.metrics import DatabaseCollector
from tests.docs.reading import PROJECT, text_of

DEPLOY = PROJECT / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
METRIC = re.compile(r"\biafactory_[a-z0-9_]+")


def declared() -> set[str]:
    """Every name that `/metrics` can show."""
    names = set()
    for module in ("billing.ledger.metrics", "iafactory.common.metrics", "routing.metrics"):
        import_module(module)
    for collector in list(REGISTRY._collector_to_names):
        for family in collector.describe() if hasattr(collector, "describe") else ():
            names |= {f"{family.name}{suffix}" for suffix in SUFFIXES[family.type]}
    source = text_of("dashboard/metrics.py")
    return names | set(re.findall(r'GaugeMetricFamily\(\s*"(iafactory_\w+)"', source))


SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def expressions() -> dict[str, list[str]]:
    """Every PromQL expression of dashboards and alerts, by the file that holds it."""
    found = {
        board.name: [target["expr"] for panel in json.loads(board.read_text())["panels"] for target in panel["targets"]]
        for board in DASHBOARDS
    }
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    return found | {"alerts.yml": [rule["expr"] for group in rules["groups"] for rule in group["rules"]]}


@pytest.mark.parametrize("name", ["gateway.json", "money.json", "jobs.json", "alerts.yml"])
def test_dashboards_and_alerts_ask_for_metrics_that_exist(name: str) -> None:
    asked = {metric for expression in expressions()[name] for metric in METRIC.findall(expression)}

    assert asked
    assert asked - declared() == set()


@pytest.mark.django_db
def test_every_metric_of_the_database_is_declared_as_the_test_above_reads_it() -> None:
    assert {family.name for family in DatabaseCollector().collect()} <= declared()


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]

    assert [a["alert"] for a in alerts if not {"summary", "action"} <= a["annotations"].keys()] == []
    assert {a["labels"]["severity"] for a in alerts} == {"warning", "critical"}


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:]], capture_output=True, text=True, check=False
    )


def test_the_compose_file_follows_its_specification(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(text_of("docker-compose.yml").replace("restart: unless-stopped", "restarts: unless-stopped", 1))

    good = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(PROJECT / "docker-compose.yml"))
    bad = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(broken))

    assert good.returncode == 0, good.stdout
    assert bad.returncode != 0


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_manifests_follow_the_schemas_of_kubernetes(file: Path) -> None:
    checked = run("kubernetes-validate", "--strict", "-k", "1.33.0", str(file))

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "passed" in checked.stdout


def pods() -> dict[str, dict[str, Any]]:
    """Pod specification of every workload, by its name."""
    documents = [document for file in MANIFESTS for document in yaml.safe_load_all(file.read_text())]
    return {
        document["metadata"]["name"]: document["spec"]["template"]["spec"]
        for document in documents
        if document["kind"] in ("Deployment", "Job")
    }


def test_every_pod_runs_as_nobody_on_a_file_system_it_cannot_write() -> None:
    for name, pod in pods().items():
        [container] = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        assert not pod["automountServiceAccountToken"], name


def test_compose_and_kubernetes_run_the_same_processes() -> None:
    services = yaml.safe_load(text_of("docker-compose.yml"))["services"]
    ours = {name for name, service in services.items() if str(service.get("image", "")).startswith("iafactory")}

    assert ours == set(pods()) == {"migrate", "web", "console", "worker", "beat"}


def test_web_is_given_the_time_it_needs_to_stop() -> None:
    services = yaml.safe_load(text_of("docker-compose.yml"))["services"]

    assert services["web"]["stop_grace_period"] == services["console"]["stop_grace_period"] == "75s"
    # 75 seconds and the pause before.
    assert pods()["web"]["terminationGracePeriodSeconds"] >= 75 + 10


def test_settings_named_in_the_files_exist() -> None:
    known = set(re.findall(r'env\.\w+\("([A-Z0-9_]+)"', text_of("iafactory/settings.py"))) | {"DATABASE_URL"}
    compose = yaml.safe_load(text_of("docker-compose.yml"))["x-environment"]
    config = yaml.safe_load_all((DEPLOY / "kubernetes" / "10-config.yaml").read_text())
    named = set(compose) | set(next(config)["data"]) - {"HOSTS"}

    assert named - known == set()


def test_the_image_holds_what_the_product_is_made_of() -> None:
    copied = set(re.findall(r"^COPY (?!--from)(\w+) \1$", text_of("Dockerfile"), re.M))

    assert copied == {"iafactory", "ratelimit", "billing", "routing", "dashboard", "locale"}
    assert "USER 10001:10001" in text_of("Dockerfile")
