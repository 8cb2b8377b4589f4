"""The catalogue of log messages: each kind of observation with its text.

The kinds are the keys of `Paygent.health()["counts"]`, beside those of swallowed failures (`Step`).
A kind may be counted apart for each subject, such as a model: then its key is `kind:subject`.
"""

from __future__ import annotations

from enum import Enum


class Notice(Enum):
    """An observation that is counted, and logged at its first occurrence.

    The text has a placeholder for each argument. No prompt, answer or key may be an argument.
    """

    # Users, sessions and plans
    NO_USER_CALL = (
        "no_user",
        "A call has no user and is attributed to %s: wrap it in a paygent_context; use pg.bind for"
        " work that is handed to another thread, and PaygentMiddleware in web applications, since a"
        " paygent_context in a dependency is not in effect in the handler.",
    )
    NO_USER_EVENT = "no_user", "An event has no user and is attributed to %s."
    BAD_USER_ID = (
        "bad_user_id",
        "A user_id of type %s is not usable: it must have 1 to %d characters; the call has no"
        " user.",
    )
    BAD_SESSION_ID = (
        "bad_session_id",
        "A session_id of type %s is not usable: it must have 1 to %d characters; it is ignored.",
    )
    BAD_METADATA = "bad_metadata", "Metadata of type %s is not usable; it is ignored."
    METADATA_DROPPED = (
        "metadata_dropped",
        "Metadata is limited to %d keys and %d bytes; the rest is dropped.",
    )
    SCOPE_LEFT_ELSEWHERE = (
        "context_exited_elsewhere",
        "A paygent_context was left in another context than it was entered in, or before a block"
        " inside it: decorate generators with paygent_track, since a block in a generator also"
        " applies to its reader, and use PaygentMiddleware instead of a web framework's"
        " dependency.",
    )
    PROCESS_WITHOUT_INIT = (
        "process_without_init",
        "Work of a user ran in a process in which Paygent.init was not called: calls that it made"
        " here are neither metered nor limited. Call it once when the process starts; for the"
        " processes of a pool, in the pool's initializer.",
    )
    CONTEXT_PLAN = (
        "context_plan",
        "A context names plan %s for a user on another plan, which applies.",
    )
    CONTEXT_PLAN_UNKNOWN = (
        "context_plan_unknown",
        "A context names plan %s, which is not configured; it is ignored.",
    )
    PLAN_NOT_CONFIGURED = (
        "plan_not_configured",
        "Plan %s is not configured; its users have no limits.",
    )
    DEFAULT_PLAN_DIFFERS = (
        "default_plan_differs",
        "This process was started with default_plan %r, another one of this product with %r: users"
        " without a plan are limited differently. Pass the same default_plan everywhere.",
    )
    SUBSCRIPTION_ENDED = (
        "subscription_ended",
        "A subscription has ended; its user is on the default plan now.",
    )

    # Prices and usage
    UNPRICED = "unpriced", "No price for model %s%s; this usage is recorded at $0."
    UNPRICED_EVENT = (
        "unpriced_event",
        "An event has tokens of a model without a price; they are recorded at $0.",
    )
    ASSUMED_PRICE = (
        "assumed_price",
        "The price list of model %s lacks %s; the nearest price is used.",
    )
    UNREAD_ANSWER = (
        "usage_unreadable",
        "The usage of an answer of type %s (%s) cannot be read; the estimate is recorded.",
    )
    UNREAD_STREAM = (
        "stream_untapped",
        "A stream of type %s cannot be read; the estimate is recorded.",
    )
    REPORT_INCOMPLETE = (
        "report_incomplete",
        "A report may lack events that have not reached the ledger yet.",
    )

    GATE_EVENTS_UNSENT = (
        "gate_events_unsent",
        "The backend does not take gate events; refusals may be missing in its reports.",
    )
    GATE_LOG_FULL = (
        "gate_log_full",
        "Too many calls reach their gates at once; some are missing in reports of gates.",
    )

    # Instrumentation
    SHUT_DOWN = "shut_down", "Paygent is shut down; calls pass unmetered."
    SHUT_DOWN_EVENT = "shut_down_event", "Paygent is shut down; events wait in the journal."
    UNMETERED_OPERATION = (
        "unmetered",
        "%s %s is neither metered nor limited. Use pg.wrap(); a model without a price"
        " books $0 until cost_rates has a rate for it.",
    )
    UNMETERED_FUNCTION = (
        "unmetered",
        "litellm.%s is neither metered nor limited. Use pg.wrap(); a model without a price"
        " books $0 until cost_rates has a rate for it.",
    )
    UNMETERED_SDK = (
        "unmetered_sdk",
        "%s is not instrumented: its calls are neither metered nor limited. Use pg.wrap() or"
        " register it.",
    )
    UNMETERED_CONNECTION = (
        "unmetered",
        "A connection to %s is neither metered nor limited. Use pg.wrap(); a model without a price"
        " books $0 until cost_rates has a rate for it.",
    )
    UNMETERED_SOCKET_LIBRARY = (
        "unmetered",
        "A connection through %s is neither metered nor limited. Use websockets.asyncio.",
    )
    UNMETERED_LANGCHAIN = (
        "unmetered",
        "A LangChain call of %s bypassed every hook; it is not metered.",
    )
    UNKNOWN_SOCKET_HOST = (
        "socket_like_openai",
        "A socket to an unknown host requests a response in OpenAI's format; it is metered and"
        " limited like OpenAI's (%s).",
    )
    SOCKET_WRITES_UNSEEN = (
        "socket_writes_unknown",
        "Writes of this version of websockets cannot be observed; responses are attributed to the"
        " user who opened the connection.",
    )
    HOOK_MISSING = (
        "unhooked",
        "The hook in %s is not in place; its calls may be neither metered nor limited.",
    )
    HOOK_RESTORED = (
        "hook_restored",
        "Other code replaced %s.%s; Paygent's hook was put on top of it.",
    )
    HOOK_PUT_BACK = (
        "hook_restored",
        "Other code removed Paygent's hook from %s.%s; it was put back.",
    )
    HOOK_DISPLACED = (
        "hook_displaced",
        "Other code replaced %s.%s; calls through it may be neither metered nor limited.",
    )
    ARGUMENTS_HOOK_DISPLACED = (
        "hook_displaced",
        "Other code replaced %s.%s; its calls are still metered, but do not pass paygent_*"
        " arguments to it.",
    )
    PROPAGATION_HOOK_DISPLACED = (
        "hook_displaced",
        "Other code replaced %s.%s; work started through it may run without a user.",
    )
    NO_SUCH_METHOD = (
        "unhooked",
        "Provider %s: there is no %s.%s.%s; its calls are neither metered nor limited.",
    )
    NO_CREW_METHOD = (
        "unhooked",
        "This version of %s has no known method that runs a crew.",
    )
    BAD_WRAP_VALUE = "wrap", "The %s given to wrap is not usable and is ignored."

    # Delivery and callbacks
    BACKEND = "backend", "%s; calls are metered locally."
    WARNING = "warning", "%s"
    LEDGER_SLOW = "ledger_slow", "The ledger did not answer within %s s; calls proceed."
    LEDGER_UNAVAILABLE = (
        "ledger_unavailable",
        "The ledger is unavailable (%s); events wait in the journal. `paygent doctor` looks for the"
        " reason.",
    )
    BACKEND_UNAUTHORISED = (
        "backend_unauthorised",
        "The backend rejects the API key (%s); events wait in the journal until it is accepted.",
    )
    BACKEND_POLLED = (
        "backend_polled",
        "The backend has only the documented routes: users are polled, and caps hold over several"
        " processes only as far as each knows what the others have spent.",
    )
    BACKEND_KEEPS_PLANS = (
        "backend_keeps_plans",
        "Plans and assignments come from the backend: those of configure_plan, assign_plan and"
        " start_session apply only until it knows the user. Use its API or `paygent plans apply`.",
    )
    DATABASE_REPLACED = (
        "database_replaced",
        "The database %s was removed or replaced while it was in use; what is there now is used."
        " Plans and spend of before are gone with it: restart the application to configure them.",
    )
    NO_THREAD = "no_thread", "No thread can be started; events wait in the journal."
    NO_THREADS_IN_UWSGI = (
        "no_thread",
        "Without --enable-threads uWSGI runs no threads: events wait in the journal, and callbacks"
        " do not run.",
    )
    RECORD_TOO_LARGE = (
        "record_too_large",
        "A record of %s bytes was dropped, or kept without its tool names; the journal accepts up"
        " to %s bytes. Shorten its tool names, description or metadata.",
    )
    JOURNAL_IN_MEMORY = (
        "journal_in_memory",
        "The journal cannot be written; events are kept in memory only.",
    )
    JOURNAL_MEMORY_FULL = (
        "journal_memory_full",
        "The journal cannot be written and memory is full; events are delivered late.",
    )
    JOURNAL_LOST = "journal_lost", "Part of the journal has disappeared."
    JOURNAL_UNREADABLE = (
        "journal_unreadable",
        "Part of a dead process's journal cannot be read; its file is kept as %s.",
    )
    CALLBACKS_DROPPED = "callbacks_dropped", "Callbacks take too long; some were dropped."
    CALLBACKS_HUNG = (
        "callbacks_hung",
        "Callbacks take too long: %d had not begun at shutdown and may be lost.",
    )

    @property
    def kind(self) -> str:
        """The key under which it is counted."""
        return self.value[0]

    @property
    def text(self) -> str:
        """The message, with a place for each argument."""
        return self.value[1]


