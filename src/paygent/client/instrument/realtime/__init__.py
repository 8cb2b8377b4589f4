"""Web sockets: Realtime, Responses, Live and translations."""
