"""A LangGraph agent with a tool: each model turn is a separate call of the current user. Runs on
OpenAI, and on Claude once the OpenAI cap is reached. Needs langgraph, langchain-openai and
langchain-anthropic.

```text
gpt-4o: It is sunny in Rome.
refused: model_limit:gpt-4o
claude-sonnet-5-5: It is sunny in Rome.
refused: model_limit:claude-sonnet-5-5
ada claude-sonnet-5-5 2
ada gpt-4o 2
```
"""

import tempfile
import warnings

from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.testing import Answer, FakeProvider

warnings.simplefilter("ignore")
pg = Paygent.init(db_path=f"{tempfile.mkdtemp()}/paygent.db")
pg.configure_plan("pro", PlanConfig(model_limits={"gpt-4o": 200, "claude-sonnet-5-5": 200}))
pg.assign_plan("ada", "pro")


@tool
def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"sunny in {city}"


def agent_on(model):
    """Return an agent that uses the model and the tool."""
    graph = StateGraph(MessagesState)
    graph.add_node("agent", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([weather]))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "agent")
    return graph.compile()


# A fake of both providers: remove it, and set OPENAI_API_KEY and ANTHROPIC_API_KEY.
with FakeProvider(Answer(text="It is sunny in Rome.")) as fake:
    options = {"api_key": "demo", "max_tokens": 50}
    models = {
        "gpt-4o": ChatOpenAI(model="gpt-4o", base_url=fake.openai_url, **options),
        "claude-sonnet-5-5": ChatAnthropic(model="claude-sonnet-5-5", base_url=fake.url, **options),
    }
    question = {"messages": [("user", "How is the weather in Rome?")]}
    for name, model in models.items():
        fake.script(Answer(tool_call=("weather", '{"city": "Rome"}')))
        agent = agent_on(model.bind_tools([weather]))
        with paygent_context(user_id="ada"):
            print(f"{name}:", agent.invoke(question)["messages"][-1].text)
            try:
                agent.invoke(question)
            except PaygentLimitExceeded as refusal:
                print("refused:", refusal.guard_result.gate_reason)

for row in sorted(pg.report(("user", "model")), key=lambda row: row.model):
    print(row.user_id, row.model, row.calls)
pg.shutdown()
