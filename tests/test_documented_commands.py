"""Every command that the documents show is run by a test: in the walk below, or by the test that `ELSEWHERE` names.

A new command that needs no cluster joins the walk by itself. Any other needs a line in `ELSEWHERE`.
"""

import ast
import csv
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from botocore import xform_name
from botocore.session import get_session

import orchard
from conftest import REPOSITORY
from integration.conftest import paint

DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *(REPOSITORY / folder / "README.md" for folder in ("benchmarks", "docker", "helm", "k8s")),
]
TOOLS = "orchard|make|helm|kubectl|kind|docker|oras|aws|gcloud|az|eksctl|curl|python3?|pip|uv|spark-submit"


@dataclass(frozen=True)
class Shown:
    """A line of shell in a document, whole and without its comment."""

    document: str
    text: str


def shown(path: Path) -> Iterator[Shown]:
    """The lines of a document's blocks of shell."""
    for block in re.findall(r"^ *```(?:sh|bash)\n(.*?)^ *```", path.read_text(), re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            text = re.sub(r"(^|\s+)# .*$", "", line).strip().replace(".venv/bin/orchard ", "orchard ")
            if text:
                yield Shown(str(path.relative_to(REPOSITORY)), text)


SHOWN = [line for path in DOCUMENTS for line in shown(path)]

AWS = "no test: it asks AWS, which no test reaches; that its API has such requests is checked below"
GOOGLE = "no test: it asks Google or Azure, which no test reaches"
RELEASE = "docker/test_release.py::test_a_release_is_whole_in_its_registry_and_in_a_mirror"
FAILURES = "e2e/test_failures.py::"
COMPARED = "integration/test_api.py::test_backbones_are_compared_in_one_table"
SUBMITTED = f"{FAILURES}test_a_comparison_that_is_submitted_is_followed_to_its_end"
COMES_LATER = f"{FAILURES}test_a_store_that_comes_later_wrong_keys_and_another_try_when_they_are_mended"
STEP = "cluster/test_emr_hosts.py::test_a_step_is_submitted_told_of_and_read"
SERVERLESS = "cluster/test_emr_hosts.py::test_a_serverless_run_is_submitted_told_of_read_and_cancelled"
EMR_ON_EKS = "cluster/test_emr.py::test_a_job_starts_runs_and_completes"
INSTALLED = "e2e/test_release.py::test_the_results_are_those_of_a_local_run"
YARN = "integration/test_yarn.py::test_a_driver_that_is_killed_in_the_cluster_goes_on_in_yarns_next_attempt"
SCALED = "e2e/test_live.py::test_kubectl_scales_a_running_job_up_and_down_and_no_work_is_lost"
TEMPLATES = (
    "cluster/test_cloudformation.py::"
    "test_the_page_gives_each_template_what_it_asks_for_and_reads_outputs_that_there_are"
)
SERVED = "e2e/test_serve.py::test_the_server_knows_the_model_of_the_bucket"
TENANT = "e2e/test_dry_run.py::test_a_tenants_manifests_are_accepted"

ELSEWHERE = [
    # Which documents, how the command begins, and the test that runs it or its like.
    (".*", r"make (setup|check|test\b(?! ARGS=tests/integration/test_yarn))", ".ci/run"),
    ("docs/emr-ec2.md", r"make test ARGS=tests/integration/test_yarn.py", YARN),
    ("README.md", r"make run", "test_documented_commands.py::test_the_documents_commands_run_in_their_order"),
    (".*", r"make chaos", "chaos/test_kills.py::test_kills_at_any_moment"),
    (".*", r"make local-run", "docker/test_image.py::test_the_whole_pipeline_runs_locked_down"),
    (".*", r"make image( |$)", ".ci/run"),
    (".*", r"make image-emr", "no test: it takes EMR's base image from AWS; `make check-emr` builds it on a stand-in"),
    (".*", r"make kind-run|kind delete", "no test: .ci/run makes such a cluster where there is kind"),
    (".*", r"make release|oras|docker login|helm install fruits oci:|for name in orchard|done$", RELEASE),
    (".*", r"docker push", "docker/test_release.py::test_docker_pushes_what_is_released"),
    (".*", r"make bundle-emr", "cluster/test_emr_bundle.py::test_the_bundle_goes_to_s3_with_its_script"),
    # Models that are served, watched and exported.
    (".*", r"orchard serve", "serving/test_api_page.py::test_the_curl_examples"),
    (
        "docs/api.md",
        r"curl .*(regions|cards)=",
        "serving/test_api_page.py::test_the_curl_examples_of_regions_and_cards",
    ),
    ("docs/api.md", r"curl", "serving/test_api_page.py::test_the_curl_examples"),
    (
        ".*",
        r"orchard watch \S+ (0|incoming)",
        "watching/test_watch.py::test_a_folder_that_fills_is_answered_newest_first",
    ),
    (".*", r"orchard watch \S+ belt.mp4", "watching/test_watch.py::test_a_video_is_answered_in_its_own_time"),
    (".*", r"orchard export .*s3a://", "export/test_commands.py::test_it_writes_to_s3"),
    (".*", r"orchard export .*litert", "export/test_parity.py::test_litert_answers_as_the_pipeline_did"),
    (
        *(".*", r"orchard export .*keras"),
        "export/test_parity.py::test_keras_answers_as_the_pipeline_did_where_orchard_is_not_installed",
    ),
    ("docs/watch.md", r"pip ", "no test: it asks the package index"),
    # Several runs, or larger backbones: minutes.
    (".*", r"orchard plan photos", "test_cli.py::test_the_log_is_json_lines_where_there_is_no_terminal"),
    (".*", r"orchard compare photos", COMPARED),
    (
        *("docs/real-photos.md", r"orchard run .*--source-weight"),
        "integration/test_several_sources.py::test_sources_are_weighed_measured_resumed_and_pruned",
    ),
    (
        *("docs/real-photos.md", r"orchard run .*--backgrounds"),
        "integration/test_views.py::test_other_backgrounds_make_the_views_again_and_nothing_else",
    ),
    ("docs/real-photos.md", r"orchard run .*--quality", "test_settings.py::test_a_quality_sets_what_nobody_else_does"),
    (r"(docs/real-photos|benchmarks/README)\.md", r"(\w+=\S+ )?\.venv/bin/python benchmarks/", "no test: it measures"),
    ("benchmarks/README.md", r"\.venv/bin/uv", "no test: it asks the package index"),
    # Buckets.
    (".*", r"orchard run (gs|abfss)://", "chaos/test_clouds.py::test_a_run_that_was_killed_goes_on"),
    (
        *("docs/gdpr.md", r"orchard run .*--allowed-regions"),
        "storage/test_guards.py::test_a_bucket_elsewhere_is_refused_before_anything_is_read_or_written",
    ),
    (
        "docs/gdpr.md",
        r"orchard run .*--s3-encryption",
        "storage/test_guards.py::test_everything_that_is_written_has_the_key",
    ),
    ("docs/gdpr.md", r"aws |\"ID\"|\"Expiration\"", AWS),
    # Kubernetes.
    ("docs/clouds.md", r"gcloud|az |for account|--role|done", GOOGLE),
    ("docs/clouds.md", r"helm install", "e2e/test_dry_run.py::test_an_example_is_accepted"),
    (
        "docs/clouds.md",
        r"orchard submit",
        "cluster/test_manifests.py::test_pods_of_other_clouds_have_an_identity_without_keys",
    ),
    (
        ".*",
        r"helm install fruits .*mode=operator",
        "e2e/test_operator.py::test_a_spark_application_completes_and_can_be_scaled",
    ),
    (".*", r"helm install fruits .*autoscale", "e2e/test_live.py::test_a_driver_scales_by_the_images_that_are_left"),
    ("README.md|docs/(kubernetes|tenants).md", r"helm install fruits", INSTALLED),
    ("README.md|docs/kubernetes.md", r"helm install oracle", SERVED),
    ("docs/kubernetes.md", r"kubectl -n vision rollout", SERVED),
    (
        "docs/kubernetes.md",
        r"kubectl -n vision port-forward",
        "no test: those of the server ask through the API server",
    ),
    ("docs/kubernetes.md", r"helm test oracle", "e2e/test_serve.py::test_helm_test_asks_it"),
    (r"docs/(kubernetes|sizing)\.md", r"helm test fruits", "e2e/test_release.py::test_helm_test_passes"),
    ("docs/kubernetes.md", r"helm uninstall", "e2e/test_release.py::test_uninstalling_leaves_nothing"),
    ("docs/kubernetes.md", r"helm install nets", "cluster/test_manifests.py::test_a_driver_compares_and_tunes_as_well"),
    (
        "docs/kubernetes.md",
        r"helm upgrade fruits",
        "cluster/test_manifests.py::test_a_driver_compares_and_tunes_as_well",
    ),
    ("README.md|docs/kubernetes.md", r"kubectl (-n vision )?create|export IMAGE", COMES_LATER),
    ("docs/kubernetes.md", r"aws s3 cp", AWS),
    ("README.md|docs/kubernetes.md", r"kubectl .*scale", SCALED),
    ("docs/kubernetes.md", r"orchard scale", SCALED),
    ("README.md|docs/kubernetes.md", r"orchard submit", SUBMITTED),
    ("README.md|docs/kubernetes.md", r"orchard (status|logs|retry)", COMES_LATER),
    ("docs/kubernetes.md", r"orchard cancel", SUBMITTED),
    ("docs/tenants.md", r"for file|k8s/tenant|kubectl (apply|-n fruit-team create)", TENANT),
    ("k8s/README.md", r"sed ", "helm/test_chart.py::test_the_manifests_are_those_of_the_chart"),
    # EMR.
    ("docs/emr-on-eks.md", r"aws|kubectl|eksctl", AWS),
    ("docs/emr-on-eks.md", r"orchard (submit|status)", EMR_ON_EKS),
    ("docs/emr-on-eks.md", r"orchard cancel", "cluster/test_emr.py::test_a_job_is_cancelled_once"),
    ("docs/emr-ec2.md", r"orchard cancel", "cluster/test_emr_hosts.py::test_a_step_is_cancelled_or_says_why_not"),
    ("docs/emr-ec2.md", r"orchard (submit|status) .*(serverless|application-id)", SERVERLESS),
    ("docs/emr-ec2.md", r"orchard (submit|status|logs)", STEP),
    (
        *("docs/emr-ec2.md", r"spark-submit --deploy-mode client"),
        "integration/test_yarn.py::test_a_step_in_client_mode_comes_to_the_same_and_its_network_is_shared_out_once",
    ),
    ("docs/emr-ec2.md", r"spark-submit --master yarn", YARN),
    ("docs/emr-ec2.md", r"aws", AWS),
    ("docs/aws.md", r"orchard submit .*emr-ec2", STEP),
    ("docs/aws.md", r"orchard submit .*emr-serverless", SERVERLESS),
    ("docs/aws.md", r"orchard submit .*emr-eks", EMR_ON_EKS),
    ("docs/aws.md", r"orchard plan", "e2e/test_release.py::test_helm_test_passes"),
    ("docs/aws.md", r"orchard predict", "e2e/test_serve.py::test_a_roll_to_a_new_model_fails_no_request"),
    ("docs/aws.md", r"deploy |\w+=\$\(value ", TEMPLATES),
    ("docs/aws.md", r".*", AWS),
]


def where(line: Shown) -> str | None:
    """The first entry of `ELSEWHERE` for a line; None: it is walked."""
    return next((row[2] for row in ELSEWHERE if _is_of(row, line)), None)


def _is_of(row: tuple[str, ...], line: Shown) -> bool:
    document, command, _ = row
    return bool(re.fullmatch(document, line.document) and re.match(command, line.text))


WALKABLE = re.compile(r"cp |orchard (?!submit|status|logs|scale|retry|cancel|serve|watch)[a-z]+ (?!.*://)")
"""What the walk may run: files of its folder, and no cluster, bucket or cloud that this machine happens to know."""


def walked() -> list[str]:
    """The commands that the walk runs, in order; of a page those that no page before it has shown."""
    known: dict[str, str] = {}
    lines = [line for line in SHOWN if where(line) is None and WALKABLE.match(line.text)]
    return [line.text for line in lines if known.setdefault(line.text, line.document) == line.document]


WALK = """
import json, shlex, subprocess, sys
from orchard.cli import cli
from orchard.commandline import outcome

for line in json.load(sys.stdin):
    print("$", line, flush=True)
    name, *words = shlex.split(line)
    if name == "orchard":  # here, so that Spark's JVM starts once
        code, said = outcome(cli, words)
    else:
        code, said = subprocess.run(["bash", "-euc", line], check=False).returncode, ""
    if code:
        sys.exit(f"{line!r} ended with {code}: {said}")
"""


def draw(folder: Path) -> None:
    """Draw what the documents name: folders of photos, single ones, baskets, and tables of them."""
    labels = {"Lemon": (240, 230, 30), "Apple Golden 3": (210, 60, 40), "visitors": (60, 60, 160)}
    rows = []
    for number, (label, colour) in enumerate(labels.items()):
        for frame in range(12):
            path = folder / "photos" / label / f"{frame}.jpg"
            paint(path, colour, 100 * number + frame)
            rows.append((path, label, ("ripe", "raw")[frame % 2], ("none", "spots")[frame % 3 == 0]))
    rows.append((folder / "photos" / "anna.jpg", "", "", ""))
    for number, name in enumerate(("photos/anna", "photo", "basket", "baskets/lemon_apple2")):
        paint(folder / f"{name}.jpg", labels["Lemon"], 1000 + number)
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "ripeness", "disease"), *rows])
    (folder / "cards.csv").write_text("label,language,name\nLemon,en,Lemon\nLemon,fr,Citron\n")


