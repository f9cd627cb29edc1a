"""The admin process: metrics and health checks of a run over HTTP (the setting `admin`)."""
