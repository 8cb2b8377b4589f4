"""How fully a cap is used, and how well it is kept: one user's callers repeat until refused.

The provider is a pause of random length on the event loop, so that hundreds of calls are in flight
at once without using the processor.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

_INPUT, _OUTPUT = 1_000, 500
_CALL_NANO = _INPUT * 1_000 + _OUTPUT * 4_000


class _Crowd:
    """Concurrent callers of one user, each in a loop of calls."""

    def __init__(self, pg: Any, fit: int, noise: float, latency_s: float, seed: int) -> None:
        self.pg = pg
        self.cap_nano = fit * _CALL_NANO
        self.noise = noise
        self.latency_s = latency_s
        self.random = random.Random(seed)
        self.in_flight_nano = 0
        self.used_at_first_refusal: float | None = None

    async def provider(self) -> dict[str, Any]:
        """Sleep for a random time and return a random usage."""
        factor = 1.0
        if self.noise:
            factor = self.random.lognormvariate(-(self.noise**2) / 2, self.noise)
        input_tokens, output_tokens = round(_INPUT * factor), round(_OUTPUT * factor)
        cost_nano = input_tokens * 1_000 + output_tokens * 4_000
        self.in_flight_nano += cost_nano
        await asyncio.sleep(self.random.expovariate(1 / self.latency_s))
        self.in_flight_nano -= cost_nano
        return {
            "model": "m",
            "usage": {"prompt_tokens": input_tokens, "completion_tokens": output_tokens},
        }

    async def caller(self) -> None:
        """Call until refused."""
        from paygent import PaygentLimitExceeded

        try:
            while True:
                await self.pg.awrap(self.provider, "user", "m", estimated_input_tokens=_INPUT)
        except PaygentLimitExceeded:
            if self.used_at_first_refusal is None:
                spent_nano = self.pg.get_usage("user").period_cost_nano
                self.used_at_first_refusal = (spent_nano + self.in_flight_nano) / self.cap_nano

    async def run(self, callers: int) -> None:
        """Run all callers to their refusal."""
        await asyncio.gather(*(self.caller() for _ in range(callers)))


def cap(seeds: int) -> None:
    """Print overspend in calls, and the share of the cap used at the first refusal, worst seed."""
    from paygent import ModelCostRate, Paygent, PlanConfig

    print(
        f"one user's cap, {seeds} seeds (budget: used ≥ 98 % at the first refusal; over ≤ 3 calls)"
    )
    for callers, fit, noise, latency_s in (
        (200, 20, 0.0, 0.3),
        (200, 20, 0.3, 0.3),
        (256, 2_000, 0.0, 0.3),
        (256, 2_000, 0.3, 0.3),
        (256, 2_000, 1.0, 0.3),
    ):
        over, used = [], []
        for seed in range(seeds):
            pg = Paygent.init(db_path=":memory:", auto_instrument=False)
            plan = PlanConfig(
                max_spend_per_period=fit * _CALL_NANO / 10**9,
                cost_rates={"m": ModelCostRate.per_million(1, 4)},
            )
            pg.configure_plan("default", plan)
            crowd = _Crowd(pg, fit, noise, latency_s, seed)
            asyncio.run(crowd.run(callers))
            spent_nano = pg.get_usage("user").period_cost_nano
            over.append((spent_nano - crowd.cap_nano) / _CALL_NANO)
            used.append(crowd.used_at_first_refusal or 0.0)
            pg.shutdown(timeout=1)
        print(
            f"  {callers} callers, {fit:>5} calls fit, noise {noise:.0%}, about {latency_s} s"
            f"   over {max(over):+.1f} calls   used at the first refusal {min(used):.1%}"
        )