def test_the_documents_commands_run_in_their_order(tmp_path: Path) -> None:
    draw(tmp_path)
    make = f"make --directory={REPOSITORY} --old-file=setup BIN={Path(sys.executable).parent}"
    first, *others = walked()
    commands = [first, f"{make} run DATA={tmp_path}/photos OUT={tmp_path}/out", *others]  # make finds all done
    done = subprocess.run(
        [sys.executable, "-c", WALK],
        input=json.dumps(commands),
        cwd=tmp_path,
        # Without what this very run was given by make test ARGS=…
        env=os.environ | {"ORCHARD_CLASSIFIERS": "linear_discriminant", "MAKEFLAGS": "", "ARGS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.stderr[-2000:]}\nWhat needs more than this test has goes into ELSEWHERE."
    for name in ("out/report.html", "slides/map.svg", "slides/map.png", "fruits.onnx.json"):
        assert (tmp_path / name).stat().st_size > 100, name


def test_a_command_is_walked_or_a_test_of_it_is_named() -> None:
    neither = [line for line in SHOWN if where(line) is None and not WALKABLE.match(line.text)]
    assert not neither, f"name in ELSEWHERE the test that runs {neither[0].text!r} of {neither[0].document}"


def test_every_entry_names_a_test_and_is_of_a_command() -> None:
    first = [next((row for row in ELSEWHERE if _is_of(row, line)), None) for line in SHOWN]
    for row in ELSEWHERE:
        assert row in first, f"no document shows such a command any more: {row}"
        file, _, name = row[2].partition("::")
        if file != ".ci/run" and not file.startswith("no test: "):
            assert re.search(rf"^def {name}\(", (REPOSITORY / "tests" / file).read_text(), re.MULTILINE), row[2]
    gate = (REPOSITORY / ".ci" / "run").read_text()
    for line in SHOWN:
        if where(line) == ".ci/run":
            assert re.search(rf"^\s*{' '.join(line.text.split()[:2])}\b", gate, re.MULTILINE), line


def test_a_block_without_a_language_holds_no_command() -> None:
    for path in DOCUMENTS:
        for block in re.findall(r"^ *```\n(.*?)^ *```$", _labelled_away(path.read_text()), re.MULTILINE | re.DOTALL):
            found = [line for line in block.splitlines() if re.match(rf" *(\S+=\S+ )*(\.venv/bin/)?({TOOLS}) ", line)]
            assert not found, f"{path.name}: write ```sh above {found[0]!r}"


def _labelled_away(text: str) -> str:
    return re.sub(r"^ *```\w+\n.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def test_a_benchmark_has_the_flags_that_its_page_shows() -> None:
    shared = (REPOSITORY / "benchmarks" / "measuring.py").read_text()
    seen = 0
    for line in SHOWN:
        if script := re.match(r"(?:\w+=\S+ )?\.venv/bin/python (benchmarks/\w+\.py)", line.text):
            source = (REPOSITORY / script[1]).read_text() + shared
            for word in shlex.split(line.text):
                if word.startswith("--"):
                    seen += 1
                    assert f'"{word.partition("=")[0]}"' in source, f"{script[1]} knows no {word}"
    assert seen > 30


OF_THE_CLI = (
    r"s3 (cp|sync|rb|rm)|configure set|cloudformation (deploy|wait)|eks update-kubeconfig|emr terminate-clusters"
    r"|emr-containers (update-role|create-role)"
)
"""What `aws` does by itself, by more than one request or none."""
GLOBAL = {"output", "query", "active"}
"""Flags of `aws` itself; `--active` of `aws emr list-clusters` stands for several states."""


def test_what_is_asked_of_aws_is_in_its_api() -> None:
    session, asked = get_session(), 0
    for line in SHOWN:
        for call in re.findall(r"\baws ([a-z][a-z0-9-]+ [a-z-]+(?: [^|;]*?)?)(?=\)\"?$|[|;]|$)", line.text):
            service, operation, *_ = call.split()
            if not re.match(OF_THE_CLI, call):
                asked += 1
                api = session.get_service_model({"s3api": "s3"}.get(service, service))
                known = {xform_name(name, "-"): name for name in api.operation_names}
                assert operation in known, f"{line.document}: aws {call}"
                shape = api.operation_model(known[operation]).input_shape
                flags = {xform_name(name, "-") for name in shape.members} if shape else set()
                assert set(re.findall(r"(?<= )--([a-z0-9-]+)", call)) <= flags | GLOBAL, f"{line.document}: aws {call}"
    assert asked >= 15


def test_examples_in_python_call_functions_of_orchard_with_arguments_that_they_have() -> None:
    """`docs/example.ipynb`, which a test runs, does the same and more."""
    called = 0
    for path in DOCUMENTS:
        for block in re.findall(r"^ *```python\n(.*?)^ *```$", path.read_text(), re.MULTILINE | re.DOTALL):
            for call in (node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)):
                function, _, name = ast.unparse(call.func).rpartition(".")
                if function == "orchard":
                    called += 1
                    given = {word.arg: None for word in call.keywords if word.arg}
                    inspect.signature(getattr(orchard, name)).bind(*call.args, **given)
    assert called >= 6


@pytest.mark.parametrize("line", [line for line in SHOWN if re.match(r"(\.venv/bin/uv|pip) .*--", line.text)], ids=str)
def test_installers_know_the_flags_that_they_are_shown_with(line: Shown) -> None:
    """Of pip that the environment has, which is its Python's own: a new clone has no other."""
    for command in line.text.split(" && "):
        name, *words = shlex.split(command)
        tool = {".venv/bin/uv": [sys.executable, "-m", "uv"], "pip": [sys.executable, "-m", "pip"]}[name]
        asked = subprocess.run([*tool, *words, "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert asked.returncode == 0, asked.stderr[-500:]
