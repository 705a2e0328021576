"""When a deployment counts as done or failed, by states as real KServe and Knative report them one after another."""

from dataclasses import replace

import pytest

from serving.deploy.base import DeployFailed, Revision, Status, Traffic, await_settled

GOOD, BROKEN = (
    Revision("m-00001", "s3://m/1", "1", True),
    Revision("m-00002", "s3://m/2", "2", False, "ImagePullBackOff"),
)
SERVING = Status(
    name="m", namespace="n", uid="u", resource_version="1", generation=1, observed_generation=1,
    storage_uri="s3://m/1", version="1", canary_percent=None, ready=True, reasons=(), url="",
    latest_created="m-00001", latest_ready="m-00001", latest_rolledout="m-00001", previous_rolledout="",
    traffic=(Traffic("m-00001", 100, True),), revisions=(GOOD,),
)  # fmt: skip
CHANGED = replace(SERVING, generation=2, observed_generation=2, storage_uri="s3://m/2", version="2")
"""The spec has another model; Knative has not made its revision yet."""
FAILED = replace(CHANGED, latest_created="m-00002", revisions=(GOOD, BROKEN), ready=False)
RESTORED = replace(FAILED, generation=3, observed_generation=3, storage_uri="s3://m/1", version="1")
"""The old model is back in the spec; the newest revision still is the broken one."""
DONE = replace(
    RESTORED, latest_created="m-00003", latest_ready="m-00003", ready=True,
    traffic=(Traffic("m-00003", 100, True),), revisions=(GOOD, replace(GOOD, name="m-00003")),
)  # fmt: skip


def test_a_changed_spec_is_not_settled_before_its_revision_is() -> None:
    assert SERVING.settled
    assert DONE.settled
    assert [status.current for status in (CHANGED, FAILED, RESTORED)] == [None, BROKEN, None]
    assert not any(status.settled for status in (CHANGED, FAILED, RESTORED))


def test_a_revision_that_fails_ends_the_wait_with_its_reason() -> None:
    with pytest.raises(DeployFailed, match="revision m-00002: ImagePullBackOff"):
        await_settled(iter([CHANGED, FAILED, FAILED]).__next__, 60, look_s=0, patience_s=0)


def test_the_failure_of_the_one_before_is_not_held_against_the_way_back() -> None:
    assert await_settled(iter([RESTORED, RESTORED, DONE]).__next__, 60, look_s=0, patience_s=0) == DONE
