"""A gevent pool: each greenlet keeps the user it was spawned for, on both SDKs. Needs gevent.

```text
ada: Hello. Hello.
bob: Hello. Hello.
refused: model_limit:gpt-4o
ada claude-sonnet-5-5 1
ada gpt-4o 2
bob claude-sonnet-5-5 1
bob gpt-4o 1
```
"""

from gevent import monkey

monkey.patch_all()

import tempfile  # noqa: E402

from anthropic import Anthropic  # noqa: E402
from gevent.pool import Pool  # noqa: E402
from openai import OpenAI  # noqa: E402

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context  # noqa: E402
from paygent.testing import Answer, FakeProvider  # noqa: E402

pg = Paygent.init(db_path=f"{tempfile.mkdtemp()}/paygent.db")
pg.configure_plan("pro", PlanConfig(model_limits={"gpt-4o": 200}))
for user in ("ada", "bob"):
    pg.assign_plan(user, "pro")
messages = [{"role": "user", "content": "Say hello."}]

# A fake of both providers: remove it, and set OPENAI_API_KEY and ANTHROPIC_API_KEY.
with FakeProvider(Answer(text="Hello.")) as fake:
    gpt = OpenAI(base_url=fake.openai_url, api_key="demo")
    claude = Anthropic(base_url=fake.url, api_key="demo")

    def ask_gpt() -> str:
        """Ask OpenAI."""
        answer = gpt.chat.completions.create(model="gpt-4o", max_tokens=50, messages=messages)
        return answer.choices[0].message.content

    def ask_claude() -> str:
        """Ask Anthropic."""
        answer = claude.messages.create(model="claude-sonnet-5-5", max_tokens=50, messages=messages)
        return answer.content[0].text

    pool = Pool(4)
    spawned = {}
    for user in ("ada", "bob"):
        with paygent_context(user_id=user):
            spawned[user] = [pool.spawn(ask_gpt), pool.spawn(ask_claude)]
    for user, greenlets in spawned.items():
        print(f"{user}:", *(greenlet.get() for greenlet in greenlets))
    with paygent_context(user_id="ada"):
        pool.spawn(ask_gpt).get()
        try:
            pool.spawn(ask_gpt).get()
        except PaygentLimitExceeded as refusal:
            print("refused:", refusal.guard_result.gate_reason)

rows = pg.report(("user", "model"))
for row in sorted(rows, key=lambda row: (str(row.user_id), str(row.model))):
    print(row.user_id, row.model, row.calls)
pg.shutdown()
