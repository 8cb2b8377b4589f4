"""`PlanRegistry`: configures plans, assigns them to users and closes sessions.

Each step changes this process's memory at once and appends a record to the journal, which delivers
it to the ledger. Methods raise `InvalidValue` that names every argument that breaks a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from paygent.client.accounts.process_accounts import Accounts
from paygent.client.api.arguments import check_name, check_user, subscription_of
from paygent.client.api.queries import UserQueries
from paygent.client.journal.segments import RECORD_BYTES_MAX
from paygent.client.metering.records import RecordWriter
from paygent.client.runtime.lifecycle import renew_if_forked
from paygent.core.messages import (
    DEFAULT_PLAN,
    AssignRecord,
    DefaultPlanRecord,
    LedgerRecord,
    PlanRecord,
    TagKeysRecord,
)
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_to_json
from paygent.core.record_json import encode_record
from paygent.core.validation import FieldError, InvalidValue, ValidationErrors
from paygent.errors import PaygentWarning
from paygent.failopen import warn
from paygent.prices.catalogue import Catalogue
from paygent.prices.plan_check import plan_warnings
from paygent.types import BillingPeriod, UserState


@dataclass(eq=False)
class PlanRegistry:
    """Validates changes of plans and assignments, applies and journals them. Thread-safe."""

    accounts: Accounts
    catalogue: Catalogue
    queries: UserQueries
    records: RecordWriter | None  # None writes none (Paygent is disabled)
    now_us: Callable[[], int]

    def configure(self, name: Any, config: Any) -> None:
        """Set a plan; see `Paygent.configure_plan`."""
        renew_if_forked()
        errors = ValidationErrors("configure_plan")
        check_name(errors, "name", name)
        if not isinstance(config, PlanConfig):
            errors.add("config", config, "must be a PlanConfig")
        errors.raise_if_any()
        record = PlanRecord(name, plan_to_json(config), self.now_us())
        _check_size("configure_plan", "config", name, record)
        self._warn_of_mistakes(f"plan {name!r}", config)
        self.accounts.admission.count_all()  # what has ended counts by the plan that it ran under
        self.accounts.registry.set_plan(name, config)
        self._write(record)

    def choose_default(self) -> None:
        """Make this process's default plan the product's, for processes that do not choose one;
        the record is written with the first other one.
        """
        if self.records is not None:
            registry = self.accounts.registry
            registry.choose_default_plan()
            self.records.defer(DefaultPlanRecord(registry.default_plan, self.now_us()))

    def declare_tags(self, keys: tuple[str, ...]) -> None:
        """Declare metadata keys that reports group by; see `choose_default`."""
        if self.records is not None:
            self.records.defer(TagKeysRecord(keys, self.now_us()))

    def assign(
        self,
        user_id: Any,
        plan: str,
        own: PlanConfig | None,
        billing_period: BillingPeriod | None,
        *,
        opens_session: bool = False,
    ) -> UserState:
        """Assign a plan; see `Paygent.assign_plan` and `Paygent.start_session`.

        Args:
            user_id, plan, billing_period: As the application passed them, unchecked.
            own: The user's own version of the plan, or None.
            opens_session: Whether a session is opened if none is.
        """
        verb = "start_session" if opens_session else "assign_plan"
        errors = ValidationErrors(verb)
        valid_id = check_user(errors, user_id)
        check_name(errors, "plan", plan)
        if own is not None and not isinstance(own, PlanConfig):
            errors.add("plan_config", own, "must be a PlanConfig, or None for the plan as it is")
        if billing_period is not None and not isinstance(billing_period, BillingPeriod):
            errors.add("billing_period", billing_period, "must be a BillingPeriod, or None")
        errors.raise_if_any()
        user = self.queries.known(valid_id)  # to compare with the stored assignment
        registry = self.accounts.registry
        # The argument's default stands for the product's default plan, whatever its name.
        if opens_session and plan == DEFAULT_PLAN and DEFAULT_PLAN not in registry.plans:
            plan = registry.default_plan
        subscription = subscription_of(billing_period)
        if opens_session and subscription is None:
            subscription = user.subscription  # a session does not change the billing period
        # `start_session` may precede every request: an unchanged assignment writes no record.
        assigned = (user.plan_name, user.own, user.subscription)
        if not user.assigned or assigned != (plan, own, subscription):
            at_us = self.now_us()
            document = plan_to_json(own) if own is not None else None
            record = AssignRecord(valid_id, plan, document, subscription, at_us)
            _check_size(verb, "plan_config", plan, record)
            if own is not None:
                self._warn_of_mistakes(f"plan_config of {valid_id!r}", own)
            self.accounts.admission.count_all()
            self.accounts.registry.assign(valid_id, plan, own, subscription, at_us)
            self._write(record)
        # Not an error: another process may configure it later.
        if own is None and plan not in (*registry.plans, registry.default_plan):
            warn(PaygentWarning(_not_configured(plan, registry.plans)))
        if opens_session:
            self.accounts.sessions.session_for_call(user, None, self.now_us())
            if self.records is not None:
                self.records.write_sessions()
        return self.queries.state(user)

    def close_session(self, user_id: str) -> None:
        """Close the user's open session, if there is one."""
        user = self.queries.known(user_id)
        closed = self.accounts.sessions.close(user, self.now_us())
        if closed is not None:
            self._write(closed)

    def _warn_of_mistakes(self, what: str, plan: PlanConfig) -> None:
        """Warn of values of a plan that are allowed and probably not meant."""
        for cap in plan.caps_out_of_range:  # beyond 64 bits of nano-dollars
            warn(PaygentWarning(f"{what}: {cap} is above 9·10⁹ dollars and counts as no limit"))
        for sentence in plan_warnings(plan, self.catalogue, self.now_us()):
            warn(PaygentWarning(f"{what}: {sentence}"))

    def _write(self, record: LedgerRecord) -> None:
        if self.records is not None:
            self.records.write(record)


def _check_size(verb: str, field: str, name: str, record: LedgerRecord) -> None:
    if len(encode_record(record)) > RECORD_BYTES_MAX:  # more than the journal can hold
        # The plan's name is shown; its document would not fit into a message.
        error = FieldError(field, name, f"must be at most {RECORD_BYTES_MAX} bytes as JSON")
        raise InvalidValue(verb, (error,))


def _not_configured(plan: str, plans: Iterable[str]) -> str:
    from difflib import get_close_matches  # for this message only

    similar = get_close_matches(plan, sorted(plans), n=1)
    meant = f" (did you mean {similar[0]!r}?)" if similar else ""
    return (
        f"plan {plan!r} is not configured{meant}: its users have no limits until"
        f" pg.configure_plan({plan!r}, …)"
    )
