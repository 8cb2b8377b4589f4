"""The addresses of the dashboard: its pages and actions.

Ids are in the query of an address and never in its path: an id may be any text, `..` among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.routing import Route

from paygent.server.dashboard import account_pages, plans, user_actions
from paygent.server.dashboard.export import show_export
from paygent.server.dashboard.overview import show_overview
from paygent.server.dashboard.own_usage import show_own_usage
from paygent.server.dashboard.prices import show_price, show_prices
from paygent.server.dashboard.site import ActionHandler, PageHandler, Site
from paygent.server.dashboard.user import show_call, show_user
from paygent.server.dashboard.users import show_users

PAGES: Final[Mapping[str, PageHandler]] = {
    "/": show_overview,
    "/users": show_users,
    "/user": show_user,
    "/call": show_call,
    "/plans": plans.show_plans,
    "/plan": plans.show_plan,
    "/prices": show_prices,
    "/price": show_price,
    "/keys": account_pages.show_keys,
    "/settings": account_pages.show_settings,
    "/export": show_export,
}
ACTIONS: Final[Mapping[str, ActionHandler]] = {
    "/user/raise": user_actions.raise_limit,
    "/user/end-raise": user_actions.end_raise,
    "/user/pause": user_actions.pause_user,
    "/user/plan": user_actions.change_plan,
    "/user/erase": user_actions.erase_user,
    "/user/usage-link": user_actions.make_usage_link,
    "/plan/check": plans.check_plan,
    "/plan/save": plans.save_plan,
    "/plan/replay": plans.replay_plan,
    "/plan/shadow": plans.switch_shadow,
    "/plan/delete": plans.delete_plan,
    "/keys/create": account_pages.make_key,
    "/keys/rotate": account_pages.rotate_key,
    "/keys/revoke": account_pages.revoke_key,
    "/views": account_pages.save_view,
    "/views/delete": account_pages.delete_view,
    "/theme": account_pages.choose_theme,
}


def dashboard_routes() -> list[Route]:
    """Return the routes of the dashboard."""
    return Site(PAGES, ACTIONS, {"/usage": show_own_usage}).routes()
