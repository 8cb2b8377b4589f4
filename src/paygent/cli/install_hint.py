"""What to install where a library of the command line is missing; imports nothing itself."""

from __future__ import annotations

HINT = "{missing} is missing: run this in your clone of Paygent: pip install '.[{extra}]'"
"""For the missing module and the extra that has it. `.` alone would be the reader's own folder."""
