"""Anthropic's operations that are not metered, by the path of their POST request.

Everything that the SDK sends with another method only reads or removes what exists. Read from the
resources of the releases that docs/reference/surfaces.md names; a test fails for an operation of
the installed SDK that neither these tables nor `routes.py` contain.
"""

from __future__ import annotations

from paygent.client.instrument.http_sdks.route import Operations

FREE = (
    Operations(
        "counting tokens is free of charge",
        ("/messages/count_tokens",),
    ),
    Operations(
        "ends, pauses or archives work",
        (
            "/agents/{}/archive", "/deployments/{}/archive", "/deployments/{}/pause",
            "/dreams/{}/archive", "/dreams/{}/cancel", "/environments/{}/archive",
            "/environments/{}/work/{}/stop", "/memory_stores/{}/archive",
            "/messages/batches/{}/cancel", "/sessions/{}/archive",
            "/sessions/{}/threads/{}/archive", "/tunnels/{}/archive",
            "/tunnels/{}/certificates/{}/archive", "/vaults/{}/archive",
            "/vaults/{}/credentials/{}/archive",
        ),
    ),
    Operations(
        "administers an organization",
        (
            "/compliance/review/cases/{}/respond", "/organizations/api_keys/{}",
            "/organizations/claude_code/managed_settings/configuration",
            "/organizations/claude_code/managed_settings/rbac_group_default",
            "/organizations/claude_code/managed_settings/rbac_groups/{}",
            "/organizations/claude_tag/bundles/{}", "/organizations/claude_tag/bundles/{}/targets",
            "/organizations/claude_tag/slack_channels",
            "/organizations/claude_tag/slack_channels/{}",
            "/organizations/claude_tag/slack_workspaces/{}", "/organizations/compliance_settings",
            "/organizations/external_keys", "/organizations/external_keys/{}",
            "/organizations/external_keys/{}/validate", "/organizations/external_storage",
            "/organizations/external_storage/{}", "/organizations/external_storage/{}/activate",
            "/organizations/federation_issuers", "/organizations/federation_issuers/{}",
            "/organizations/federation_issuers/{}/archive", "/organizations/federation_rules",
            "/organizations/federation_rules/{}", "/organizations/federation_rules/{}/archive",
            "/organizations/federation_rules/{}/workspaces", "/organizations/invites",
            "/organizations/plugin_marketplaces/validate_archive",
            "/organizations/plugin_marketplaces/validate_repository",
            "/organizations/plugin_marketplaces/{}", "/organizations/plugins",
            "/organizations/plugins/{}", "/organizations/plugins/{}/installation_settings/{}",
            "/organizations/plugins/{}/versions",
            "/organizations/providers/google/projects/{}/data_controls",
            "/organizations/rbac_groups", "/organizations/rbac_groups/{}",
            "/organizations/rbac_groups/{}/members", "/organizations/service_accounts",
            "/organizations/service_accounts/{}", "/organizations/service_accounts/{}/archive",
            "/organizations/service_accounts/{}/workspaces",
            "/organizations/spend_limit_increase_requests/{}/approve",
            "/organizations/spend_limit_increase_requests/{}/deny", "/organizations/spend_limits",
            "/organizations/telemetry_destinations", "/organizations/telemetry_destinations/{}",
            "/organizations/telemetry_destinations/{}/test",
            "/organizations/telemetry_destinations/{}/workspaces/{}", "/organizations/users/{}",
            "/organizations/users/{}/sign_out", "/organizations/webhooks",
            "/organizations/webhooks/{}", "/organizations/webhooks/{}/regenerate_signing_secret",
            "/organizations/workspaces", "/organizations/workspaces/{}",
            "/organizations/workspaces/{}/archive", "/organizations/workspaces/{}/members",
            "/organizations/workspaces/{}/members/{}",
            "/organizations/workspaces/{}/rate_limits/{}",
            "/organizations/workspaces/{}/service_accounts",
            "/organizations/workspaces/{}/service_accounts/{}",
        ),
    ),
    Operations(
        "reports on work of an environment that the application runs itself",
        (
            "/environments/{}/work/{}", "/environments/{}/work/{}/ack",
            "/environments/{}/work/{}/heartbeat",
        ),
    ),
    Operations(
        "stores what later calls use; none of it is billed by the request",
        (
            "/files", "/memory_stores", "/memory_stores/{}", "/memory_stores/{}/memories",
            "/memory_stores/{}/memories/{}", "/memory_stores/{}/memory_versions/{}/redact",
            "/sessions/{}/resources", "/sessions/{}/resources/{}", "/skills", "/skills/{}/versions",
            "/user_profiles", "/user_profiles/{}", "/user_profiles/{}/action_urls",
            "/user_profiles/{}/enrollment_url", "/user_profiles/{}/providers/google/data_controls",
            "/vaults", "/vaults/{}", "/vaults/{}/credentials", "/vaults/{}/credentials/{}",
            "/vaults/{}/credentials/{}/mcp_oauth_validate",
        ),
    ),
    Operations(
        "defines or changes what an unmetered operation uses later",
        (
            "/agents", "/agents/{}", "/environments", "/environments/{}", "/sessions/{}",
            "/tunnels", "/tunnels/{}/certificates", "/tunnels/{}/reveal_token",
            "/tunnels/{}/rotate_token",
        ),
    ),
)  # fmt: skip

UNMETERED = (
    Operations(
        "runs an agent, now or on a schedule, in a session that is billed by its time",
        (
            "/deployments", "/deployments/{}", "/deployments/{}/run", "/deployments/{}/unpause",
            "/sessions", "/sessions/{}/events",
        ),
    ),
    Operations(
        "has a model reorganize a memory store",
        ("/dreams",),
    ),
)  # fmt: skip
