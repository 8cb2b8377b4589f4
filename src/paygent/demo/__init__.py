"""The demo: three users of a $49 plan over a simulated month, on real SDKs and a fake provider."""