class Step(str, Enum):
    """A step that may fail inside Paygent while the call proceeds: the kinds of `attempt`.

    Callers write the value as a literal; a test compares both.
    """

    # A call
    PREPARE = "prepare"  # reading a request
    BEGIN = "begin"  # identify, estimate, gate, hold
    WAIT = "wait"  # leaving the queue
    SHORTCUT = "shortcut"  # leaving one for later calls
    SETTLE = "settle"  # ending a call
    COLLECT = "collect"  # booking a background job
    USAGE = "usage"  # reading the usage of an answer
    DECLARED_USAGE = "declared_usage"  # reading the usage that a request determines
    EXTRACT_TOKENS = "extract_tokens"  # an application's extractor
    STREAM = "stream"  # reading a chunk
    STREAM_BYTES = "stream_bytes"  # reading bytes of a stream
    STREAM_USAGE = "stream_usage"  # requesting the usage of a stream
    TAP_BYTES = "tap_bytes"  # putting a tap into a response
    GATEWAY = "gateway"  # attributing a request below LiteLLM
    SOCKET = "socket"  # reading a message of a socket
    CALLBACK = "callback"  # an application's callback
    CALLBACKS = "callbacks"  # the thread that runs callbacks
    LOG = "log"  # a handler or filter of the application's log

    # Users
    METADATA = "metadata"
    ASK_USER = "ask_user"  # an application's function that returns the user
    ASK_SESSION = "ask_session"
    USER_ID_PARAM = "user_id_param"  # reading the argument that holds the user
    BIND = "bind"  # propagating the user into another process
    PROPAGATION = "propagation"  # propagating the user to a thread
    CREWAI = "crewai"
    LANGCHAIN = "langchain"

    # Instrumentation
    IMPORT = "import"  # finding a module that is imported later
    PATCH = "patch"
    UNPATCH = "unpatch"
    SELF_CHECK = "self_check"  # verifying that patches are in place
    UNINSTRUMENTED = "uninstrumented"  # detecting an SDK that is not instrumented

    # Prices, journal and ledger
    CATALOGUE = "catalogue"  # loading the price list
    CATALOGUE_PRICE = "catalogue_price"  # reading one price
    PRICE_LIST = "price_list"  # recording a price list
    PLAN_DOCUMENT = "plan_document"  # reading a plan from the ledger
    DEFAULT_PLAN = "default_plan"  # telling other processes which one was chosen
    TAG_KEYS = "tag_keys"  # declaring metadata keys of reports
    DATA_FOLDER = "data_folder"
    JOURNAL_FOLDER = "journal_folder"
    JOURNAL_WRITE = "journal_write"
    JOURNAL_CUT = "journal_cut"  # shortening a segment to what is used
    JOURNAL_REMOVE = "journal_remove"  # deleting a segment or a lock
    EVENT_RECORD = "event_record"  # decoding a record
    LEDGER_RECORD = "ledger_record"
    GATE_LOG = "gate_log"  # turning calls at gates into records
    OPEN_LEDGER = "open_ledger"
    DELIVER = "deliver"
    LEDGER_REFUSED = "ledger_refused"  # a batch that the ledger rejects
    QUARANTINE = "quarantine"  # keeping a record that cannot be booked
    ADOPT = "adopt"  # taking over the journals of dead processes
    ASK = "ask"  # asking the ledger about a user
    PROBE = "probe"  # asking the backend whether it is there
    FORK = "fork"
    EXIT = "exit"
