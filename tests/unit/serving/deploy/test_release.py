"""A direct deployment beside a canary: refused, and nothing moves."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest

from config.settings import Canary as Policy
from config.settings import Settings, load_settings
from models.errors import UserError
from serving.control.canary import journal
from serving.control.canary.plan import Model
from serving.deploy import deploy_version
from serving.deploy.local import LocalDeployer
from serving.deploy.manifest import inference_service
from serving.handover import hand_over, make_champion
from serving.home import with_home
from serving.registry import CHALLENGER, CHAMPION, Registry, Version
from serving.state import open_state


@pytest.fixture
def deployer(tmp_path: Path) -> LocalDeployer:
    """Version 1 serves."""
    deployer = LocalDeployer(tmp_path)
    deployer.apply(inference_service("hscode", "file:///bundle/1", "1", logger_url=""), 1)
    return deployer


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return with_home(load_settings(assignments=["deploy.rollout=direct"]), tmp_path)


def version(number: str) -> Version:
    return Version("hscode", number, f"file:///bundle/{number}", datetime.now(UTC), "run")


def test_no_version_is_deployed_beside_a_canary(deployer: LocalDeployer, settings: Settings) -> None:
    for percent in (10, 0):  # 0: on its way back
        before = deployer.change("hscode", storage_uri="file:///bundle/2", version="2", canary_percent=percent)
        for number in ("2", "3"):
            with pytest.raises(UserError, match=f"version 2 at {percent} %.*hscode canary abort.*promote {number}$"):
                deploy_version(settings, version(number))
        assert deployer.status("hscode") == before


def test_a_canary_that_begins_between_the_look_and_the_write_is_not_overwritten(
    deployer: LocalDeployer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = deployer.status("hscode")
    during = deployer.change("hscode", storage_uri="file:///bundle/2", version="2", canary_percent=5)
    monkeypatch.setattr(LocalDeployer, "status", lambda self, name: before)
    with pytest.raises(UserError, match=r"version 3 is not deployed.*changed by someone else"):
        deploy_version(settings, version("3"))
    monkeypatch.undo()
    assert deployer.status("hscode") == during


class Registered(Registry):
    """Three versions in memory: 1 is champion, 2 challenger."""

    aliases: ClassVar = {CHAMPION: "1", CHALLENGER: "2"}

    def resolve(self, reference: str) -> Version:
        return version(self.aliases.get(reference, reference))

    def find(self, alias: str) -> Version | None:
        return version(self.aliases[alias])

    def promote(self, reference: str) -> Version:
        raise AssertionError("the alias moved")


@pytest.mark.parametrize("seen", [False, True], ids=["not yet in the spec", "with a share"])
def test_an_open_canary_keeps_its_service_and_the_aliases(
    deployer: LocalDeployer, settings: Settings, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    monkeypatch.setattr("serving.handover.Registry", Registered)
    state = open_state(settings.state.url or "")
    challenger = Model("file:///bundle/2", "2")
    journal.start(
        state, deployer.status("hscode"), challenger, Policy(), model="hscode", who="a test", now=datetime.now(UTC)
    )
    state.close()
    if seen:
        deployer.change("hscode", storage_uri=challenger.storage_uri, version="2", canary_percent=5)
    before = deployer.status("hscode")
    with pytest.raises(UserError, match="version 2 is starting"):
        make_champion(settings, CHALLENGER)
    with pytest.raises(UserError, match=r"version 3 is not deployed.*then hscode models promote 3"):
        hand_over(settings, "3")
    assert deployer.status("hscode") == before


def test_a_canary_of_a_service_made_anew_holds_up_nobody(
    deployer: LocalDeployer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.handover.Registry", Registered)
    monkeypatch.setattr(Registered, "promote", lambda self, reference: version(reference))
    state = open_state(settings.state.url or "")
    old = replace(deployer.status("hscode"), uid="another")
    journal.start(
        state, old, Model("file:///bundle/2", "2"), Policy(), model="hscode", who="a test", now=datetime.now(UTC)
    )
    state.close()
    assert make_champion(settings, "3").number == "3"
    assert deployer.status("hscode").version == "3"
