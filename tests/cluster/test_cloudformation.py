"""The account that CloudFormation makes: deployed on a stand-in of AWS, and looked at as AWS would show it.

What the stand-in does not deploy (policies of buckets, the budget, EKS) is read from the template as it resolves it.
"""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import boto3
import pytest
import yaml
from click.testing import CliRunner
from moto import mock_aws
from moto.cloudformation.models import cloudformation_backends
from moto.cloudformation.parsing import clean_json
from moto.cloudformation.utils import yaml_tag_constructor
from moto.core.models import DEFAULT_ACCOUNT_ID

from conftest import REPOSITORY
from orchard.cli import cli

REGION = "eu-west-3"
TEMPLATES = REPOSITORY / "emr" / "cloudformation"
DOCUMENT = REPOSITORY / "docs" / "aws.md"
DIGEST = "ab" * 32
WHOLE_SERVICE = {"MakeTaggedClusters": "RunJobFlow names no resource: the tag and the roles bound it"}
"""Statements on every resource, and why AWS knows no other way."""
NO_WAY_OUT = {
    "InternetGateway",
    "NatGateway",
    "EgressOnlyInternetGateway",
    "EIP",
    "VPNGateway",
    "TransitGateway",
    "Route",
}


class Account:
    """An AWS account; `make` deploys a template."""

    def __init__(self) -> None:
        self.outputs: dict[str, dict[str, str]] = {}

    def make(self, name: str, stack: str | None = None, region: str = REGION, **parameters: str) -> dict[str, str]:
        client, stack = boto3.client("cloudformation", region_name=region), stack or f"orchard-{name}"
        given = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
        body = (TEMPLATES / f"{name}.yaml").read_text()
        client.create_stack(StackName=stack, TemplateBody=body, Parameters=given, Capabilities=["CAPABILITY_IAM"])
        (made,) = client.describe_stacks(StackName=stack)["Stacks"]
        assert made["StackStatus"] == "CREATE_COMPLETE"
        self.outputs[stack] = {each["OutputKey"]: each["OutputValue"] for each in made.get("Outputs", [])}
        return self.outputs[stack]

    def resolved(self, stack: str, resource: str) -> dict[str, Any]:
        """The properties of a resource, with what its template refers to."""
        resources = self._resources(stack)
        properties: dict[str, Any] = clean_json(resources._resource_json_map[resource]["Properties"], resources)
        return properties

    def id(self, stack: str, resource: str) -> str:
        """What AWS calls a resource."""
        return str(self._resources(stack)[resource].physical_resource_id)

    def _resources(self, stack: str) -> Any:
        return cloudformation_backends[DEFAULT_ACCOUNT_ID][REGION].get_stack(f"orchard-{stack}").resource_map


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        with mock_aws():
            made = Account()
            with pytest.warns(UserWarning, match="not supported by moto"):
                stored = made.make("storage")
                made.make("budget", Mail="fruits@example.com", Dollars="20")
            made.make("network", Bucket=stored["Bucket"])
            made.make("roles", Bucket=stored["Bucket"], Key=stored["Key"])
            made.make("emr-ec2", Bucket=stored["Bucket"], BundleSha256=DIGEST)
            yield made


@pytest.fixture(scope="module")
def bucket(account: Account) -> str:
    return account.outputs["orchard-storage"]["Bucket"]


def policy(account: Account, name: str, stack: str = "roles") -> list[dict[str, Any]]:
    """The statements of a role: its own, and those of the policies that IAM shows as attached."""
    iam = boto3.client("iam")
    documents = [each["PolicyDocument"] for each in account.resolved(stack, name).get("Policies", [])]
    for attached in iam.list_attached_role_policies(RoleName=account.id(stack, name))["AttachedPolicies"]:
        version = iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]["DefaultVersionId"]
        found = iam.get_policy_version(PolicyArn=attached["PolicyArn"], VersionId=version)
        documents.append(found["PolicyVersion"]["Document"])
    return [statement for document in documents for statement in document["Statement"]]


