"""LangChain on OpenAI and Anthropic: a callback sets the user of a chain, `paygent_context` that of
a batch, and the refusal at the cap reaches your code. Needs langchain-openai and
langchain-anthropic.

```text
ada: Hello. Hello.
refused: model_limit:gpt-4o
bob: Hello. Hello.
ada gpt-4o 2
bob claude-sonnet-5-5 2
```
"""

import tempfile

from langchain_anthropic import ChatAnthropic
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.integrations import LangChainCallback
from paygent.testing import Answer, FakeProvider

pg = Paygent.init(db_path=f"{tempfile.mkdtemp()}/paygent.db")
pg.configure_plan("pro", PlanConfig(model_limits={"gpt-4o": 200}))
for user in ("ada", "bob"):
    pg.assign_plan(user, "pro")

# A fake of both providers: remove it, and set OPENAI_API_KEY and ANTHROPIC_API_KEY.
with FakeProvider(Answer(text="Hello.")) as fake:
    gpt = ChatOpenAI(model="gpt-4o", base_url=fake.openai_url, api_key="demo", max_tokens=50)
    claude = ChatAnthropic(
        model="claude-sonnet-5-5", base_url=fake.url, api_key="demo", max_tokens=50
    )
    prompt = ChatPromptTemplate.from_template("Greet {name}.")

    chain = prompt | gpt | StrOutputParser()
    config = {"callbacks": [LangChainCallback(pg, user_id="ada")]}
    print("ada:", *(chain.invoke({"name": "you"}, config) for _ in range(2)))
    try:
        chain.invoke({"name": "you"}, config)
    except PaygentLimitExceeded as refusal:
        print("refused:", refusal.guard_result.gate_reason)

    with paygent_context(user_id="bob"):
        answers = (prompt | claude | StrOutputParser()).batch([{"name": "you"}, {"name": "me"}])
    print("bob:", *answers)

for row in sorted(pg.report(("user", "model")), key=lambda row: str(row.user_id)):
    print(row.user_id, row.model, row.calls)
pg.shutdown()
