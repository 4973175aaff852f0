"""Which version of a registered model is the best."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from pipeline.tracking import store_uri
from pipeline.tracking.model import describe_version
from pipeline.tracking.store import open_client

pytestmark = pytest.mark.usefixtures("clone")


def best(client: MlflowClient) -> str:
    return str(client.get_model_version_by_alias("fne", "best").version)


def test_versions_compete_for_best_on_the_validation_data_of_the_newest() -> None:
    client = open_client(store_uri())
    client.create_registered_model("fne")
    found = []
    for data, rsum in (("scenes", 500.0), ("flickr8k", 300.0), ("flickr8k", 290.0), ("scenes", 510.0)):
        version = client.create_model_version("fne", "file:///nowhere").version
        describe_version(client, "fne", str(version), "", rsum, data)
        found.append(best(client))
    assert found == ["1", "2", "2", "4"]
