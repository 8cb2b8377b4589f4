"""What runs inside the application: its calls are identified, gated, metered and delivered.

`api/` is what an application calls, `instrument/` patches the provider SDKs, `metering/` takes one
call from begin to settle, `accounts/` holds what this process knows of its users, `journal/` keeps
and delivers the records, `context/` knows the current user, `runtime/` has the process's settings,
locks and lifecycle.
"""
