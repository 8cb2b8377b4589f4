"""LiteLLM: its functions and its router are metered, for any provider. Needs litellm.

```text
openai/gpt-4o: Hello.
anthropic/claude-sonnet-5-5: Hello.
router: Hello.
refused: model_limit:gpt-4o
ada anthropic claude-sonnet-5-5 0.0004
ada openai gpt-4o 0.00045
ada openai gpt-4o 0.00045
```
"""

import os
import tempfile

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it fetches prices on import

import litellm

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.testing import Answer, FakeProvider

pg = Paygent.init(db_path=f"{tempfile.mkdtemp()}/paygent.db")
pg.configure_plan("pro", PlanConfig(model_limits={"gpt-4o": 200}))
pg.assign_plan("ada", "pro")
events = []
pg.on_usage(events.append)
messages = [{"role": "user", "content": "Say hello."}]

# A fake of both providers: remove it, and set OPENAI_API_KEY and ANTHROPIC_API_KEY.
with FakeProvider(Answer(text="Hello.")) as fake, paygent_context(user_id="ada"):
    for model, base in (
        ("openai/gpt-4o", fake.openai_url),
        ("anthropic/claude-sonnet-5-5", fake.url),
    ):
        answer = litellm.completion(
            model=model, messages=messages, api_base=base, api_key="demo", max_tokens=50
        )
        print(f"{model}: {answer.choices[0].message.content}")
    params = {"model": "openai/gpt-4o", "api_base": fake.openai_url, "api_key": "demo"}
    router = litellm.Router(model_list=[{"model_name": "chat", "litellm_params": params}])
    for _ in range(2):
        try:
            answer = router.completion(model="chat", messages=messages, max_tokens=50)
            print("router:", answer.choices[0].message.content)
        except PaygentLimitExceeded as refusal:
            print("refused:", refusal.guard_result.gate_reason)

pg.flush()
for line in sorted(f"{e.user_id} {e.provider} {e.model} {e.cost_total:g}" for e in events):
    print(line)
pg.shutdown()
