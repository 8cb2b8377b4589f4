"""Background jobs: what is booked when a provider reports that one has ended."""

from __future__ import annotations

from tests.contract.samples import NOON_US, make_event

from paygent.client.accounts.process_accounts import Accounts
from paygent.client.context.identity import Identity
from paygent.client.metering.background_jobs import BackgroundJobs
from paygent.core.usage import JobStatus
from paygent.prices.catalogue import Catalogue


def test_finish__a_failed_job_of_another_process__takes_back_its_estimate() -> None:
    """It is booked as a restatement with no usage, on the model that the provider names."""
    accounts = Accounts(default_plan="pro", new_id=str)
    jobs = BackgroundJobs("acme", Catalogue())
    status = JobStatus("response:r1", usages=(), model="gpt-4o")
    user = accounts.registry.user("ann", NOON_US)
    (finished,) = jobs.finish(status, "openai", user, Identity("ann"), NOON_US)
    correction = finished.event
    assert (correction.model, correction.restates) == ("gpt-4o", True)
    assert (correction.total_tokens, correction.cost_nano, finished.rates) == (0, 0, None)


def test_finish__a_failed_job_of_this_process__books_the_difference() -> None:
    """The process that started it has the original, so it sends what to subtract."""
    accounts = Accounts(default_plan="pro", new_id=str)
    jobs = BackgroundJobs("acme", Catalogue())
    user = accounts.registry.user("ann", NOON_US)
    original = make_event(jobs.event_id("response:r1"), quality="estimated")
    jobs.start(JobStatus("response:r1"), user, original)
    status = JobStatus("response:r1", usages=())
    (finished,) = jobs.finish(status, "openai", user, Identity("ann"), NOON_US)
    correction = finished.event
    assert (correction.model, correction.model_key) == (original.model, "gpt-4o")
    assert (correction.total_tokens, correction.cost_nano) == (-30, -1_000)
