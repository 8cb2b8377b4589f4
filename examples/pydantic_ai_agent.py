"""pydantic-ai agents on OpenAI and Anthropic. Needs pydantic-ai-slim[openai,anthropic].

```text
gpt-4o: Hello.
gpt-4o: Hello.
refused: model_limit:gpt-4o
claude-sonnet-5-5: Hello.
ada claude-sonnet-5-5 1
ada gpt-4o 2
```
"""

import asyncio
import tempfile

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.testing import Answer, FakeProvider

pg = Paygent.init(db_path=f"{tempfile.mkdtemp()}/paygent.db")
pg.configure_plan("pro", PlanConfig(model_limits={"gpt-4o": 200}))
pg.assign_plan("ada", "pro")


async def main() -> None:
    """Ask one model until its cap, then continue with another."""
    # A fake of both providers: remove it, and set OPENAI_API_KEY and ANTHROPIC_API_KEY.
    with FakeProvider(Answer(text="Hello.")) as fake:
        openai = AsyncOpenAI(base_url=fake.openai_url, api_key="demo")
        anthropic = AsyncAnthropic(base_url=fake.url, api_key="demo")
        gpt = OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=openai))
        claude = AnthropicModel(
            "claude-sonnet-5-5", provider=AnthropicProvider(anthropic_client=anthropic)
        )
        settings = {"max_tokens": 50}
        with paygent_context(user_id="ada"):
            for model in (gpt, gpt, gpt, claude):
                try:
                    result = await Agent(model).run("Say hello.", model_settings=settings)
                    print(f"{model.model_name}: {result.output}")
                except PaygentLimitExceeded as refusal:
                    print("refused:", refusal.guard_result.gate_reason)
        await openai.close()
        await anthropic.close()


asyncio.run(main())
for row in sorted(pg.report(("user", "model")), key=lambda row: str(row.model)):
    print(row.user_id, row.model, row.calls)
pg.shutdown()
