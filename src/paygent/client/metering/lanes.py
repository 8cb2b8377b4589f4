"""Makes lanes: by the first call of a kind, and for each model found to answer such calls."""

from __future__ import annotations

import itertools

from paygent.client.accounts.admission import Admission
from paygent.client.accounts.user_state import NO_ALLOTMENT, Lane, LaneKey, User
from paygent.client.metering.booking import is_reproducible
from paygent.client.metering.call import Call, Request
from paygent.client.runtime import ids
from paygent.core.event import Event
from paygent.core.pricing import Rates
from paygent.core.records import Answerer
from paygent.core.usage import Usage
from paygent.prices.catalogue import Catalogue, Resolved


class Lanes:
    """Makes the lanes of one `Paygent`; each user has a table of their own. Thread-safe."""

    def __init__(self, admission: Admission, catalogue: Catalogue) -> None:
        self._admission = admission
        self._catalogue = catalogue
        self._numbers = itertools.count(1)

    def find(self, request: Request, user: User, session_id: str, at_us: int) -> Lane:
        """Return the lane of a request, made where the user has none."""
        resolved = self.resolve(request, user, at_us)
        key = LaneKey(session_id, request.provider, request.route, request.model, id(resolved))
        lane = user.lanes.get(key)
        if lane is None or not lane.is_current():
            forecast = self._admission.forecast(
                user, request.route, resolved, generates=request.generates
            )
            lane = Lane(next(self._numbers), user, key, resolved, forecast, ids.common)
            user.lanes[key] = lane
        return lane

    def resolve(self, request: Request, user: User, at_us: int) -> Resolved:
        """Return the rates of a request's model under its user's plan."""
        return self._catalogue.resolve(
            request.provider, request.model, at_us, user.plan, request.tier
        )

    def learn_answerer(self, call: Call, event: Event, usage: Usage, rates: Rates) -> None:
        """Note the model that has answered, if what it cost follows from the figures alone."""
        lane, model = call.lane, event.model
        if model in lane.answerers or model != usage.model or not lane.is_current():
            return
        answerer = Answerer(model, event.model_key, rates)
        if is_reproducible(event, lane.facts, answerer):
            resolved = self._catalogue.resolve(
                event.provider, model, call.at_us, call.plan, usage.tier
            )
            number, until_us = next(self._numbers), resolved.valid_until_us
            # A new lane, since records rest on this one as it was written.
            call.user.lanes[lane.key] = lane.with_answerer(number, answerer, until_us)
            lane.allotment = NO_ALLOTMENT  # calls go on in the other one
