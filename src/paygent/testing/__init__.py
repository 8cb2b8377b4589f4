"""For an application's tests: a fake provider, a Paygent of the test's own, the current user.

    def test_chat__a_message__is_charged_to_its_user(paygent_fake):  # the pytest fixture
        chat("Hello.", user="ada")
        assert [event.model for event in paygent_fake.events("ada")] == ["gpt-4o"]

Without pytest, `with PaygentFake() as fake` does the same. Names are loaded when they are first
used: pytest loads the plugin in this package in every run, also where no test uses it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paygent.testing.answer import Answer as Answer
    from paygent.testing.answer import Tokens as Tokens
    from paygent.testing.paygent_fake import PaygentFake as PaygentFake
    from paygent.testing.paygent_fake import current_user as current_user
    from paygent.testing.provider import FakeProvider as FakeProvider
    from paygent.testing.provider import Recorded as Recorded

__all__ = ["Answer", "FakeProvider", "PaygentFake", "Recorded", "Tokens", "current_user"]

_MODULE_OF = {
    "Answer": "answer",
    "FakeProvider": "provider",
    "PaygentFake": "paygent_fake",
    "Recorded": "provider",
    "Tokens": "answer",
    "current_user": "paygent_fake",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module, once."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # from now on it is found without this function
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
