"""What each customer of `chat_service.py` has cost this month, by model; run it nightly.

    python examples/nightly_report.py

It is a process of its own, which reads the same file (`PAYGENT_DB_PATH`) while the service runs.
"""

from paygent import Paygent

pg = Paygent.init(auto_instrument=False)  # it makes no calls
try:
    by_model = pg.report(("user", "model"))
    for user in pg.report("user"):
        print(f"{user.user_id}: ${user.cost_nano / 1e9:.6f}, calls {user.calls}")
        for row in by_model:
            if row.user_id == user.user_id:
                print(f"  {row.model}: ${row.cost_nano / 1e9:.6f}, calls {row.calls}")
finally:
    pg.shutdown()
