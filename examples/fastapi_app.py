"""FastAPI: one middleware attributes all calls of a request to its user, also streamed ones.

Needs fastapi, openai and httpx. Prints:

```text
alice hello 200 "Hello from the fake provider."
alice story 200 Hello from the fake provider.
alice later 200 "It is being thought about."
alice story 429 {"error":"model_limit:gpt-4o"}
bob hello 200 "Hello from the fake provider."
a stranger hello 401 {"error":"sign in first"}
alice used gpt-4o: calls 3, tokens 360
bob used gpt-4o: calls 1, tokens 120
```
"""

import asyncio
import tempfile

import httpx
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from openai import AsyncOpenAI

from paygent import Paygent, PaygentLimitExceeded, PlanConfig
from paygent.integrations import PaygentMiddleware
from paygent.testing import FakeProvider

# A call without a user is a bug of this application, and is refused.
pg = Paygent.init(db_path=f"{tempfile.mkdtemp()}/paygent.db", on_missing_user="block")
pg.configure_plan("free", PlanConfig(model_limits={"gpt-4o": 350}))
for user in ("alice", "bob"):
    pg.assign_plan(user, "free")

fake = FakeProvider().start()  # a fake provider: remove it, and set OPENAI_API_KEY
client = AsyncOpenAI(base_url=fake.openai_url, api_key="demo")
TOKENS = {"Bearer a": "alice", "Bearer b": "bob"}  # stands in for real authentication
app = FastAPI()


@app.middleware("http")
async def sign_in(request: Request, call_next):
    """Identify the user, or ask for a sign-in."""
    request.state.user_id = TOKENS.get(request.headers.get("authorization"))
    if request.state.user_id is None:
        return JSONResponse({"error": "sign in first"}, status_code=401)
    return await call_next(request)


# Runs outside of `sign_in`, but reads the user at the request's first LLM call, after it.
app.add_middleware(PaygentMiddleware, user_id=lambda scope: scope["state"]["user_id"])


@app.exception_handler(PaygentLimitExceeded)
async def refuse(_: Request, refusal: PaygentLimitExceeded) -> JSONResponse:
    """Respond to a user who has reached a limit."""
    reason = refusal.guard_result.gate_reason
    if reason == "no_user":  # a route that has no sign-in: a 500, with a traceback
        raise refusal
    return JSONResponse({"error": reason}, status_code=429)


async def ask(text: str, **options):
    """Make one call."""
    messages = [{"role": "user", "content": text}]
    return await client.chat.completions.create(model="gpt-4o", messages=messages, **options)


@app.get("/hello")
async def hello() -> str:
    """Answer in one piece."""
    return (await ask("Say hello.")).choices[0].message.content


@app.get("/story")
async def story() -> StreamingResponse:
    """Stream the answer."""
    # Call here and not in the generator, so that a refusal is a 429 and not half of a 200.
    stream = await ask("Tell a story.", stream=True)

    async def pieces():
        async for chunk in stream:
            yield chunk.choices[0].delta.content or "" if chunk.choices else ""

    return StreamingResponse(pieces(), media_type="text/plain")


@app.get("/later")
async def later(tasks: BackgroundTasks) -> str:
    """Respond first and make the call in the background."""
    tasks.add_task(ask, "Think about it.")
    return "It is being thought about."


async def main() -> None:
    """Send requests as two users."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as browser:
        for token, path in (
            ("a", "hello"),
            ("a", "story"),
            ("a", "later"),
            ("a", "story"),
            ("b", "hello"),
            ("c", "hello"),
        ):
            authorization = f"Bearer {token}"
            answer = await browser.get(path, headers={"authorization": authorization})
            user_id = TOKENS.get(authorization, "a stranger")
            print(user_id, path, answer.status_code, answer.text.strip())


asyncio.run(main())

pg.flush()
for row in sorted(pg.report(("user", "model"))):
    tokens = row.input_tokens + row.output_tokens
    print(f"{row.user_id} used {row.model}: calls {row.calls}, tokens {tokens}")
fake.stop()
