"""The in-situ benchmark, as a script for any environment with a `paygent` and openai.

The HTTP answer is produced inside the process (a transport that answers at once), so the script
measures the work of the SDK and of Paygent. Bare calls use the SDK's methods from before Paygent
patched them; metered and bare calls alternate, so that other load on the machine affects both
equally. With `--steps`, further calls are timed step by step; the timers themselves take some time.
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

def timed_step(owner, name, label):
    inner = getattr(owner, name)
    readings = steps.setdefault(label, [])
    def measured(*args):
        start = time.perf_counter_ns()
        try:
            return inner(*args)
        finally:
            readings.append(time.perf_counter_ns() - start)
    setattr(owner, name, measured)

if "--steps" in sys.argv:
    from paygent.client.instrument.http_sdks import wrapper
    from paygent.client.metering.meter import Meter
    from paygent.client.journal.journal import Journal
    timed_step(wrapper, "prepare", "call: read the request")
    timed_step(Meter, "begin", "begin, whole")
    timed_step(Journal, "begin", "begin: journal write")
    timed_step(wrapper, "end_answered", "end, whole")
    timed_step(Journal, "end", "end: journal write")
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
