"""Write what is made from the chart and from the pipeline's settings, or say what of it is out of date.

The settings' part of ``values.schema.json`` and their table in the chart's README come from `orchard.settings`; what
the schema requires comes from ``values.yaml``, so that a value that is null is told by its name; the plain manifests
come from the chart.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from orchard.settings import Settings
from orchard.settings_text import as_text

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "orchard"
ELSEWHERE = {
    "source_weight": "source, of which there is one",
    "master": "mode",
    "driver_memory": "driver.memory",
    "metrics_port": "metrics.enabled",
    "webhook": "webhook.existingSecret",
    "spark_conf": "sparkConf",
    "min_executors": "autoscale.min",
    "max_executors": "autoscale.max",
    "finish_within": "autoscale.finishWithin",
    "s3_endpoint": "s3.endpoint",
    "s3_region": "s3.region",
}
"""Settings that have a place of their own among the chart's values."""

PLACEHOLDERS = ["--set", "image.repository=orchard,source=s3a://bucket/images,output=s3a://bucket/results"]
MANIFESTS: dict[Path, list[str]] = {
    ROOT / "app" / "orchard" / "cluster" / "job.yaml": [],
    ROOT / "k8s" / "cronjob.yaml": ["--set", "schedule.cron=0 3 * * *"],
    ROOT / "k8s" / "operator.yaml": ["--set", "mode=operator"],
}


def helm() -> str | None:
    """Return the helm command: on the PATH, or where `make tools` puts it."""
    return shutil.which("helm", path=f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}")


def template(*options: str) -> str:
    """Return the chart rendered for a release called orchard, without hooks and tests."""
    if (command := helm()) is None:
        sys.exit("helm is missing: `make tools` builds it.")
    words = [command, "template", "orchard", str(CHART), "--no-hooks", *options]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout  # noqa: S603


def settings_schema() -> dict[str, Any]:
    """Return the JSON schema of `settings` in the chart's values."""
    properties = Settings.model_json_schema()["properties"]
    return {
        "description": "The pipeline's settings; `orchard run --help` explains them.",
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _property(spec) for name, spec in properties.items() if name not in ELSEWHERE},
    }


def _property(spec: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in spec.items() if key not in ("title", "anyOf", "default", "ge")}
    kinds = [kept.pop("type", None), *(kind["type"] for kind in spec.get("anyOf", []))]
    for kind in spec.get("anyOf", []):
        kept |= {key: value for key, value in kind.items() if key != "type"}
    if {"integer", "number"} <= set(kinds):  # a count, or a share such as 5%
        kept |= {"minimum": spec["ge"], "pattern": r"^[0-9]+(\.[0-9]+)?%$"}
        kinds = ["integer", "string"]
    if "number" in kinds:  # as `helm --set` hands over 0.5
        kept |= {"pattern": r"^[0-9]*\.?[0-9]+$"}
        kinds.append("string")
    if "array" in kinds:
        kinds.append("string")  # separated by commas
    kinds = list(dict.fromkeys(kind for kind in kinds if kind))
    return {**kept, "type": kinds[0] if len(kinds) == 1 else kinds}


def require(schema: dict[str, Any], defaults: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Let the schema of an object require every value that templates count on: those with a default, but free maps."""
    required = []
    for name, value in defaults.items():
        inner = schema["properties"].get(name, {})
        inner = definitions[inner["$ref"].rpartition("/")[2]] if "$ref" in inner else inner
        if isinstance(value, dict) and "properties" in inner:
            if name != "settings":  # of these none is required
                require(inner, value, definitions)
            required.append(name)
        elif isinstance(value, str | int | float) and "null" not in inner.get("type", ()):
            required.append(name)
    schema["required"] = required


def settings_table() -> str:
    """Return the settings as a template for helm-docs."""
    rows = []
    for name, field in Settings.model_fields.items():
        if name in ELSEWHERE:
            continue
        default = "" if field.default is None else as_text(name, field.default)
        rows.append(f"| `{name}` | {f'`{default}`' if default else ''} | {field.description} |")
    table = "\n".join(["| setting | default | what it does |", "| --- | --- | --- |", *rows])
    return '{{- define "orchard.settingsTable" -}}\n' + table + "\n{{- end -}}\n"


def outputs(*, manifests: bool = True) -> dict[Path, str]:
    """Return the text that each made file should have."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    schema["properties"]["settings"] = settings_schema()
    require(schema, yaml.safe_load((CHART / "values.yaml").read_text()), schema["definitions"])
    texts = {
        CHART / "values.schema.json": json.dumps(schema, indent=2) + "\n",
        CHART / "settings.gotmpl": settings_table(),
    }
    if manifests:
        texts |= {path: template(*PLACEHOLDERS, *options) for path, options in MANIFESTS.items()}
    return texts


def main() -> int:
    """Write the files, or with ``--check`` fail if one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if a file is out of date")
    check = parser.parse_args().check
    # The schema first: helm checks the values against it.
    stale = _write(outputs(manifests=False), check) + _write(outputs(), check)
    if check and stale:
        print(f"Out of date: {', '.join(stale)}. Run `make manifests`.", file=sys.stderr)  # noqa: T201
    return int(check and bool(stale))


def _write(texts: dict[Path, str], check: bool) -> list[str]:
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text() != text]
    if not check:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts[path])
    return [str(path.relative_to(ROOT)) for path in stale]


if __name__ == "__main__":
    sys.exit(main())
