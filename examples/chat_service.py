"""A chat service with two plans: FastAPI, OpenAI, Anthropic, and Paygent around all of it.

Needs fastapi, uvicorn, openai and anthropic, and the keys of both providers:

    uvicorn chat_service:app --app-dir examples
    curl localhost:8000/chat -H "Authorization: Bearer ada-token" --json '"Say hello."'

`nightly_report.py` reads what it has spent; `tests/e2e/test_example_app.py` runs both.
"""

from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated
from uuid import uuid4

from anthropic import AsyncAnthropic
from fastapi import Body, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from openai import AsyncOpenAI, OpenAI

from paygent import GuardResult, Paygent, PaygentLimitExceeded, PlanConfig
from paygent.integrations import PaygentMiddleware

BEST_MODEL, CHEAPER_MODEL, STORY_MODEL = "gpt-4o", "gpt-4o-mini", "claude-sonnet-5-5"
PLANS = {
    "free": PlanConfig(max_spend_per_period=1, model_limits={BEST_MODEL: 50_000}),
    "pro": PlanConfig(max_spend_per_period=25, price=49),
}


@dataclass(frozen=True)
class Account:
    """A customer."""

    user_id: str
    email: str
    plan: str


ACCOUNTS = {  # by bearer token: stands in for a database of customers
    "ada-token": Account("ada", "ada@example.com", "free"),
    "bob-token": Account("bob", "bob@example.com", "pro"),
}


@dataclass(frozen=True)
class Services:
    """What lives as long as the service."""

    openai: AsyncOpenAI
    openai_in_jobs: OpenAI
    anthropic: AsyncAnthropic
    pool: ThreadPoolExecutor
    summaries: dict[tuple[str, str], Future[str]]  # by user and job


def warn_customer(result: GuardResult) -> None:
    """Warn a customer who is near a limit; called once for each limit and period."""
    account = next((one for one in ACCOUNTS.values() if one.user_id == result.user_id), None)
    if account is not None:
        print(f"mail to {account.email}: {result.message}", flush=True)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start and stop what lives as long as the service."""
    # Each call belongs to a customer; one without is a bug, and is refused.
    pg = Paygent.init(default_plan="free", on_missing_user="block")
    try:
        for name, plan in PLANS.items():
            pg.configure_plan(name, plan)
        for account in ACCOUNTS.values():
            pg.assign_plan(account.user_id, account.plan)
        pg.on_soft_gate(warn_customer)
        with ThreadPoolExecutor(4) as pool, OpenAI() as openai_in_jobs:
            async with AsyncOpenAI() as openai, AsyncAnthropic() as anthropic:
                app.state.services = Services(openai, openai_in_jobs, anthropic, pool, {})
                yield
    finally:
        pg.shutdown()  # when the jobs have ended: it delivers their events


app = FastAPI(lifespan=lifespan)
# Reads the user at the request's first LLM call, after `sign_in`.
app.add_middleware(PaygentMiddleware, user_id=lambda scope: scope.get("state", {}).get("user_id"))


def sign_in(request: Request) -> Account:
    """Return the customer who makes the request."""
    # FastAPI runs this function on another thread, in a context of its own, where a
    # `paygent_context` would end. The request's state is the same everywhere.
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token not in ACCOUNTS:
        raise HTTPException(401, "sign in first")
    account = ACCOUNTS[token]
    request.state.user_id = account.user_id
    return account


def services_of(request: Request) -> Services:
    """Return what the lifespan has started."""
    services: Services = request.app.state.services
    return services


Customer = Annotated[Account, Depends(sign_in)]
Running = Annotated[Services, Depends(services_of)]
Text = Annotated[str, Body()]


@app.exception_handler(PaygentLimitExceeded)
async def refuse(_: Request, refusal: PaygentLimitExceeded) -> JSONResponse:
    """Respond to a call that was refused; nothing was sent, and nothing is charged."""
    result = refusal.guard_result
    if result.gate_reason == "no_user":  # a route without `sign_in`: a 500, with a traceback
        raise refusal
    if result.retryable:  # there may be room when the calls in flight have ended
        return JSONResponse({"error": result.message}, 429, {"Retry-After": "5"})
    resets_at = result.resets_at.isoformat() if result.resets_at else None
    return JSONResponse({"error": result.message, "resets_at": resets_at}, 402)


async def ask(running: Services, model: str, text: str) -> str:
    """Ask one of OpenAI's models."""
    answer = await running.openai.chat.completions.create(
        model=model, max_tokens=100, messages=[{"role": "user", "content": text}]
    )
    return answer.choices[0].message.content or ""


@app.post("/chat")
async def chat(text: Text, _: Customer, running: Running) -> str:
    """Answer with the best model, or with the cheaper one once the plan's tokens are used up."""
    try:
        return await ask(running, BEST_MODEL, text)
    except PaygentLimitExceeded as refusal:
        if refusal.guard_result.gate_reason != f"model_limit:{BEST_MODEL}":
            raise  # the customer's spend, which is no different for the other model
    return await ask(running, CHEAPER_MODEL, text)


@app.post("/story")
async def story(text: Text, _: Customer, running: Running) -> StreamingResponse:
    """Stream an answer of Anthropic's."""
    # Call here and not in the generator, so that a refusal is a 402 and not half of a 200.
    stream = await running.anthropic.messages.create(
        model=STORY_MODEL,
        max_tokens=500,
        messages=[{"role": "user", "content": text}],
        stream=True,
    )

    async def pieces() -> AsyncIterator[str]:
        async for event in stream:
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                yield event.delta.text

    return StreamingResponse(pieces(), media_type="text/plain")


@app.post("/summaries", status_code=202)
def summarize(text: Text, customer: Customer, running: Running) -> str:
    """Start a summary on the pool, and return its id."""

    def work() -> str:
        answer = running.openai_in_jobs.chat.completions.create(
            model=CHEAPER_MODEL, messages=[{"role": "user", "content": f"Summarize: {text}"}]
        )
        return answer.choices[0].message.content or ""

    job_id = str(uuid4())
    # The pool's thread makes the call as the customer of this request.
    running.summaries[customer.user_id, job_id] = running.pool.submit(work)
    return job_id


@app.get("/summaries/{job_id}")
def summary(job_id: str, customer: Customer, running: Running) -> dict[str, str | None]:
    """Return a summary, or null until it is ready; the refusal of a job is raised here."""
    job = running.summaries.get((customer.user_id, job_id))
    if job is None:
        raise HTTPException(404, "no such summary")
    return {"summary": job.result() if job.done() else None}
