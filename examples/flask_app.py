"""Flask: one WSGI middleware attributes all calls of a request to its user, also streamed ones.

Needs flask and openai. Prints:

```text
alice hello 200 Hello from the fake provider.
alice story 200 Hello from the fake provider.
bob story 200 Hello from the fake provider.
alice hello 200 Hello from the fake provider.
alice story 429 refused: model_limit:gpt-4o
alice used gpt-4o: calls 3, tokens 360
bob used gpt-4o: calls 1, tokens 120
```
"""

import tempfile

from flask import Flask, Response, request
from openai import OpenAI

from paygent import Paygent, PaygentLimitExceeded, PlanConfig
from paygent.integrations import PaygentWSGIMiddleware
from paygent.testing import FakeProvider

pg = Paygent.init(db_path=f"{tempfile.mkdtemp()}/paygent.db")
pg.configure_plan("free", PlanConfig(model_limits={"gpt-4o": 350}))
for user in ("alice", "bob"):
    pg.assign_plan(user, "free")

fake = FakeProvider().start()  # a fake provider: remove it, and set OPENAI_API_KEY
client = OpenAI(base_url=fake.openai_url, api_key="demo")
TOKENS = {"Bearer a": "alice", "Bearer b": "bob"}  # stands in for real authentication
app = Flask(__name__)


@app.before_request
def sign_in() -> None:
    """Identify the user."""
    request.environ["app.user_id"] = TOKENS.get(request.headers.get("authorization"))


# Read at the request's first LLM call, so after `sign_in`, and also while a stream is read.
app.wsgi_app = PaygentWSGIMiddleware(
    app.wsgi_app, user_id=lambda environ: environ.get("app.user_id")
)


@app.errorhandler(PaygentLimitExceeded)
def refuse(refusal: PaygentLimitExceeded) -> tuple[str, int]:
    """Respond to a user who has reached a limit."""
    return f"refused: {refusal.guard_result.gate_reason}", 429


def ask(text: str, **options):
    """Make one call."""
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="gpt-4o", messages=messages, **options)


@app.get("/hello")
def hello() -> str:
    """Answer in one piece."""
    return ask("Say hello.").choices[0].message.content


@app.get("/story")
def story() -> Response:
    """Stream the answer, after the handler has returned."""
    # Call here and not in the generator, so that a refusal is a 429 and not half of a 200.
    stream = ask("Tell a story.", stream=True)

    def pieces():
        for chunk in stream:
            yield chunk.choices[0].delta.content or "" if chunk.choices else ""

    return Response(pieces(), mimetype="text/plain")


browser = app.test_client()
for token, path in (
    ("a", "hello"),
    ("a", "story"),
    ("b", "story"),
    ("a", "hello"),
    ("a", "story"),
):
    answer = browser.get(path, headers={"authorization": f"Bearer {token}"})
    print(TOKENS[f"Bearer {token}"], path, answer.status_code, answer.text.strip())

pg.flush()
for row in sorted(pg.report(("user", "model"))):
    tokens = row.input_tokens + row.output_tokens
    print(f"{row.user_id} used {row.model}: calls {row.calls}, tokens {tokens}")
fake.stop()
