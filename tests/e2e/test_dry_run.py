"""A real API server takes every example of the chart and a tenant's manifests, with no field that it does not know."""

from pathlib import Path

import pytest
import yaml

from e2e.cluster import CHART, REPOSITORY, command, kubectl

EXAMPLES = sorted((CHART / "ci").glob("*-values.yaml"))


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.name.removesuffix("-values.yaml"))
def test_an_example_is_accepted(values: Path) -> None:
    rendered = command("helm", "template", "example", CHART, "--values", values, "--no-hooks").out
    versions = set(kubectl("api-versions").out.split())
    known = [o for o in yaml.safe_load_all(rendered) if o and o["apiVersion"] in versions]
    serves_alone = yaml.safe_load(values.read_text()).get("mode") == "none"
    expected = {"Deployment", "Service", "Ingress"} if serves_alone else {"ConfigMap", "Role"}
    assert expected | {"ServiceAccount"} <= {o["kind"] for o in known}
    kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(known))


@pytest.mark.usefixtures("cluster")
def test_a_tenants_manifests_are_accepted() -> None:
    manifests = [
        manifest
        for path in sorted((REPOSITORY / "k8s" / "tenant").glob("*.yaml"))
        for manifest in yaml.safe_load_all(path.read_text())
    ]
    for manifest in manifests:
        if "namespace" in manifest["metadata"]:  # its own is not there in a dry run
            manifest["metadata"]["namespace"] = "default"
    kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(manifests))