def listed(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


def allowed(statements: list[dict[str, Any]], action: str, resource: str, **context: str) -> bool:
    """Whether statements, of which none denies, allow a request; `context` has ``_`` for ``:`` and ``/``."""

    def meets(statement: dict[str, Any]) -> bool:
        for values in statement.get("Condition", {}).values():
            for key, patterns in values.items():
                value = context.get(re.sub("[:/-]", "_", key), "")
                if not any(fnmatchcase(value, pattern) for pattern in listed(patterns)):
                    return False
        return True

    return any(
        any(fnmatchcase(action, each) for each in listed(statement["Action"]))
        and any(fnmatchcase(resource, each) for each in listed(statement["Resource"]))
        and meets(statement)
        for statement in statements
    )


# --- Storage ------------------------------------------------------------------------------------------------


def test_the_bucket_is_encrypted_by_a_key_of_its_own_which_turns(account: Account, bucket: str) -> None:
    key = account.outputs["orchard-storage"]["Key"]
    (rule,) = boto3.client("s3").get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
    (asked,) = account.resolved("storage", "Bucket")["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert asked["BucketKeyEnabled"] is True
    assert boto3.client("kms").get_key_rotation_status(KeyId=key)["KeyRotationEnabled"]


@pytest.mark.filterwarnings("ignore:Tried to parse")
def test_without_a_key_of_its_own_it_is_encrypted_by_amazons(account: Account) -> None:
    made = account.make("storage", "orchard-plain", "eu-north-1", Encryption="SSE-S3")
    assert "Key" not in made
    found = boto3.client("s3").get_bucket_encryption(Bucket=made["Bucket"])["ServerSideEncryptionConfiguration"]
    assert found["Rules"][0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    account.make("roles", "orchard-plain-roles", Bucket=made["Bucket"])
    assert "kms" not in str(policy(account, "JobRole", "plain-roles") + policy(account, "Reader", "plain-roles"))


@pytest.mark.parametrize("name", ["Bucket", "AccessLog"])
def test_buckets_are_closed_and_refuse_plain_http(account: Account, name: str) -> None:
    s3, address = boto3.client("s3"), account.outputs["orchard-storage"][name]
    asked = account.resolved("storage", name)
    s3.put_public_access_block(Bucket=address, PublicAccessBlockConfiguration=asked["PublicAccessBlockConfiguration"])
    assert set(s3.get_public_access_block(Bucket=address)["PublicAccessBlockConfiguration"].values()) == {True}
    assert asked["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    (document,) = [
        found["PolicyDocument"]
        for found in (account.resolved("storage", each) for each in ("BucketPolicy", "AccessLogPolicy"))
        if found["Bucket"] == address
    ]
    s3.put_bucket_policy(Bucket=address, Policy=json.dumps(document))
    statements = json.loads(s3.get_bucket_policy(Bucket=address)["Policy"])["Statement"]
    plain = next(each for each in statements if each["Sid"] == "NoPlainHttp")
    assert (plain["Effect"], plain["Principal"], plain["Action"]) == ("Deny", "*", "s3:*")
    assert plain["Resource"] == [f"arn:aws:s3:::{address}", f"arn:aws:s3:::{address}/*"]
    assert plain["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert all(
        each["Effect"] == "Deny" or each["Principal"] == {"Service": "logging.s3.amazonaws.com"} for each in statements
    )


def test_old_versions_logs_and_left_uploads_end(account: Account) -> None:
    asked = account.resolved("storage", "Bucket")
    assert asked["VersioningConfiguration"] == {"Status": "Enabled"}
    rules = {rule["Id"]: rule for rule in asked["LifecycleConfiguration"]["Rules"]}
    assert int(rules["old-versions"]["NoncurrentVersionExpiration"]["NoncurrentDays"]) == 30
    assert (rules["logs"]["Prefix"], int(rules["logs"]["ExpirationInDays"])) == ("logs/", 90)
    assert rules["uploads-that-were-left"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert all(
        set(rule) & {"Prefix", "AbortIncompleteMultipartUpload", "NoncurrentVersionExpiration"}
        for rule in rules.values()
    )
    assert asked["LoggingConfiguration"]["DestinationBucketName"] == account.outputs["orchard-storage"]["AccessLog"]


# --- Network ------------------------------------------------------------------------------------------------


def test_the_network_has_no_way_out_but_s3(account: Account, bucket: str) -> None:
    ec2, made = boto3.client("ec2"), account.outputs["orchard-network"]
    here = [{"Name": "vpc-id", "Values": [made["Vpc"]]}]
    attached = [{"Name": "attachment.vpc-id", "Values": [made["Vpc"]]}]
    assert not ec2.describe_internet_gateways(Filters=attached)["InternetGateways"]
    assert not ec2.describe_nat_gateways(Filter=here)["NatGateways"]
    for table in ec2.describe_route_tables(Filters=here)["RouteTables"]:
        assert {route.get("GatewayId", "")[:5] for route in table["Routes"]} <= {"local", "vpce-"}
    assert account.resolved("network", "Subnet")["MapPublicIpOnLaunch"] is False
    endpoints = {
        each["ServiceName"].rpartition(".")[2]: each
        for each in ec2.describe_vpc_endpoints(Filters=here)["VpcEndpoints"]
    }
    assert set(endpoints) == {"s3", "sts", "elasticmapreduce"}
    asked = account.resolved("network", "S3")["PolicyDocument"]["Statement"]
    own, aws = asked
    assert own["Resource"] == [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    assert own["Condition"] == {"StringEquals": {"aws:PrincipalAccount": DEFAULT_ACCOUNT_ID}}
    assert aws["Action"] == "s3:GetObject"
    assert not any("*" in action for statement in asked for action in listed(statement["Action"]))
    for template in TEMPLATES.glob("*.yaml"):
        kinds = {found.rpartition("::")[2] for found in re.findall(r"Type: (AWS::EC2::\w+)", template.read_text())}
        assert not kinds & NO_WAY_OUT, template


def test_eks_has_two_zones_and_the_endpoints_that_its_nodes_need(account: Account, bucket: str) -> None:
    made = account.make("network", "orchard-network-eks", Bucket=bucket, Target="emr-eks")
    ec2, here = boto3.client("ec2"), [{"Name": "vpc-id", "Values": [made["Vpc"]]}]
    assert {made["Subnet"], made["SecondSubnet"]} == {
        subnet["SubnetId"] for subnet in ec2.describe_subnets(Filters=here)["Subnets"]
    }
    names = {
        each["ServiceName"].split(f"{REGION}.")[1] for each in ec2.describe_vpc_endpoints(Filters=here)["VpcEndpoints"]
    }
    assert names == {"s3", "sts", "ec2", "ecr.api", "ecr.dkr", "eks-auth"}


# --- Roles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["JobRole", "NodeRole", "EmrRole", "Submitter", "Reader"])
def test_no_role_may_do_everything_or_touch_everything(account: Account, name: str) -> None:
    statements = policy(account, name)
    assert statements
    for statement in statements:
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in listed(statement["Action"])), statement
        if "*" in listed(statement["Resource"]):
            assert statement["Sid"] in WHOLE_SERVICE
            assert statement["Condition"]
        if "iam:PassRole" in listed(statement["Action"]):
            assert "iam:PassedToService" in str(statement["Condition"])


S3 = "arn:aws:s3:::"


@pytest.mark.parametrize("role", ["JobRole", "NodeRole"])
def test_a_job_reads_images_writes_results_and_touches_nothing_beyond(account: Account, bucket: str, role: str) -> None:
    statements = policy(account, role)
    for action, key in (
        ("s3:GetObject", "images/a.jpg"),
        ("s3:GetObject", "weights/net.h5"),
        ("s3:GetObject", "results/run.json"),
        ("s3:PutObject", "results/run.json"),
        ("s3:DeleteObject", "results/run.json"),
        ("s3:PutObject", "logs/j-1/stderr.gz"),
    ):
        assert allowed(statements, action, f"{S3}{bucket}/{key}"), (action, key)
    for action, resource in (
        ("s3:PutObject", f"{bucket}/images/a.jpg"),
        ("s3:DeleteObject", f"{bucket}/images/a.jpg"),
        ("s3:DeleteObject", f"{bucket}/logs/j-1/stderr.gz"),
        ("s3:PutObject", f"{bucket}/emr/bootstrap.sh"),
        ("s3:GetObject", f"{bucket}-other/images/a.jpg"),
        ("s3:GetObject", f"{account.outputs['orchard-storage']['AccessLog']}/access/1"),
        ("s3:PutBucketPolicy", bucket),
        ("s3:DeleteObjectVersion", f"{bucket}/results/run.json"),
    ):
        assert not allowed(statements, action, f"{S3}{resource}"), (action, resource)
    for prefix, may in (("images/red", True), ("results", True), ("logs/", False), ("", False)):
        assert allowed(statements, "s3:ListBucket", S3 + bucket, s3_prefix=prefix) is may
    touched = {resource for statement in statements for resource in listed(statement["Resource"])}
    assert all(each.startswith((f"{S3}{bucket}", account.outputs["orchard-storage"]["Key"])) for each in touched)
    assert allowed(statements, "s3:GetObject", f"{S3}{bucket}/emr/x.tar") is (role == "NodeRole")
    key = account.outputs["orchard-storage"]["Key"]
    assert allowed(statements, "kms:Decrypt", key, kms_ViaService=f"s3.{REGION}.amazonaws.com")
    assert not allowed(statements, "kms:Decrypt", key, kms_ViaService="ec2.amazonaws.com")


def test_a_job_may_what_the_example_for_eks_lets_it(account: Account) -> None:
    example = json.loads((REPOSITORY / "k8s" / "emr-on-eks" / "job-role-policy.json").read_text())["Statement"]
    ours = {each["Sid"]: set(listed(each["Action"])) for each in policy(account, "JobRole")}
    for statement in example:
        if "s3" in str(statement["Resource"]):
            assert ours[statement["Sid"]] == set(listed(statement["Action"]))


def test_a_submitter_starts_tagged_jobs_with_their_roles_and_a_reader_reads_results(
    account: Account, bucket: str
) -> None:
    submitter, reader, made = policy(account, "Submitter"), policy(account, "Reader"), account.outputs["orchard-roles"]
    assert allowed(submitter, "elasticmapreduce:RunJobFlow", "*", elasticmapreduce_RequestTag_project="orchard")
    assert not allowed(submitter, "elasticmapreduce:RunJobFlow", "*")
    cluster = f"arn:aws:elasticmapreduce:{REGION}:{DEFAULT_ACCOUNT_ID}:cluster/j-1"
    assert allowed(
        submitter, "elasticmapreduce:AddJobFlowSteps", cluster, elasticmapreduce_ResourceTag_project="orchard"
    )
    assert not allowed(submitter, "elasticmapreduce:AddJobFlowSteps", cluster, elasticmapreduce_ResourceTag_project="x")
    assert allowed(submitter, "iam:PassRole", made["JobRole"], iam_PassedToService="emr-serverless.amazonaws.com")
    assert not allowed(submitter, "iam:PassRole", made["JobRole"], iam_PassedToService="ec2.amazonaws.com")
    assert not allowed(submitter, "iam:PassRole", made["Submitter"], iam_PassedToService="ec2.amazonaws.com")
    assert not allowed(submitter, "s3:PutObject", f"{S3}{bucket}/results/run.json")
    assert not allowed(submitter, "s3:DeleteObject", f"{S3}{bucket}/images/a.jpg")
    assert allowed(reader, "s3:GetObject", f"{S3}{bucket}/results/report.html")
    assert not allowed(reader, "s3:GetObject", f"{S3}{bucket}/images/a.jpg")
    assert not allowed(reader, "s3:PutObject", f"{S3}{bucket}/results/report.html")


@pytest.mark.usefixtures("account")
def test_roles_are_taken_by_whom_they_are_for() -> None:
    trusts = {
        each["RoleName"].split("-")[2]: each["AssumeRolePolicyDocument"]["Statement"]
        for each in boto3.client("iam").list_roles()["Roles"]
        if each["RoleName"].startswith("orchard-roles-")
    }
    services = {
        name: {statement["Principal"].get("Service") for statement in trust} - {None} for name, trust in trusts.items()
    }
    assert services == {
        "JobRole": {"emr-serverless.amazonaws.com", "pods.eks.amazonaws.com"},
        "NodeRole": {"ec2.amazonaws.com"},
        "EmrRole": {"elasticmapreduce.amazonaws.com"},
        "Submitter": set(),
        "Reader": set(),
    }
    assert all("aws:SourceAccount" in str(each["Condition"]) for each in (*trusts["JobRole"], *trusts["EmrRole"]))


# --- What computes, and what it costs -----------------------------------------------------------------------


def api(configurations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Configurations as EMR's API names them."""
    return [
        {
            "Classification": each["Classification"],
            "Properties": each.get("ConfigurationProperties", {}),
            **({"Configurations": api(each["Configurations"])} if "Configurations" in each else {}),
        }
        for each in configurations
    ]


def test_the_cluster_is_the_one_that_submit_makes(account: Account, bucket: str) -> None:
    network, roles = account.outputs["orchard-network"], account.outputs["orchard-roles"]
    words = [
        *("submit", f"s3a://{bucket}/images", "--output", f"s3a://{bucket}/results", "--target", "emr-ec2"),
        *("--bundle", f"s3://{bucket}/emr/orchard-emr-0.1.0.tar", "--bundle-sha256", DIGEST),
        *("--subnet-id", network["Subnet"], "--instance-profile", roles["NodeProfile"]),
        *("--service-role", roles["EmrRole"], "--log-uri", f"s3://{bucket}/logs/", "--dry-run"),
        *("--tags", "for-use-with-amazon-emr-managed-policies=true"),
    ]
    wanted = json.loads(CliRunner().invoke(cli, words).stdout)
    found = account.resolved("emr-ec2", "Cluster")
    assert api(found["Configurations"]) == wanted["Configurations"]
    for same in ("ReleaseLabel", "LogUri", "Applications", "ServiceRole", "JobFlowRole", "BootstrapActions", "Tags"):
        assert found[same] == wanted[same], same
    groups = wanted["Instances"]["InstanceGroups"]
    for group, name in zip(groups, ("MasterInstanceGroup", "CoreInstanceGroup"), strict=True):
        assert found["Instances"][name]["InstanceType"] == group["InstanceType"]
        assert int(found["Instances"][name]["InstanceCount"]) == group["InstanceCount"]
    assert found["Instances"]["Ec2SubnetId"] == wanted["Instances"]["Ec2SubnetId"]
    assert found["Instances"]["KeepJobFlowAliveWhenNoSteps"] is wanted["Instances"]["KeepJobFlowAliveWhenNoSteps"]
    limits = {key: str(value) for key, value in wanted["ManagedScalingPolicy"]["ComputeLimits"].items()}
    assert {key: str(value) for key, value in found["ManagedScalingPolicy"]["ComputeLimits"].items()} == limits
    assert int(found["AutoTerminationPolicy"]["IdleTimeout"]) == wanted["AutoTerminationPolicy"]["IdleTimeout"]
    cluster = boto3.client("emr").describe_cluster(ClusterId=account.outputs["orchard-emr-ec2"]["Cluster"])["Cluster"]
    assert {"Key": "project", "Value": "orchard"} in cluster["Tags"]


def test_the_nodes_of_eks_fall_to_zero_and_its_api_is_the_administrators() -> None:
    resources = templates()["eks"]["Resources"]
    cluster = resources["Cluster"]["Properties"]
    assert cluster["ComputeConfig"]["Enabled"] is True
    assert cluster["ComputeConfig"]["NodePools"] == ["general-purpose"]  # none that keeps a node
    assert not [each for each in resources.values() if each["Type"] == "AWS::EKS::Nodegroup"]
    assert cluster["ResourcesVpcConfig"]["PublicAccessCidrs"] == [{"Ref": "AdminCidr"}]
    assert cluster["AccessConfig"] == {"AuthenticationMode": "API", "BootstrapClusterCreatorAdminPermissions": False}


def test_the_budget_is_one_that_aws_takes_and_tells_a_person(account: Account) -> None:
    asked = account.resolved("budget", "Budget")
    budgets = boto3.client("budgets")
    limit = {key: str(value) for key, value in asked["Budget"]["BudgetLimit"].items()}
    budget = {**asked["Budget"], "BudgetName": "orchard", "BudgetLimit": limit}
    told = [
        {**each, "Notification": {**each["Notification"], "Threshold": float(each["Notification"]["Threshold"])}}
        for each in asked["NotificationsWithSubscribers"]
    ]
    budgets.create_budget(AccountId=DEFAULT_ACCOUNT_ID, Budget=budget, NotificationsWithSubscribers=told)
    (found,) = budgets.describe_budgets(AccountId=DEFAULT_ACCOUNT_ID)["Budgets"]
    assert (found["BudgetLimit"]["Amount"], found["TimeUnit"]) == ("20", "MONTHLY")
    made = budgets.describe_notifications_for_budget(AccountId=DEFAULT_ACCOUNT_ID, BudgetName="orchard")
    assert {each["NotificationType"] for each in made["Notifications"]} == {"ACTUAL", "FORECASTED"}
    assert {each["Subscribers"][0]["Address"] for each in told} == {"fruits@example.com"}


# --- The page -----------------------------------------------------------------------------------------------


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's functions."""


Loader.add_multi_constructor("!", lambda loader, tag, node: yaml_tag_constructor(loader, f"!{tag}", node))


def templates() -> dict[str, dict[str, Any]]:
    """Each template as it is written, by its name."""
    return {path.stem: yaml.load(path.read_text(), Loader) for path in TEMPLATES.glob("*.yaml")}  # noqa: S506


def test_the_page_gives_each_template_what_it_asks_for_and_reads_outputs_that_there_are() -> None:
    known = templates()
    text = re.sub(r"\\\n\s*", " ", DOCUMENT.read_text())
    deployed = {
        name: set(re.findall(r"(\w+)=", rest))
        for name, rest in re.findall(r"^ *deploy ([a-z0-9-]+)(.*)$", text, re.MULTILINE)
    }
    assert set(deployed) == set(known)
    for name, given in deployed.items():
        asked = known[name]["Parameters"]
        needed = {key for key, parameter in asked.items() if "Default" not in parameter}
        assert needed <= given <= set(asked), name
    read = re.findall(r"\$\(value ([a-z0-9-]+) (\w+)\)", text)
    assert read
    for name, output in read:
        assert output in known[name]["Outputs"], (name, output)
