"""How well a cap is used and kept: callers of one user who come again until they are refused.

A provider is a pause of random length on the event loop, so that hundreds of calls are in flight at
once without a processor being busy.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

_INPUT, _OUTPUT = 1_000, 500
_CALL_NANO = _INPUT * 1_000 + _OUTPUT * 4_000


class _Crowd:
    """So many callers of one user, each in a loop of calls."""

    def __init__(self, pg: Any, fit: int, noise: float, latency_s: float, seed: int) -> None:
        self.pg = pg
        self.cap_nano = fit * _CALL_NANO
        self.noise = noise
        self.latency_s = latency_s
        self.chance = random.Random(seed)
        self.flying_nano = 0
        self.used_at_first_refusal: float | None = None

    async def provider(self) -> dict[str, Any]:
        """Take a while, and as many tokens as it happens."""
        factor = 1.0
        if self.noise:
            factor = self.chance.lognormvariate(-(self.noise**2) / 2, self.noise)
        input_tokens, output_tokens = round(_INPUT * factor), round(_OUTPUT * factor)
        cost_nano = input_tokens * 1_000 + output_tokens * 4_000
        self.flying_nano += cost_nano
        await asyncio.sleep(self.chance.expovariate(1 / self.latency_s))
        self.flying_nano -= cost_nano
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
                self.used_at_first_refusal = (spent_nano + self.flying_nano) / self.cap_nano

    async def come(self, callers: int) -> None:
        """Let all of them call."""
        await asyncio.gather(*(self.caller() for _ in range(callers)))


def cap(seeds: int) -> None:
    """Print overspend in calls, and the use of the cap at the first refusal, by the worst seed."""
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
            asyncio.run(crowd.come(callers))
            spent_nano = pg.get_usage("user").period_cost_nano
            over.append((spent_nano - crowd.cap_nano) / _CALL_NANO)
            used.append(crowd.used_at_first_refusal or 0.0)
            pg.shutdown(timeout=1)
        print(
            f"  {callers} callers, {fit:>5} calls fit, noise {noise:.0%}, about {latency_s} s"
            f"   over {max(over):+.1f} calls   used at the first refusal {min(used):.1%}"
        )
