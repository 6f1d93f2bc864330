"""The recipes for clusters: manifests of the shape that their readers document, whose commands are ours."""

from __future__ import annotations

import re
import shlex
from typing import Any

import jsonschema
import pytest
import yaml
from builders.places import ROOT

from holdfast.cli.arguments import parser

EXAMPLES = ROOT / "docs" / "examples"
TEXT = {"type": "string", "minLength": 1}


def table(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """A table that has these keys and no others."""
    return {
        "type": "object",
        "required": [*required],
        "properties": {**required, **optional},
        "additionalProperties": False,
    }


QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^\d+(Mi|Gi|m)?$"}}
CONTAINER = table(
    {
        "name": TEXT,
        "image": TEXT,
        "resources": table({"requests": QUANTITIES, "limits": QUANTITIES}),
        "volumeMounts": {"type": "array", "items": table({"name": TEXT, "mountPath": TEXT})},
    },
    env={"type": "array", "items": table({"name": TEXT, "valueFrom": {"type": "object"}})},
)
VOLUME = table({"name": TEXT}, persistentVolumeClaim=table({"claimName": TEXT}), configMap=table({"name": TEXT}))
POD = table(
    {
        "spec": table(
            {"containers": {"type": "array", "minItems": 1, "items": CONTAINER}},
            volumes={"type": "array", "items": VOLUME},
        )
    }
)
START = {"type": "object", "additionalProperties": {"type": "string"}}  # KubeRay takes texts alone
GROUP = {"rayStartParams": START, "template": POD}
COUNT = {"type": "integer", "minimum": 0}
WORKERS = table({"groupName": TEXT, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT, **GROUP})
# As KubeRay documents a RayJob, as far as the recipe goes.
KUBERAY = table(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": table({"name": {"type": "string", "pattern": "^[a-z0-9-]+$"}}),
        "spec": table(
            {
                "entrypoint": TEXT,
                "rayClusterSpec": table(
                    {
                        "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
                        "headGroupSpec": table(GROUP),
                        "workerGroupSpecs": {"type": "array", "minItems": 1, "items": WORKERS},
                    }
                ),
            },
            shutdownAfterJobFinishes={"type": "boolean"},
            backoffLimit=COUNT,
        ),
    }
)
# As SkyPilot documents a task, as far as the recipe goes.
SKYPILOT = table(
    {
        "name": TEXT,
        "num_nodes": {"type": "integer", "minimum": 1},
        "resources": table({"accelerators": {"type": "string", "pattern": r"^\w+:\d+$"}}, use_spot={"type": "boolean"}),
        "setup": TEXT,
        "run": TEXT,
    },
    workdir=TEXT,
    file_mounts={
        "type": "object",
        "additionalProperties": table(
            {"name": TEXT, "mode": {"enum": ["MOUNT", "MOUNT_CACHED", "COPY"]}}, store={"enum": ["s3", "gcs", "r2"]}
        ),
    },
)


@pytest.mark.parametrize(("name", "schema"), [("kuberay", KUBERAY), ("skypilot", SKYPILOT)])
def test_manifests_are_of_the_documented_shape(name: str, schema: dict[str, Any]) -> None:
    document = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)
    spoilt = {key: value for key, value in document.items() if key not in ("spec", "run")}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(spoilt)


def test_volumes_that_are_mounted_are_there() -> None:
    spec = yaml.safe_load((EXAMPLES / "kuberay.yaml").read_text(encoding="utf-8"))["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounted = {mount["name"] for one in pod["containers"] for mount in one["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", ["kuberay", "skypilot", "../cluster.md"])
def test_commands_of_recipes_are_commands(name: str) -> None:
    path = EXAMPLES / (name if name.endswith(".md") else f"{name}.yaml")
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"holdfast (?:run|check|plan|export) [^\n`|]*", text)
    assert found
    for line in found:
        words = shlex.split(line.partition("#")[0])[1:]
        parser().parse_args([word for word in words if word != "…"])
