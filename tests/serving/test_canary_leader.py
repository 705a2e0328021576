"""The Lease on a real API server: one holder, taken over when it runs out, given back."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from serving.control.canary.leader import KubernetesLease
from tests.e2e.cluster import Cluster, started_cluster, until

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module")
def cluster(shared_cluster: Path) -> Cluster:
    return started_cluster(shared_cluster)


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace("lease") as name:
        yield name


def spec(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.get("-n", namespace, "lease", name)["spec"]
    return found


def test_one_holder_and_the_next_when_it_runs_out_or_is_given_back(cluster: Cluster, namespace: str) -> None:
    first, second = (KubernetesLease(namespace, "a", 2, client=cluster.client()) for _ in range(2))
    assert first.hold()
    assert not second.hold()
    assert first.hold()
    assert spec(cluster, namespace, "a")["holderIdentity"] == first.holder
    began = time.monotonic()
    until("the lease to run out", second.hold, 30, every=0.2)
    assert time.monotonic() - began >= 1.5
    assert not first.hold()
    assert spec(cluster, namespace, "a")["leaseTransitions"] == 1
    second.release()
    assert first.hold()


def test_of_eight_at_once_one_gets_it(cluster: Cluster, namespace: str) -> None:
    leases = [KubernetesLease(namespace, "b", 30, client=cluster.client()) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(lambda lease: lease.hold(), leases))
    assert sum(held) == 1
