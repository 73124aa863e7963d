"""Botocore's descriptions of services, read faster than botocore does, and to the same effect."""

from collections.abc import Callable
from typing import Any

import botocore.session
import pytest
from botocore.loaders import Loader

from data_bridge.clients.s3_models import Models


@pytest.mark.parametrize(
    "read",
    [
        lambda loader: loader.load_service_model("s3", "service-2"),
        lambda loader: loader.load_service_model("s3", "endpoint-rule-set-1"),
        lambda loader: loader.load_service_model("s3", "paginators-1"),
        lambda loader: loader.load_data("endpoints"),
        lambda loader: loader.load_data("partitions"),
    ],
)
def test_what_is_read_is_what_botocore_reads(read: Callable[[Loader], Any]) -> None:
    assert read(Models()) == read(Loader())


def test_no_service_that_botocore_knows_is_missing() -> None:
    assert set(Loader().list_available_services("service-2")) <= set(Models().list_available_services("service-2"))


def test_the_services_behind_credentials_are_found() -> None:
    """Roles and single sign-on ask other services for keys, with clients of the same session."""
    session: Any = botocore.session.Session()
    session.register_component("data_loader", Models())

    for service in ("sts", "sso", "sso-oidc"):
        assert session.create_client(service, region_name="us-east-1").meta.service_model.service_name == service
