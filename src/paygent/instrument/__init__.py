"""Instrument: where provider SDKs are patched, and how request, usage and stream chunk are read.

What is patched, and when: `registry.py` has the hooks (`sdk.py`, `litellm.py`, `sockets.py`,
`carriers.py`, `custom.py`, `noticed.py`), `imports.py` waits for modules, `patches.py` takes out
again what was put in.

A call goes through `funnel.py`: before it `request.py` reads the request, after it `outcome.py`
ends it. Streams are tapped in `stream.py` (chunks) and `raw.py` (bytes), which ask `ending.py` for
the end. Each SDK has a thin file of its own that only knows names and fields: its operations
(`route.py`) and how they are read (`reading.py`). Other code is in `run.py`.

A socket is tapped in `taps.py`; `messages.py` reads what goes over it as far as is needed,
`conversation.py` makes calls of it (of what `place.py` knows), `responses.py` matches them,
`counted.py` counts them once, and `sdk_sockets.py` says which sockets an SDK opens.
"""
