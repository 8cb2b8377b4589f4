"""The OpenAI Agents SDK with a tool: each turn is a call of the current user. Runs on OpenAI, and
on Claude, through LiteLLM, once the OpenAI cap is reached. Needs openai-agents[litellm].

```text
gpt-4o: It is sunny in Rome.
refused: model_limit:gpt-4o
claude-sonnet-5-5: It is sunny in Rome.
refused: model_limit:claude-sonnet-5-5
ada claude-sonnet-5-5 2
ada gpt-4o 2
```
"""

import asyncio
import logging
import os
import tempfile

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or LiteLLM fetches prices

from agents import Agent, Runner, function_tool, set_tracing_disabled
from agents.extensions.models.litellm_model import LitellmModel
from agents.models.openai_responses import OpenAIResponsesModel
from openai import AsyncOpenAI

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.testing import Answer, FakeProvider

logging.disable(logging.ERROR)
set_tracing_disabled(True)
pg = Paygent.init(db_path=f"{tempfile.mkdtemp()}/paygent.db")
pg.configure_plan("pro", PlanConfig(model_limits={"gpt-4o": 200, "claude-sonnet-5-5": 200}))
pg.assign_plan("ada", "pro")


@function_tool
def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"sunny in {city}"


async def main() -> None:
    """Ask each model twice; the second question exceeds its cap."""
    # A fake of both providers: remove it, and set OPENAI_API_KEY and ANTHROPIC_API_KEY.
    with FakeProvider(Answer(text="It is sunny in Rome.")) as fake:
        client = AsyncOpenAI(base_url=fake.openai_url, api_key="demo")
        models = {
            "gpt-4o": OpenAIResponsesModel(model="gpt-4o", openai_client=client),
            "claude-sonnet-5-5": LitellmModel(
                model="anthropic/claude-sonnet-5-5", base_url=fake.url, api_key="demo"
            ),
        }
        for name, model in models.items():
            fake.script(Answer(tool_call=("weather", '{"city": "Rome"}')))
            agent = Agent(name="Guide", model=model, tools=[weather])
            with paygent_context(user_id="ada"):
                print(f"{name}:", (await Runner.run(agent, "How is Rome?")).final_output)
                try:
                    await Runner.run(agent, "How is Rome?")
                except PaygentLimitExceeded as refusal:
                    print("refused:", refusal.guard_result.gate_reason)
        await client.close()


asyncio.run(main())
for row in sorted(pg.report(("user", "model")), key=lambda row: row.model):
    print(row.user_id, row.model, row.calls)
pg.shutdown()
