"""OpenAI's operations that are not metered, by the path of their POST request.

Everything that the SDK sends with another method only reads or removes what exists. Read from the
resources of the releases that docs/reference/surfaces.md names; a test fails for an operation of
the installed SDK that neither these tables nor `routes.py` contain.
"""

from __future__ import annotations

from paygent.client.instrument.http_sdks.route import Operations

FREE = (
    Operations(
        "administers an organization or a project",
        (
            "/organization/admin_api_keys", "/organization/certificates",
            "/organization/certificates/activate", "/organization/certificates/deactivate",
            "/organization/certificates/{}", "/organization/data_retention",
            "/organization/external_keys", "/organization/external_keys/{}/validate",
            "/organization/external_storage", "/organization/external_storage/{}/validate",
            "/organization/groups", "/organization/groups/{}", "/organization/groups/{}/roles",
            "/organization/groups/{}/users", "/organization/invites", "/organization/projects",
            "/organization/projects/{}", "/organization/projects/{}/api_keys/{}",
            "/organization/projects/{}/archive", "/organization/projects/{}/certificates/activate",
            "/organization/projects/{}/certificates/deactivate",
            "/organization/projects/{}/data_retention", "/organization/projects/{}/groups",
            "/organization/projects/{}/hosted_tool_permissions",
            "/organization/projects/{}/model_permissions",
            "/organization/projects/{}/rate_limits/{}",
            "/organization/projects/{}/service_accounts",
            "/organization/projects/{}/service_accounts/{}",
            "/organization/projects/{}/service_accounts/{}/api_keys",
            "/organization/projects/{}/service_tier_settings",
            "/organization/projects/{}/spend_alerts", "/organization/projects/{}/spend_alerts/{}",
            "/organization/projects/{}/spend_limit", "/organization/projects/{}/users",
            "/organization/projects/{}/users/{}", "/organization/roles", "/organization/roles/{}",
            "/organization/spend_alerts", "/organization/spend_alerts/{}",
            "/organization/spend_limit", "/organization/users/{}", "/organization/users/{}/roles",
            "/organization/workload_identity_providers",
            "/organization/workload_identity_providers/{}",
            "/organization/workload_identity_providers/{}/federation_rules",
            "/organization/workload_identity_providers/{}/federation_rules/{}",
            "/projects/{}/groups/{}/roles", "/projects/{}/roles", "/projects/{}/roles/{}",
            "/projects/{}/users/{}/roles",
        ),
    ),
    Operations(
        "moderation and counting tokens are free of charge",
        ("/moderations", "/responses/input_tokens"),
    ),
    Operations(
        "ends, pauses, declines or hands over work",
        (
            "/agents/automations/{}/pause", "/chatkit/sessions/{}/cancel", "/evals/{}/runs/{}",
            "/evals/{}/runs/{}/cancel", "/fine_tuning/jobs/{}/cancel", "/fine_tuning/jobs/{}/pause",
            "/live/sessions/{}/hangup", "/live/sessions/{}/refer", "/live/sessions/{}/reject",
            "/realtime/calls/{}/hangup", "/realtime/calls/{}/refer", "/realtime/calls/{}/reject",
            "/threads/{}/runs/{}/cancel", "/uploads/{}/cancel",
            "/vector_stores/{}/file_batches/{}/cancel",
        ),
    ),
    Operations(
        "stores what later calls use; storage accrues by the day, if it is billed at all",
        (
            "/agents/environments/{}/files", "/audio/voice_consents", "/audio/voice_consents/{}",
            "/containers/{}/files", "/files", "/skills", "/skills/{}", "/skills/{}/versions",
            "/uploads", "/uploads/{}/complete", "/uploads/{}/parts", "/vaults", "/vaults/{}",
            "/vaults/{}/credentials", "/vaults/{}/credentials/{}", "/vector_stores",
            "/vector_stores/{}", "/vector_stores/{}/file_batches", "/vector_stores/{}/files",
            "/vector_stores/{}/files/{}",
        ),
    ),
    Operations(
        "defines or changes what a metered or unmetered operation uses later",
        (
            "/agents", "/agents/environments/templates", "/agents/environments/templates/{}",
            "/agents/sessions/{}", "/agents/{}", "/assistants", "/assistants/{}",
            "/chat/completions/{}", "/conversations", "/conversations/{}",
            "/conversations/{}/items", "/evals", "/evals/{}", "/fine_tuning/alpha/graders/validate",
            "/fine_tuning/checkpoints/{}/permissions", "/threads", "/threads/{}",
            "/threads/{}/messages", "/threads/{}/messages/{}", "/threads/{}/runs/{}",
            "/webhook_endpoints", "/webhook_endpoints/{}", "/webhook_endpoints/{}/rotate_secret",
            "/webhook_endpoints/{}/test",
        ),
    ),
)  # fmt: skip

UNMETERED = (
    Operations(
        "generates a video",
        ("/videos", "/videos/edits", "/videos/extensions", "/videos/{}/remix"),
    ),
    Operations(
        "trains a model",
        ("/fine_tuning/jobs", "/fine_tuning/jobs/{}/resume"),
    ),
    Operations(
        "runs models to evaluate or grade",
        ("/evals/{}/runs", "/fine_tuning/alpha/graders/run"),
    ),
    Operations(
        "runs an assistant",
        ("/threads/runs", "/threads/{}/runs", "/threads/{}/runs/{}/submit_tool_outputs"),
    ),
    Operations(
        "runs an agent, now or on a schedule, or the container that it works in",
        (
            "/agents/automations", "/agents/automations/{}", "/agents/automations/{}/invocations",
            "/agents/automations/{}/resume", "/agents/environments", "/agents/sessions",
            "/agents/sessions/{}/events",
        ),
    ),
    Operations(
        "runs a container, billed by its time",
        ("/containers",),
    ),
    Operations(
        "searches a vector store, which may be billed per search",
        ("/vector_stores/{}/search",),
    ),
    Operations(
        "begins a call by WebRTC or phone; a WebSocket that joins it by its id is metered",
        (
            "/live/sessions", "/live/sessions/{}/accept", "/live/sessions/{}/fork",
            "/realtime/calls", "/realtime/calls/{}/accept",
        ),
    ),
    Operations(
        "issues a secret with which a browser calls models past this process",
        (
            "/chatkit/sessions", "/realtime/client_secrets", "/realtime/sessions",
            "/realtime/transcription_sessions", "/realtime/translations/client_secrets",
        ),
    ),
    Operations(
        "may cost something; no price of it is known",
        ("/audio/voices", "/content_provenance_checks", "/videos/characters"),
    ),
)  # fmt: skip
