"""The in-situ benchmark as a script that any environment with a `paygent` and openai can run.

The HTTP answer is made inside the process (a transport that answers at once), so that what is measured is
the SDK's own work and ours. The added path is the time of a metered call less the time that its inner,
unwrapped call took: both are read in the same call, so a noisy machine hits both.
"""

SCRIPT = r"""
import json, os, sys, tempfile, time, warnings
warnings.simplefilter("ignore")
import httpx2, openai
from openai._base_client import SyncAPIClient

answer = json.dumps({
    "id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o",
    "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None,
                 "message": {"role": "assistant", "content": "hello", "refusal": None}}],
    "usage": {"prompt_tokens": 150, "completion_tokens": 40, "total_tokens": 190,
              "prompt_tokens_details": {"cached_tokens": 64},
              "completion_tokens_details": {"reasoning_tokens": 0}},
}).encode()
transport = httpx2.MockTransport(
    lambda request: httpx2.Response(200, content=answer, headers={"content-type": "application/json"}))

bare_request = SyncAPIClient.request
inner = [0]
def timed_request(self, *args, **kwargs):
    start = time.perf_counter_ns()
    try:
        return bare_request(self, *args, **kwargs)
    finally:
        inner[0] = time.perf_counter_ns() - start
SyncAPIClient.request = timed_request

import paygent
from paygent import Paygent, paygent_context
folder = tempfile.mkdtemp()
pg = Paygent.init(db_path=os.path.join(folder, "bench.db"))
plan = paygent.PlanConfig(
    max_spend_per_period=10**6,
    cost_rates={"gpt-4o": paygent.ModelCostRate(input=0.0025, output=0.01)})
pg.configure_plan("bench", plan)
pg.start_session("user", plan="bench")
messages = [{"role": "system", "content": "s" * 400}, {"role": "user", "content": "u" * 200}]
client = openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1",
                       http_client=httpx2.Client(transport=transport))
rounds = int(sys.argv[1])
outside, added, bare = [], [], []

def call():
    start = time.perf_counter_ns()
    client.chat.completions.create(model="gpt-4o", messages=messages, max_tokens=100)
    return time.perf_counter_ns() - start

def plain():
    saved, type(client).request
    return 0

with paygent_context(user_id="user"):
    for number in range(rounds // 5):
        call()
    resource = type(client.chat.completions)
    for number in range(rounds):
        whole = call()
        outside.append(whole - inner[0])
        bare.append(inner[0])
# what stands around the funnel without Paygent: the resource method itself
try:
    pg.shutdown()
except Exception:
    pass
around = []
for name in ("uninstrument",):
    getattr(pg, name, lambda: None)()
SyncAPIClient.request = timed_request
for number in range(rounds):
    whole = call()
    around.append(whole - inner[0])
outside.sort(); around.sort(); bare.sort()
def at(values, share):
    return values[min(int(len(values) * share), len(values) - 1)] / 1000
print(json.dumps({"bare_p50": at(bare, .5) + at(around, .5),
                  "added_p50": at(outside, .5) - at(around, .5),
                  "added_p99": at(outside, .99) - at(around, .5)}))
"""
