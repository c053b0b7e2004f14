"""Write JSON schemas of the kinds that the chart makes, for kubeconform, which refuses what they do not name.

They come from where each kind is defined, as Go modules: Kubernetes' own OpenAPI document and the operators' CRDs.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = "k8s.io/kubernetes@v1.34.4"
CRDS = {
    "sigs.k8s.io/gateway-api@v1.3.0": "config/crd/standard/*httproutes.yaml",
    "github.com/kubeflow/spark-operator/v2@v2.5.2": "charts/spark-operator-chart/crds/*applications.yaml",
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": "example/prometheus-operator-crd/*_p*.yaml",
}


def module(name: str) -> Path:
    """Return the folder of a Go module, downloaded if need be."""
    command = ["go", "mod", "download", "-json", name]
    found = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout  # noqa: S603
    return Path(json.loads(found)["Dir"])


def strict(schema: Any) -> Any:
    """Return a schema that allows no property that it does not name, with references to one file of definitions."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return {"type": ["integer", "string"]}
    made = {
        key: {name: strict(value) for name, value in content.items()} if key == "properties" else strict(content)
        for key, content in schema.items()
        if key not in ("description", "default", "format")
    }
    if "$ref" in made:
        made["$ref"] = made["$ref"].replace("#/definitions/", "definitions.json#/definitions/")
    if "properties" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def main(folder: Path) -> None:
    """Write definitions.json, and one schema for each kind, to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    swagger = json.loads((module(KUBERNETES) / "api/openapi-spec/swagger.json").read_text())
    definitions = {name: strict(schema) for name, schema in swagger["definitions"].items()}
    quantity = "io.k8s.apimachinery.pkg.api.resource.Quantity"
    definitions[quantity] = {"type": ["string", "number"]}
    (folder / "definitions.json").write_text(json.dumps({"definitions": definitions}))
    for name, schema in swagger["definitions"].items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            _write(folder, kind, {"$ref": f"definitions.json#/definitions/{name}"})
    for name, pattern in CRDS.items():
        for path in module(name).glob(pattern):
            crd = yaml.safe_load(path.read_text())["spec"]
            for version in crd["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {
                    "$ref": "definitions.json#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
                }
                kind = {"group": crd["group"], "version": version["name"], "kind": crd["names"]["kind"]}
                _write(folder, kind, schema)


def _write(folder: Path, kind: dict[str, str], schema: dict[str, Any]) -> None:
    group = kind["group"].split(".")[0]
    name = "-".join(part for part in (kind["kind"], group, kind["version"]) if part).lower()
    (folder / f"{name}.json").write_text(json.dumps(schema))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
