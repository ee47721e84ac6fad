"""Prefect flows around the stages."""

import os

# Read by Prefect when it is first imported. Nothing is sent to anyone unless a person turns it on.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
if "PREFECT_API_URL" not in os.environ:
    # On the temporary local server a terminal shows our own lines; a real server shows Prefect's.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    # Twenty seconds are too few on a machine whose cores are busy.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
