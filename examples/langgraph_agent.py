"""An agent of LangGraph with a tool: each of its model turns is a call of its own, on the user
around it. Needs langgraph and langchain-openai.

```text
answer: It is sunny in Rome.
refused: ada has used 240 of 200 tokens on gpt-4o
ada gpt-4o 2
```
"""

import tempfile
import warnings

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.testing import Answer, FakeProvider

warnings.simplefilter("ignore")
pg = Paygent.init(db_path=f"{tempfile.mkdtemp()}/paygent.db")
pg.configure_plan("pro", PlanConfig(model_limits={"gpt-4o": 200}))
pg.assign_plan("ada", "pro")


@tool
def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"sunny in {city}"


# A stand-in for OpenAI: take it out, and set OPENAI_API_KEY.
with FakeProvider(Answer(text="It is sunny in Rome.")) as fake:
    fake.script(Answer(tool_call=("weather", '{"city": "Rome"}')))
    model = ChatOpenAI(
        model="gpt-4o", base_url=fake.openai_url, api_key="demo", max_tokens=50
    ).bind_tools([weather])

    graph = StateGraph(MessagesState)
    graph.add_node("agent", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([weather]))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "agent")
    agent = graph.compile()

    question = {"messages": [("user", "How is the weather in Rome?")]}
    with paygent_context(user_id="ada"):
        print("answer:", agent.invoke(question)["messages"][-1].content)
        try:
            agent.invoke(question)
        except PaygentLimitExceeded as refusal:
            print("refused:", refusal)

for row in pg.report(("user", "model")):
    print(row.user_id, row.model, row.calls)
pg.shutdown()
