"""CrewAI: a step callback sets the user of a crew, and `kickoff` raises the refusal at the cap.
Runs on OpenAI, and on Claude once the OpenAI cap is reached. Needs crewai and anthropic.

```text
ada: Hello.
refused: model_limit:gpt-4o
ada: Hello.
refused: model_limit:claude-sonnet-5-5
ada claude-sonnet-5-5 1
ada gpt-4o 1
```
"""

import contextlib
import io
import logging
import os
import tempfile
import warnings

os.environ.update(
    CREWAI_DISABLE_TELEMETRY="true",
    CREWAI_TRACING_ENABLED="false",
    OTEL_SDK_DISABLED="true",
    OPENAI_API_KEY="demo",
    ANTHROPIC_API_KEY="demo",
)
logging.basicConfig(level=logging.CRITICAL)
logging.getLogger("paygent").setLevel(logging.WARNING)
warnings.simplefilter("ignore")

from crewai import LLM, Agent, Crew, Task  # noqa: E402 - reads its settings on import

from paygent import Paygent, PaygentLimitExceeded, PlanConfig  # noqa: E402
from paygent.integrations import CrewAICallback  # noqa: E402
from paygent.testing import Answer, FakeProvider  # noqa: E402

pg = Paygent.init(db_path=f"{tempfile.mkdtemp()}/paygent.db")
pg.configure_plan("pro", PlanConfig(model_limits={"gpt-4o": 100, "claude-sonnet-5-5": 100}))
pg.assign_plan("ada", "pro")

# A fake of both providers: remove it, and set OPENAI_API_KEY and ANTHROPIC_API_KEY.
with FakeProvider(Answer(text="Hello.")) as fake:
    options = {"api_key": "demo", "max_tokens": 50}
    gpt = LLM(model="openai/gpt-4o", base_url=fake.openai_url, **options)
    claude = LLM(model="anthropic/claude-sonnet-5-5", base_url=fake.url, **options)
    for llm in (gpt, gpt, claude, claude):
        host = Agent(role="host", goal="greet", backstory="polite", llm=llm)
        task = Task(description="Say hello.", expected_output="a greeting", agent=host)
        crew = Crew(agents=[host], tasks=[task], step_callback=CrewAICallback(pg, user_id="ada"))
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # hides CrewAI's own output
                answer = crew.kickoff()
            print("ada:", answer)
        except PaygentLimitExceeded as refusal:
            print("refused:", refusal.guard_result.gate_reason)

for row in sorted(pg.report(("user", "model")), key=lambda row: row.model):
    print(row.user_id, row.model, row.calls)
pg.shutdown()
