"""The in-situ benchmark as a script that any environment with a `paygent` and openai can run.

The HTTP answer is made inside the process (a transport that answers at once), so that what is
measured is the SDK's own work and ours. Bare calls use the SDK's methods as they were before
Paygent patched them; metered and bare calls alternate, so that whatever else the machine does hits
both alike. With `--steps` further calls are made with watches around the steps, which cost some
time themselves.
"""

SCRIPT = r"""
import json, os, sys, tempfile, time, warnings
warnings.simplefilter("ignore")
import httpx2

import types
import openai
from openai._base_client import SyncAPIClient
from openai.resources.chat.completions import Completions
bare_request, bare_create = SyncAPIClient.request, Completions.create

answer = json.dumps({
    "id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o",
    "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None,
                 "message": {"role": "assistant", "content": "hello", "refusal": None}}],
    "usage": {"prompt_tokens": 150, "completion_tokens": 40, "total_tokens": 190,
              "prompt_tokens_details": {"cached_tokens": 64},
              "completion_tokens_details": {"reasoning_tokens": 0}},
}).encode()

def make_client():
    transport = httpx2.MockTransport(
        lambda request: httpx2.Response(200, content=answer,
                                        headers={"content-type": "application/json"}))
    return openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1",
                         http_client=httpx2.Client(transport=transport))

bare_client = make_client()
bare_client.request = types.MethodType(bare_request, bare_client)
import paygent
from paygent import Paygent, paygent_context
pg = Paygent.init(db_path=os.path.join(tempfile.mkdtemp(), "bench.db"))
plan = paygent.PlanConfig(
    max_spend_per_period=10**6,
    cost_rates={"gpt-4o": paygent.ModelCostRate(input=0.0025, output=0.01)})
pg.configure_plan("bench", plan)
pg.start_session("user", plan="bench", plan_config=plan)
metered_client = make_client()
messages = [{"role": "system", "content": "s" * 400}, {"role": "user", "content": "u" * 200}]
rounds = int(sys.argv[1])

def timed(create, client):
    completions = client.chat.completions
    start = time.perf_counter_ns()
    create(completions, model="gpt-4o", messages=messages, max_tokens=100)
    return time.perf_counter_ns() - start

bare, metered = [], []
with paygent_context(user_id="user"):
    for number in range(rounds // 5):
        timed(bare_create, bare_client), timed(Completions.create, metered_client)
    for number in range(rounds):
        bare.append(timed(bare_create, bare_client))
        metered.append(timed(Completions.create, metered_client))

steps = {}

def watched(owner, name, label):
    inner = getattr(owner, name)
    readings = steps.setdefault(label, [])
    def watch(*args):
        start = time.perf_counter_ns()
        try:
            return inner(*args)
        finally:
            readings.append(time.perf_counter_ns() - start)
    setattr(owner, name, watch)

if "--steps" in sys.argv:
    from paygent.client.instrument import funnel
    from paygent.client.metering.meter import Meter
    from paygent.client.journal.journal import Journal
    watched(funnel, "prepare", "call: read the request")
    watched(Meter, "begin", "begin, whole")
    watched(Journal, "begin", "begin: the journal's write")
    watched(funnel, "end_answered", "end, whole")
    watched(Journal, "end", "end: the journal's write")
    with paygent_context(user_id="user"):
        for number in range(rounds):
            timed(bare_create, bare_client), timed(Completions.create, metered_client)
assert pg.get_usage("user").period_tokens_total >= rounds * 190
pg.shutdown()
bare.sort(), metered.sort()

def at(values, share):
    return values[min(int(len(values) * share), len(values) - 1)] / 1000

print(json.dumps({"bare_p50": at(bare, .5),
                  "added_p50": at(metered, .5) - at(bare, .5),
                  "added_p99": at(metered, .99) - at(bare, .99),
                  "steps": {label: [at(sorted(values), .5), at(sorted(values), .99)]
                            for label, values in steps.items()}}))
"""
