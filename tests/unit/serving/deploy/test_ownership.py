"""What a manager owns of an object, read from fieldsV1 as an API server writes it."""

from typing import Any

from serving.deploy.ownership import owned, same_fields

SERVICE: dict[str, Any] = {
    "metadata": {
        "name": "hscode",
        "annotations": {"hscode/version": "2", "other": "x"},
        "managedFields": [
            {
                "manager": "hscode-deploy",
                "operation": "Apply",
                "fieldsV1": {
                    "f:metadata": {"f:annotations": {"f:hscode/version": {}}},
                    "f:spec": {
                        "f:predictor": {
                            "f:canaryTrafficPercent": {},
                            "f:logger": {"f:metadataAnnotations": {}},
                            "f:model": {
                                "f:storageUri": {},
                                "f:env": {'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}}},
                                "f:resources": {"f:requests": {"f:cpu": {}}},
                            },
                        }
                    },
                },
            },
            {"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {"f:predictor": {"f:timeout": {}}}}},
            {
                "manager": "hscode-deploy",
                "operation": "Apply",
                "subresource": "status",
                "fieldsV1": {"f:status": {}},
            },
        ],
    },
    "spec": {
        "predictor": {
            "canaryTrafficPercent": 10,
            "timeout": 60,
            "logger": {"mode": "all", "metadataAnnotations": ["hscode/version"]},
            "model": {
                "storageUri": "s3://models/2",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
            },
        }
    },
}


def test_only_what_the_manager_applied() -> None:
    assert owned(SERVICE, "hscode-deploy") == {
        "metadata": {"annotations": {"hscode/version": "2"}},
        "spec": {
            "predictor": {
                "canaryTrafficPercent": 10,
                "logger": {"metadataAnnotations": ["hscode/version"]},
                "model": {
                    "storageUri": "s3://models/2",
                    "env": [{"name": "A", "value": "1"}],
                    "resources": {"requests": {"cpu": "100m"}},
                },
            }
        },
    }
    assert owned(SERVICE, "nobody") == {"metadata": {}, "spec": {"predictor": {}}}


def test_changing_the_answer_does_not_change_the_object() -> None:
    owned(SERVICE, "hscode-deploy")["spec"]["predictor"]["model"]["env"][0]["value"] = "changed"
    assert SERVICE["spec"]["predictor"]["model"]["env"][0]["value"] == "1"


def test_the_old_values_of_the_fields_of_a_new_manifest() -> None:
    shape = {"spec": {"predictor": {"timeout": 5, "minReplicas": 0, "model": {"storageUri": "s3://models/3"}}}}
    assert same_fields(SERVICE, shape) == {
        "spec": {"predictor": {"timeout": 60, "model": {"storageUri": "s3://models/2"}}}
    }
