"""The controller: looks, decides by `verdict`, writes the intent, acts, sees it done, writes that.

It keeps nothing in memory that matters. Killed anywhere, the next look (of this process or another) compares the row
with the object and goes on. A step is decided only when the last one was confirmed, in one transaction with the blocks
it rests on and as a compare-and-set on the row: so there is no double and no lost step, whoever else is running.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from config.settings import Canary as Policy
from models.errors import UserError
from serving.control.canary import journal
from serving.control.canary.blocks import blocks_of, ended_blocks, read_block
from serving.control.canary.evidence import Arm, Block, Evidence
from serving.control.canary.plan import Change, Foreign, Model, Reached, Wait, next_action
from serving.control.canary.verdict import Kind, verdict
from serving.control.faults import crash_point
from serving.deploy import Conflict, Deployer, NotDeployed, Status
from serving.deploy.manifest import storage_uri
from serving.registry import CHALLENGER, CHAMPION, RUN_KEY, Version
from serving.state import Lease, State
from serving.state.tables import Canary

log = logging.getLogger("hscode.canary")

POINTS = (
    "decided",
    "before_change",
    "after_change",
    "before_confirm",
    "after_confirm",
    "before_judge",
    "in_judge",
    "after_judge",
    "before_alias",
    "after_alias",
    "after_finish",
)
"""Where `faults.crash_point` can end the process."""


class Versions(Protocol):
    """What the controller needs of `serving.registry.Registry`."""

    def find(self, alias: str) -> Version | None:
        """The version with an alias."""
        ...

    def promote(self, reference: str) -> Version:
        """Make a version champion; again is no harm."""
        ...

    def delete_alias(self, alias: str) -> None:
        """Remove an alias."""
        ...


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Controller:
    """Decides all canaries (of `namespace`, where it is given) while it holds the lease.

    `service` and `model` name what a canary is started for by itself, when a version becomes challenger.
    """

    def __init__(
        self,
        state: State,
        deployer: Deployer,
        versions: Versions,
        lease: Lease,
        policy: Policy,
        *,
        service: str = "hscode",
        model: str = "hscode",
        namespace: str | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.state, self.deployer, self.versions, self.lease, self.policy = state, deployer, versions, lease, policy
        self.service, self.model, self.namespace, self._now = service, model, namespace, now
        self.leading = False
        self.looked_at = time.monotonic()
        """When it last looked, or tried to, by `time.monotonic`."""
        self._waiting: dict[int, str] = {}
        self._waiting_since: dict[tuple[int, int], datetime] = {}

    def run(self, stop: threading.Event) -> None:
        """Look until `stop` is set; then give the lease back."""
        while not stop.is_set():
            try:
                self.look()
            except (UserError, SQLAlchemyError, OSError) as error:
                # Database or cluster out of reach: the lease runs out by itself, and nothing is half done.
                log.warning("could not look: %s", error)
            self.looked_at = time.monotonic()
            stop.wait(self.policy.look_seconds)
        if self.leading:
            self.lease.release()

    def look(self) -> None:
        """One round over all undecided canaries. Does nothing while another controller holds the lease."""
        leading = self.lease.hold()
        if leading != self.leading:
            log.info("%s %s", self.lease.holder, "leads" if leading else "no longer leads")
            self.leading = leading
        if not leading:
            return
        with self.state.read() as session:
            rows = journal.undecided(session, self.namespace)
        if not rows and self.policy.automatic:
            self._try("start of a canary", self._start_challenger)
        for row in rows:
            self._try(f"canary {row.id}", partial(self._advance, row))

    def _try(self, what: str, work: Callable[[], None]) -> None:
        """One canary's trouble must not stop the others'; the next look tries again from what is there then."""
        try:
            work()
        except (Conflict, StaleDataError, IntegrityError) as error:
            log.info("%s: changed by other hands, read again: %s", what, error)
        except UserError as error:
            log.warning("%s: %s", what, error)
        except Exception:
            log.exception("%s: this look failed", what)

    def _start_challenger(self) -> None:
        """Start a canary for the registry's challenger, once for each version."""
        challenger = self.versions.find(CHALLENGER)
        if challenger is None:
            return
        with self.state.read() as session:
            tried = select(Canary.id).where(Canary.model == self.model, Canary.challenger_version == challenger.number)
            if session.scalars(tried.limit(1)).first() is not None:
                return
        champion = self.versions.find(CHAMPION)
        if champion is not None and champion.number == challenger.number:
            return
        try:
            status = self.deployer.status(self.service)
        except NotDeployed:
            return
        journal.start(
            self.state,
            status,
            Model(storage_uri(challenger.source), challenger.number),
            self.policy,
            model=self.model,
            who=self.lease.holder,
            now=self._now(),
            run_name=challenger.tags.get(RUN_KEY),
        )
        log.info("canary of version %s started", challenger.number)

    def _advance(self, canary: Canary) -> None:
        try:
            status = self.deployer.status(canary.service)
        except NotDeployed:
            return self._finish(canary, journal.GONE, "the service was deleted")
        if status.uid != canary.service_uid:
            return self._finish(canary, journal.GONE, "the service was deleted and made anew")
        if canary.command and canary.state in (journal.STARTING, journal.STEPPING):
            return self._obey(canary)
        action = next_action(journal.wanted_of(canary), status)
        if isinstance(action, Foreign):
            return self._finish(
                canary, journal.SUPERSEDED, f"somebody put version {action.found.version or '?'} into the service"
            )
        if isinstance(action, Change):
            return self._change(canary, action, status)
        if canary.state in (journal.STARTING, journal.STEPPING):
            if canary.step_since is not None:
                return self._judge(canary)
            return self._confirm(canary) if isinstance(action, Reached) else self._wait_for_step(canary, action.why)
        if isinstance(action, Wait):
            return self._say_waiting(canary, action.why)
        return self._conclude(canary)

    def _change(self, canary: Canary, action: Change, status: Status) -> None:
        if not self.lease.hold():
            return
        if canary.step_since is not None:
            log.warning(
                "canary %d: the share is %s, not %d; put back", canary.id, status.canary_percent, canary.percent
            )
            self._tell(canary, "Warning", "CanaryShareChanged", f"share put back to {canary.percent} %")
        crash_point("before_change")
        self.deployer.change(
            canary.service,
            storage_uri=action.model.storage_uri,
            version=action.model.version,
            canary_percent=action.canary_percent,
            expected=status,
        )
        crash_point("after_change")

    def _confirm(self, canary: Canary) -> None:
        crash_point("before_confirm")
        with self.state.write() as session:
            session.add(canary)
            step = journal.confirm(session, canary, self._now())
            reason = step.reason
        crash_point("after_confirm")
        self._tell(
            canary, "Normal", "CanaryStep", f"version {canary.challenger_version} has {canary.percent} %: {reason}"
        )

    def _wait_for_step(self, canary: Canary, why: str) -> None:
        """Waiting for a share that does not come ends in rollback: a challenger that cannot start gets no traffic.

        Counted from this process's first look at it, so that a controller that was away is not held against it.
        """
        policy, now = Policy.model_validate(canary.policy), self._now()
        since = self._waiting_since.setdefault((canary.id, canary.percent), now)
        waited = (now - since).total_seconds()
        if waited < policy.ready_seconds and now < canary.deadline_at:
            return self._say_waiting(canary, why)
        reason = f"not ready for {canary.percent} % after {waited:.0f} s: {why}"
        self._decide(canary, "rollback", 0, reason, Kind.ROLLBACK.value)

    def _judge(self, canary: Canary) -> None:
        """Read the blocks that have ended, decide on all, and write both in one short transaction."""
        policy, now = Policy.model_validate(canary.policy), self._now()
        with self.state.read() as session:
            ended = ended_blocks(session, canary, policy, now)
            if not ended:
                return
            blocks = blocks_of(session, canary.id) + tuple(read_block(row) for row in ended)
        evidence = evidence_of(canary, blocks, now)
        found = verdict(evidence, policy)
        canary.latest = {
            **found.to_json(),
            "at": now.isoformat(),
            "blocks": len(blocks),
            "totals": {arm: evidence.total(arm).to_json() for arm in ("champion", "challenger")},
        }
        action = {Kind.PROMOTE: "promote", Kind.ROLLBACK: "rollback"}.get(found.kind, "step")
        decided = found.kind is not Kind.CONTINUE or found.percent != canary.percent
        crash_point("before_judge")
        with self.state.write() as session:
            session.add_all(ended)
            session.add(canary)
            if decided:
                self._write_decision(session, canary, action, found.percent, found.reason, found.kind.value)
            session.flush()
            crash_point("in_judge")
        crash_point("after_judge")
        if decided:
            self._tell_decision(canary, action)

    def _obey(self, canary: Canary) -> None:
        wish = canary.command or {}
        told = f"{wish.get('who', '?')}: {wish.get('why') or 'no reason given'}"
        if wish.get("verb") == "promote":
            self._decide(canary, "promote", 100, f"promoted by {told}")
        else:
            self._decide(canary, "rollback", 0, f"aborted by {told}")

    def _decide(self, canary: Canary, action: str, percent: int, reason: str, verdict_: str = "") -> None:
        with self.state.write() as session:
            session.add(canary)
            self._write_decision(session, canary, action, percent, reason, verdict_)
        crash_point("decided")
        self._tell_decision(canary, action)

    def _write_decision(
        self, session: Session, canary: Canary, action: str, percent: int, reason: str, verdict_: str
    ) -> None:
        journal.decide(
            session,
            canary,
            action,
            percent,
            reason,
            actor=self.lease.holder,
            now=self._now(),
            verdict=verdict_,
            evidence=canary.latest,
        )

    def _conclude(self, canary: Canary) -> None:
        """Move the aliases and write the end, in one transaction that nobody else can be in (`journal.alone`).

        The registry knows no compare-and-set. But whoever writes an alias has the row, as it was read, to itself until
        the end is written with it: a former leader finds the row changed, and one that is late in there holds up the
        next. The registry is asked something before, so that what its first answer takes (MLflow is loaded then) and
        a registry that is out of reach hold up nobody.
        """
        self.versions.find(CHAMPION)
        if not self.lease.hold():
            return
        done = journal.PROMOTED if canary.state == journal.PROMOTING else journal.ROLLED_BACK
        with journal.alone(self.state, canary) as session:
            crash_point("before_alias")
            self._move_aliases(canary)
            crash_point("after_alias")
            journal.finish(session, canary, done, canary.reason, actor=self.lease.holder, now=self._now())
        self._tell_end(canary)

    def _move_aliases(self, canary: Canary) -> None:
        if canary.state == journal.PROMOTING:
            self.versions.promote(canary.challenger_version)
        challenger = self.versions.find(CHALLENGER)
        if challenger is not None and challenger.number == canary.challenger_version:
            self.versions.delete_alias(CHALLENGER)

    def _finish(self, canary: Canary, state: str, reason: str) -> None:
        with self.state.write() as session:
            session.add(canary)
            journal.finish(session, canary, state, reason, actor=self.lease.holder, now=self._now())
        self._tell_end(canary)

    def _tell_end(self, canary: Canary) -> None:
        crash_point("after_finish")
        version, state, reason = canary.challenger_version, canary.state, canary.reason
        log.info("canary %d of version %s: %s: %s", canary.id, version, state, reason)
        if state != journal.GONE:
            name = {"promoted": "CanaryPromoted", "rolled_back": "CanaryRolledBack"}.get(state, "CanarySuperseded")
            kind = "Normal" if state == journal.PROMOTED else "Warning"
            self._tell(canary, kind, name, f"version {version}: {reason}")

    def _tell_decision(self, canary: Canary, action: str) -> None:
        log.info("canary %d: %s to %d %%: %s", canary.id, action, canary.percent, canary.reason)
        self._waiting.pop(canary.id, None)
        if action == "rollback":
            self._tell(canary, "Warning", "CanaryRollback", f"version {canary.challenger_version}: {canary.reason}")

    def _say_waiting(self, canary: Canary, why: str) -> None:
        if self._waiting.get(canary.id) != why:
            self._waiting[canary.id] = why
            log.info("canary %d waits: %s", canary.id, why)

    def _tell(self, canary: Canary, kind: str, reason: str, message: str) -> None:
        """An Event for people; the journal has the decision, so a failure here is only logged."""
        try:
            self.deployer.event(canary.service, kind, reason, message)  # type: ignore[arg-type]
        except (UserError, Conflict, OSError) as error:
            log.warning("event %s not written: %s", reason, error)


def evidence_of(canary: Canary, blocks: tuple[Block, ...], now: datetime) -> Evidence:
    """A canary's closed blocks as `verdict` takes them."""
    return Evidence(
        percent=canary.percent,
        step_seconds=(now - (canary.step_since or now)).total_seconds(),
        seconds=(now - canary.started_at).total_seconds(),
        blocks=blocks,
        before=Arm.from_json(canary.before or {}),
    )
