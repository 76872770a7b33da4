"""Prefect flows. They are thin: every task but ``drift`` runs a step of DVC's graph in a child process."""

import aigc_tasks  # noqa: F401 (before Prefect is imported: no statistics are sent)
