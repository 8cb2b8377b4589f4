"""An agent of the OpenAI Agents SDK with a tool, over HTTP: each turn counts on the user around it.
Needs openai-agents.

```text
answer: It is sunny in Rome.
refused: ada has used 240 of 200 tokens on gpt-4o
ada gpt-4o 2
```
"""

import asyncio
import logging
import tempfile

from agents import Agent, Runner, function_tool, set_tracing_disabled
from agents.models.openai_responses import OpenAIResponsesModel
from openai import AsyncOpenAI

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.testing import Answer, FakeProvider

logging.disable(logging.ERROR)
set_tracing_disabled(True)
pg = Paygent.init(db_path=f"{tempfile.mkdtemp()}/paygent.db")
pg.configure_plan("pro", PlanConfig(model_limits={"gpt-4o": 200}))
pg.assign_plan("ada", "pro")


@function_tool
def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"sunny in {city}"


async def main() -> None:
    """Ask twice; the second time is beyond the cap."""
    # A stand-in for OpenAI: take it out, and set OPENAI_API_KEY.
    with FakeProvider(Answer(text="It is sunny in Rome.")) as fake:
        fake.script(Answer(tool_call=("weather", '{"city": "Rome"}')))
        client = AsyncOpenAI(base_url=fake.openai_url, api_key="demo")
        model = OpenAIResponsesModel(model="gpt-4o", openai_client=client)
        agent = Agent(name="Guide", model=model, tools=[weather])
        with paygent_context(user_id="ada"):
            print("answer:", (await Runner.run(agent, "How is Rome?")).final_output)
            try:
                await Runner.run(agent, "How is Rome?")
            except PaygentLimitExceeded as refusal:
                print("refused:", refusal)
        await client.close()


asyncio.run(main())
for row in pg.report(("user", "model")):
    print(row.user_id, row.model, row.calls)
pg.shutdown()
