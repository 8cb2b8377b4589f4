"""FastAPI: one middleware, and the calls of a request are its user's, streamed ones too.

Install `fastapi`, `openai` and `httpx` beside Paygent. It prints:

```text
alice hello 200 "Hello from the fake provider."
alice story 200 Hello from the fake provider.
alice later 200 "It is being thought about."
alice story 429 {"error":"alice has used 360 of 350 tokens on gpt-4o"}
bob hello 200 "Hello from the fake provider."
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

pg = Paygent.init(db_path=f"{tempfile.mkdtemp()}/paygent.db")
pg.configure_plan("free", PlanConfig(model_limits={"gpt-4o": 350}))
for user in ("alice", "bob"):
    pg.assign_plan(user, "free")

fake = FakeProvider().start()  # a stand-in for the provider: take it out, and set OPENAI_API_KEY
client = AsyncOpenAI(base_url=fake.openai_url, api_key="demo")
TOKENS = {"Bearer a": "alice", "Bearer b": "bob"}  # a stand-in for the sign-in of an application
app = FastAPI()


@app.middleware("http")
async def sign_in(request: Request, call_next):
    """Find out who it is."""
    request.state.user_id = TOKENS.get(request.headers.get("authorization"))
    return await call_next(request)


# It stands around the sign-in, and asks at the request's first call, when that has run.
app.add_middleware(PaygentMiddleware, user_id=lambda scope: scope["state"]["user_id"])


@app.exception_handler(PaygentLimitExceeded)
async def refuse(_: Request, refusal: PaygentLimitExceeded) -> JSONResponse:
    """Answer a user who has reached a limit."""
    return JSONResponse({"error": str(refusal)}, status_code=429)


async def ask(text: str, **options):
    """Make one call."""
    messages = [{"role": "user", "content": text}]
    return await client.chat.completions.create(model="gpt-4o", messages=messages, **options)


@app.get("/hello")
async def hello() -> str:
    """Answer at once."""
    return (await ask("Say hello.")).choices[0].message.content


@app.get("/story")
async def story() -> StreamingResponse:
    """Answer piece by piece."""
    # Asked here and not in the generator: whoever is refused gets a 429 and not half a 200.
    stream = await ask("Tell a story.", stream=True)

    async def pieces():
        async for chunk in stream:
            yield chunk.choices[0].delta.content or "" if chunk.choices else ""

    return StreamingResponse(pieces(), media_type="text/plain")


@app.get("/later")
async def later(tasks: BackgroundTasks) -> str:
    """Answer now, and call afterwards."""
    tasks.add_task(ask, "Think about it.")
    return "It is being thought about."


async def main() -> None:
    """Be the browser of two users."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as browser:
        for token, path in (
            ("a", "hello"),
            ("a", "story"),
            ("a", "later"),
            ("a", "story"),
            ("b", "hello"),
        ):
            answer = await browser.get(path, headers={"authorization": f"Bearer {token}"})
            print(TOKENS[f"Bearer {token}"], path, answer.status_code, answer.text.strip())


asyncio.run(main())

pg.flush()
for row in sorted(pg.report(("user", "model"))):
    tokens = row.input_tokens + row.output_tokens
    print(f"{row.user_id} used {row.model}: calls {row.calls}, tokens {tokens}")
fake.stop()
